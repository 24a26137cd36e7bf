"""A store as one HTML page: what it holds, what the levels look like, and which patches are alike."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.extraction.show.data import page_data, store_name
from vertebra.files import write_text

if TYPE_CHECKING:
    from vertebra.extraction.store.feature_store import FeatureStore

TEMPLATE = Path(__file__).with_name("page.html")


def show(
    store: FeatureStore | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    images: int = 24,
    levels: Sequence[str] | None = None,
) -> Path:
    """Write one HTML page that shows a store. It needs no network and no other file, and may not use any.

    The page has the facts of the store, a sample of its images as the backbone got them, principal components of every level
    as colours (those of one level compare across images), norms with outliers, the quarantine, and for any patch that is
    clicked its cosine similarity to all others. It stays below 20 MB: vectors are kept in the directions that matter and
    large grids are averaged, both only as far as is needed; the page says so and by how much its cosines are off.

    Args:
        store: A store, or where one lies.
        path: The page; its folder is made when it does not exist. None: NAME.html in the current folder, for a store NAME.
        images: How many images are shown, taken evenly from the whole store; only these are read.
        levels: Names of the levels; None takes all.

    Returns:
        The path of the page.

    Raises:
        OSError: there is no store, or the page cannot be written.
        ValueError: a level that is not stored, more images than one page holds, or a path inside the store, which holds
            nothing else.
    """
    from vertebra.extraction.store.feature_store import FeatureStore

    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    name = store_name(str(opened.storage))
    page = Path(path or f"{name}.html").expanduser().absolute()
    _refuse_inside(page, opened)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render(page_data(opened, name, images, levels)))
    return page


def _refuse_inside(page: Path, store: FeatureStore) -> None:
    plan = store.storage.local("plan-0000.json")
    if plan is not None and plan.resolve().parent in page.resolve().parents:
        raise ValueError(
            f"{str(page)!r} is inside the store, where files of others are refused; give another place: "
            f"path={str(plan.resolve().parent) + '.html'!r}."
        )


def render(data: Mapping[str, Any]) -> str:
    """The page with its data. Whatever text the data hold, it stays text: nothing but the template's own script can run."""
    template = TEMPLATE.read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"script-src {_digest(template, 'script')}",
            f"style-src {_digest(template, 'style')}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {"policy": policy, "title": html.escape(str(data["name"])), "data": _json(data)}
    return re.sub(r"\{\{(policy|title|data)\}\}", lambda found: parts[found[1]], template)


def _digest(template: str, tag: str) -> str:
    """What names the template's own script or style in a policy."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    if found is None:
        raise ValueError(f"{str(TEMPLATE)!r} has no <{tag}>.")
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """JSON that may stand between tags: none of its characters can end them."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub(r"[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
