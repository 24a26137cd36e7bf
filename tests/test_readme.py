"""What the README shows is true: its Python runs and gives the values in its comments, its commands exist."""

import ast
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_writes import WritableHubServer
from real import ROOT, lite0, photos

from vertebra import SwinBackbone, SwinConfig, ViTImageProcessor
from vertebra.cli import build_parser, main

README = (ROOT / "README.md").read_text(encoding="utf-8")
SWIN = "microsoft/swin-tiny-patch4-window7-224"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def demo(tmp_path: Path, hub: WritableHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make demo` leaves, in the current folder, and on the hub a Swin as wide as Swin-T, of two stages."""
    shutil.copytree(lite0(), tmp_path / "demo/lite0")
    shutil.copytree(photos(), tmp_path / "demo/photos")
    SwinBackbone(SwinConfig(depths=[1, 1], num_heads=[3, 6], out_indices=(1, 2))).save_pretrained(tmp_path / "swin")
    ViTImageProcessor().save_pretrained(tmp_path / "swin")
    hub.add(SWIN, tmp_path / "swin")
    hub.account("hf_token", "somebody", "my-organisation")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.chdir(tmp_path)


def run(code: str, names: dict[str, Any]) -> int:
    """Run a block; each expression with a comment must have that value. Returns how many did."""
    checked = 0
    for node in ast.parse(code).body:
        source = ast.get_source_segment(code, node)
        _, _, comment = code.splitlines()[(node.end_lineno or 0) - 1].partition("  # ")
        if isinstance(node, ast.Expr) and comment:
            assert repr(eval(source or "", names)) == comment, source
            checked += 1
        else:
            exec(source or "", names)
    return checked


@pytest.mark.usefixtures("demo")
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")  # the hub client's own
def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line.partition("#")[0] for block in blocks("bash") for line in block.splitlines()]
    vertebras = [shlex.split(line)[1:] for line in commands if line.startswith("vertebra ")]
    assert len(vertebras) >= 3
    for arguments in vertebras:
        build_parser().parse_args(arguments)
        assert main(arguments) == 0
    speed = r", [\d.]+ s on cpu|[\d.]+(?= images/s)"
    printed = re.sub(speed, "", capsys.readouterr().out)
    (shown,) = blocks("text")
    assert printed.startswith(re.sub(speed, "", shown.partition("demo/pictures")[0]))
    names: dict[str, Any] = {}
    assert sum(run(block, names) for block in blocks("python")) >= 10


def test_make_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks("bash"):
        for target in re.findall(r"^make (\w+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link
    for name in re.findall(r"`(\w+\.py)`", README):
        assert (ROOT / "examples" / name).is_file(), name
    assert (ROOT / "docs/cat_stages.png").stat().st_size < 200_000


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("make --no-print-directory test")
