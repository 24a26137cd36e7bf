"""The command as a whole: help, wrong usage, errors without tracebacks."""

import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from real import lite0, photos

from vertebra.cli import extract, main


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from vertebra.cli import build_parser; build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "vertebra.cli.extract" in loaded
    assert not {"torch", "timm", "torchvision", "numpy", "PIL", "huggingface_hub"} & set(loaded)


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "vertebra.cli"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "extract" in done.stdout
    assert "picture" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--size", "big"], "'big' is not a size; write 320 for a square, or HEIGHTxWIDTH such as 320x512"),
        (["--size", "0"], "'0' is not a size"),
        (["--size", "320x"], "'320x' is not a size"),
        (["--indices", "1,two"], "'1,two' is not a list of whole numbers; write for example 1,2,3"),
        (["--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["--dtype", "int8"], "choose from"),
        (["--indices", "1", "--strides", "8"], "not allowed with argument"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["extract", "in", "out", "--model", "m", *arguments])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_model_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["extract", "in", "out"])
    assert "required: --model" in capsys.readouterr().err


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    return output.err


def test_errors_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = str(tmp_path / "out"), str(lite0())
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    whole = [str(photos()), out, "--model"]
    for arguments, text in (
        (["extract", "/no/where", out, "--model", model], "'/no/where' does not exist. A source is a folder"),
        (["extract", str(tmp_path / "empty"), out, "--model", model], "Files count by their ending: .avif"),
        (["extract", str(photos()), str(tmp_path / "file"), "--model", model], "is a file; give the folder"),
        (["extract", *whole, str(tmp_path / "absent")], "is not an existing folder"),
        (["extract", *whole, str(tmp_path / "empty")], "has no file 'config.json'"),
        (["extract", *whole, model, "--features", "blocks.9"], "'blocks.9', which is no stage. Did you mean 'blocks."),
        (["extract", *whole, model, "--indices", "5"], "allowed are -5 to 4"),
        (["extract", *whole, model, "--strides", "8,64"], "asks for stride 64, which no stage has"),
        (["extract", *whole, model, "--device", "gpu"], "device='gpu' cannot be used here"),
        (["picture", "/no/cat.png", "--model", model], "'/no/cat.png' is not an existing image file"),
        (["picture", str(lite0() / "config.json"), "--model", model], "cannot be decoded"),
    ):
        assert text in fails(arguments, capsys), arguments
    assert not (tmp_path / "out").exists()


def test_unknown_models_show_the_nearest(tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(["extract", str(photos()), str(tmp_path / "out"), "--model", "resnet5O"], capsys)
    assert "'resnet5O' is neither a local folder nor a repository on the hub" in error
    assert "Did you mean 'resnet50'" in error


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["picture", "/no/cat.png", "--model", "m", "--debug"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("error: '/no/cat.png' is not an existing image file.\n")


def test_short_memory_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def grow(args: object) -> int:
        raise MemoryError("There is not memory enough on cpu")

    monkeypatch.setattr(extract, "run", grow)
    assert fails(["extract", "in", "out", "--model", "m"], capsys) == "error: There is not memory enough on cpu\n"


def test_interruption_is_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "run", interrupt)
    assert main(["extract", "in", "out", "--model", "m"]) == 130
    assert capsys.readouterr().err == "interrupted; what is done stays, and the same command goes on\n"
