"""Model cards: what is known about a model's weights, what is not, and code that loads them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vertebra.stages import Stage, stride_text

_MARK = "<!-- Written by vertebra, {}. push_to_hub renews this card until somebody edits it. -->\n"
_IMAGES = (
    'Real images go through the image processor, `AutoImageProcessor.from_pretrained("{repo_id}")`, '
    "where this repository has its settings (`preprocessor_config.json`) or the configuration implies them."
)
_MARKED = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{16})") + r"\Z")


@dataclass(frozen=True)
class CardFacts:
    """What a model knows about itself.

    Args:
        summary: What goes in and what comes out, one sentence.
        facts: Name and value of what is known.
        pixels: `(channels, height, width)` of an image the model runs on.
        example: Arguments that the model runs on, as Python; such an image when empty.
        preparation: How real inputs are prepared; `{repo_id}` stands for where the model will be.
        show: Lines of Python that print `output`, the result of a forward.
        stages: Every stage and what becomes of it.
        base_model: Hub id the weights were loaded from, or None.
        upstream_license: License that timm's description of the architecture's weights names, or None.
    """

    summary: str
    facts: Mapping[str, str]
    pixels: tuple[int, int, int]
    show: str = "print(output)"
    stages: Sequence[tuple[Stage, str]] = field(default=())
    base_model: str | None = None
    upstream_license: str | None = None
    example: str = ""
    preparation: str = _IMAGES


def write_card(
    facts: CardFacts,
    *,
    repo_id: str,
    model_class: type[object],
    pipeline_tag: str,
    tags: Sequence[str],
    license: str | None,
) -> str:
    """Return the text of a card: YAML front matter and Markdown, marked with a digest of itself."""
    from huggingface_hub import ModelCardData

    base_model = facts.base_model if facts.base_model != repo_id else None
    data = ModelCardData(
        library_name="vertebra",
        pipeline_tag=pipeline_tag,
        tags=list(dict.fromkeys(("vertebra", *tags))),
        license=license,
        base_model=base_model,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.rpartition('/')[2]}",
        f"`{model_class.__name__}` of vertebra: {facts.summary}",
        *([_table(("stage", "channels", "stride", "map"), map(_stage_row, facts.stages))] if facts.stages else []),
        _table(("", ""), facts.facts.items()),
        "## Use",
        _code(facts, repo_id, model_class),
        facts.preparation.format(repo_id=repo_id),
        "## Not known",
        "Nobody has filled these in; the files do not say.",
        "\n".join(_unknown(facts, base_model, license)),
    ]
    text = "\n\n".join(sections) + "\n\n"
    return text + _MARK.format(_digest(text))


def is_untouched(card: Path) -> bool:
    """Whether a card is one of `write_card`'s that nobody has edited since."""
    text = card.read_text(encoding="utf-8", errors="replace")
    mark = _MARKED.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _stage_row(entry: tuple[Stage, str]) -> Sequence[str]:
    stage, role = entry
    return f"`{stage.name}`", str(stage.channels), stride_text(stage.stride), role


def _code(facts: CardFacts, repo_id: str, model_class: type[object]) -> str:
    import vertebra

    name = model_class.__name__
    public = name in dir(vertebra) and getattr(vertebra, name) is model_class
    module = "vertebra" if public else model_class.__module__
    note = "" if public else f"# {name} is not part of vertebra's public names; its code is not in this repository.\n"
    example = facts.example or f"torch.rand({', '.join(map(str, (1, *facts.pixels)))})"
    return (
        f"```python\nimport torch\n{note}from {module} import {name}\n\n"
        f'model = {name}.from_pretrained("{repo_id}")\n'
        f"with torch.no_grad():\n    output = model({example})\n{facts.show}\n```"
    )


def _unknown(facts: CardFacts, base_model: str | None, license: str | None) -> list[str]:
    unknown = ["- Training data, training procedure and evaluation."]
    if base_model is None:
        unknown.insert(0, "- What the weights started from.")
    else:
        unknown.insert(
            0, f"- Whether and how the weights differ from those of `{base_model}`, from which they were loaded."
        )
    if license is None and facts.upstream_license is None:
        unknown.append("- License.")
    elif license is None:
        unknown.append(
            f"- License. timm's description of weights of this architecture names `{facts.upstream_license}`; whether "
            f"that holds for these is not recorded."
        )
    return unknown
