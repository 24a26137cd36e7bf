"""The classifier of sentences trains, is saved and loaded, and judges sentences it has not seen."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from real import ROOT

from vertebra import DistilBertConfig

DISTILBERT = "distilbert/distilbert-base-uncased"


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["classify_text", *arguments])
    runpy.run_path(str(ROOT / "examples/classify_text.py"), run_name="__main__")


def check(output: str) -> None:
    header, *rows = output.splitlines()
    assert re.fullmatch(r"DistilBertModel: 12 heads, [\d,]+ parameters", header)
    losses = [float(row.split()[-1]) for row in rows if row.startswith("step")]
    assert losses[0] > 0.6
    assert losses[-1] < 0.2
    assert [row.split()[0] for row in rows[-2:]] == ["good", "bad"]
    assert all(float(row.split()[1]) > 0.8 for row in rows[-2:])


def test_offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hub: HubServer) -> None:
    run(monkeypatch=monkeypatch)
    check(capsys.readouterr().out)
    assert hub.requests == []


def test_from_a_checkpoint_s_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hub: HubServer, tmp_path: Path
) -> None:
    DistilBertConfig(dim=96, n_heads=6, n_layers=2, hidden_dim=96).save_pretrained(tmp_path)
    hub.add(DISTILBERT, tmp_path)
    run(DISTILBERT, monkeypatch=monkeypatch)
    check(capsys.readouterr().out)
    assert {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path} == {
        "config.json"
    }
