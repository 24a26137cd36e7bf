"""`vertebra compare`: the exit code says whether two backbones are equal, the output where they part."""

import json
from pathlib import Path

import pytest
import torch
from real import lite0, photos, tiny_backbone, tiny_processor

from vertebra.cli import main

CHANGED = "encoder.stages.1.layers.0.layer.0.convolution"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """A checkpoint, and one with another weight."""
    backbone = tiny_backbone(out_indices=[0, 2])
    tiny_processor().save_pretrained(tmp_path / "one")
    backbone.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        backbone.get_submodule(CHANGED).weight.mul_(1.5)
    backbone.save_pretrained(tmp_path / "two")
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_equal_is_0(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", folders[0], folders[0], "--size", "32x48"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folders[0]} and {folders[0]} on pixels 2x3x32x48: equal within 1e-05"
    assert lines[1].split() == "stem error 0, relative 0, cosine 1.000000000".split()
    assert lines[-1] == "first     none differs"


def test_different_is_1(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(path) for path in sorted(photos().iterdir())[:2]]
    assert main(["compare", *folders, *images, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["pixels"] == [2, 3, 32, 48]
    assert content["first"]["a"] == CHANGED
    assert [level["difference"]["error"] == 0 for level in content["levels"]] == [True, False]
    assert main(["compare", *folders, "--indices=0"]) == 0
    assert main(["compare", folders[0], folders[0], "--dtype-b", "bfloat16"]) == 1
    assert main(["compare", folders[0], folders[0], "--dtype-b", "bfloat16", "--tolerance", "0.1"]) == 0


def test_errors_teach(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        ([folders[0], str(lite0())], "The selections do not match"),
        ([folders[0], "/no/where"], "is not an existing folder"),
        ([*folders, "/no/cat.png"], "'/no/cat.png' is not an existing image file"),
        ([*folders, "--dtype-a", "int8"], "dtype='int8' must be a floating-point dtype"),
        ([*folders, "--strides", "64"], "asks for stride 64, which no stage has"),
    ):
        assert main(["compare", *arguments]) == 1, arguments
        output = capsys.readouterr()
        assert output.out == ""
        assert text in output.err, arguments
