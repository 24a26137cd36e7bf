"""A broken installation is an error that says what to reinstall."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vertebra import environment


def test_this_installation_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    environment.check_torchvision()
    assert environment.main(["demo"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operator torchvision::nms does not exist"), ModuleNotFoundError("No module named 'torchvision'")],
)
def test_broken_torchvision(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        ImportError,
        match=r"torchvision \S+ cannot be imported beside torch \S+: .*pip install --force-reinstall torch torchvision",
    ) as caught:
        environment.check_torchvision()
    assert str(error) in str(caught.value)
    assert environment.main([]) == 1
    assert capsys.readouterr().err.startswith("error: torchvision")


def test_torchvision_of_another_build(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    command = [sys.executable, "-m", "vertebra.environment"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "operator torchvision::nms does not exist. The two must come from one build" in done.stderr


def test_missing_packages_follow_extras_of_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = [
        "torch>=2.6",
        "no-such-base",
        'no-such-demo==1; extra == "demo"',
        'no-such-ray; python_version > "3" and extra == "ray"',
        'vertebra[demo]; extra == "dev"',
    ]
    monkeypatch.setattr(environment, "requires", lambda name: needed)
    assert environment.missing_packages() == ["no-such-base"]
    assert environment.missing_packages(["dev"]) == ["no-such-base", "no-such-demo"]
    assert environment.main(["dev", "ray"]) == 1
    assert capsys.readouterr().err == "not installed: no-such-base, no-such-demo, no-such-ray\n"
