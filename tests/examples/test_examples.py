"""The examples run as they are."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from real import ROOT, lite0, photos

from vertebra import SwinBackbone, SwinConfig, ViTImageProcessor

SWIN = "microsoft/swin-tiny-patch4-window7-224"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


@pytest.fixture
def swin_on_the_hub(tmp_path: Path, hub: HubServer) -> None:
    """Swin-T's configuration with random weights, served under its id."""
    SwinBackbone(SwinConfig(out_indices=(1, 2, 3, 4))).save_pretrained(tmp_path / "swin")
    ViTImageProcessor().save_pretrained(tmp_path / "swin")
    hub.add(SWIN, tmp_path / "swin")


@pytest.mark.usefixtures("swin_on_the_hub")
def test_quickstart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("quickstart", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "['stage1'] [96] [4]\n[1, 96, 56, 56]\n"


def test_swap_backbone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("swap_backbone", monkeypatch=monkeypatch)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    for name, row in zip(("Swin-T", "ResNet-18", "ConvNeXt-T"), table[1:], strict=True):
        assert row.startswith(name)
        assert "[8, 16, 32]" in row
        assert row.endswith("(1, 21, 28, 28)")


def test_swap_backbone_takes_checkpoints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("swap_backbone", str(lite0()), monkeypatch=monkeypatch)
    assert re.search(r"\[8, 16, 32\] +\[40, 112, 320\] +31,765  \(1, 21, 28, 28\)\n$", capsys.readouterr().out)


def test_classify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("classify", str(photos()), "--model", str(lite0()), monkeypatch=monkeypatch)
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["cat.png", "daisy.jpg", "espresso.png", "moped.png", "palace.jpg"]
    assert rows[1][1] == "daisy"
    assert rows[4][1] == "palace"


def test_detect_with_torchvision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("detect_with_torchvision", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step ")]
    assert len(losses) == 16
    assert losses[-1] < 0.7 * losses[0]
    assert len(lines) == 16 + 5


def test_compose_segmenter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("compose_segmenter", monkeypatch=monkeypatch)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["backbone", "head"]
    heads = [("Swin", "UperNet"), ("Swin", "MaskFormer"), ("ResNet", "UperNet"), ("ResNet", "MaskFormer")]
    heads += [("ViT", "UperNet"), ("ViT", "MaskFormer")]
    for (backbone, head), row in zip(heads, rows, strict=True):
        assert row.startswith(backbone)
        assert f" {head} " in row
        assert row.endswith("  equal")


def test_register_your_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from vertebra.auto import registry

    monkeypatch.setattr(registry, "_configs", dict(registry._configs))
    monkeypatch.setattr(registry, "_models", {task: dict(models) for task, models in registry._models.items()})
    run("register_your_own", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "['level0', 'level1'] [16, 32] [2, 4] 5,088 parameters"
    assert lines[1].endswith("at 224x320: every claim holds")
    assert lines[4].split() == ["2", "level2", "64", "channels", "stride", "8", "(2,", "64,", "28,", "40)"]
    source = ast.parse((ROOT / "examples/register_your_own.py").read_text())
    docstrings = {
        number
        for node in ast.walk(source)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    code = {number for node in ast.walk(source) if isinstance(node, ast.stmt) for number in lines_of(node)} - docstrings
    assert len(code) < 40


def lines_of(node: ast.stmt) -> range:
    """The lines of a statement; of a compound one its first line alone."""
    return range(node.lineno, (node.lineno if hasattr(node, "body") else node.end_lineno) + 1)
