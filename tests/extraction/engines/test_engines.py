"""What is asked of an engine is checked before anything is planned."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from real import photos, tiny_backbone, tiny_processor

from vertebra.extraction.engines import check_engine
from vertebra.extraction.extract import extract

WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("locale", {}, ValueError, r"engine='locale' must be one of inline, local, ray\. Did you mean 'local'\?"),
    ("inline", {"workers": 2}, ValueError, "the engine 'inline' is this one; take the engine 'local'"),
    ("inline", {"engine_options": {"stall": 3}}, ValueError, "The engine 'inline' has no option 'stall'; it has none"),
    ("local", {"workers": 0}, ValueError, r"workers=0 must be at least 1"),
    ("local", {"devices": ["cpu", "cuda:77"]}, ValueError, "device='cuda:77' cannot be used here"),
    ("local", {"engine_options": {"stal": 3}}, ValueError, r"no option 'stal'; it has stall\. Did you mean 'stall'\?"),
    ("local", {"engine_options": {"stall": -1}}, ValueError, "stall=-1 must be more than 0 seconds"),
    ("ray", {"devices": ["cuda:1"]}, ValueError, r"devices=\['cuda:1'\] must be \['cuda'\] or \['cpu'\]"),
    (
        "ray",
        {"engine_options": {"gpus": 1.5}},
        ValueError,
        "gpus=1.5 must be a share of a GPU, such as 0.5, or a whole",
    ),
    ("ray", {"engine_options": {"address": "head"}}, ValueError, "address='head' must be HOST:PORT, or 'auto'"),
]


@pytest.mark.parametrize(("engine", "options", "kind", "text"), WRONG)
def test_what_is_wrong_is_said_before_the_plan(
    engine: str, options: dict[str, Any], kind: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=text):
        extract(
            photos(), tmp_path / "out", tiny_backbone(out_features=["stem"]), tiny_processor(), engine=engine, **options
        )
    assert not (tmp_path / "out").exists()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"The engine 'ray' needs Ray: pip install 'vertebra\[ray\]'\."):
        check_engine("ray")


def test_nobody_at_the_address() -> None:
    """Ray itself would try for minutes, and then end the process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConnectionError, match=f"There is no Ray cluster at address='{address}': .*refused.*ray start"
        ):
            check_engine("ray", options={"address": address})
