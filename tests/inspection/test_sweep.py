"""The sweep: what it counts, what it says of failures, and its exit code. The whole of timm is `make sweep`."""

import json
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm_names import SHALLOW

from vertebra import AutoConfig, Stage, TimmBackbone
from vertebra.backbones.timm_models import EXCEPTIONS
from vertebra.inspection import sweep
from vertebra.inspection.facts import NoDraws
from vertebra.inspection.sweep import Row, check, main, summary, table

GOOD = Row("resnet18", "ResNet", (224, 224), "meta", 0.1, (), ())


def test_a_part_of_timm_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--filter", "test_resn*", "--json", str(tmp_path / "rows.json")]) == 0
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in content["architectures"]] == ["test_resnet"]
    assert content["summary"]["every claim holds"] == content["summary"]["architectures"] == 1
    assert content["architectures"][0]["size"] == [160, 160]
    assert capsys.readouterr().out.startswith("1 architectures of 1 classes in ")


def check_shallow(name: str, model_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Row:
    """As `check`, with fewer blocks."""
    monkeypatch.setattr(AutoConfig, "for_model", partial(AutoConfig.for_model, model_args=model_args))
    return check(name)


def test_expected_exceptions_are_no_failures_and_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    row = check_shallow("crossvit_tiny_240", SHALLOW["CrossVit"], monkeypatch)
    assert row.failures == ()
    assert all(text.endswith(f"({EXCEPTIONS['CrossVit']['gradients']})") for text in row.expected)
    assert any("pruned to blocks.0@0" in text for text in row.expected)
    text = table([row, GOOD])
    assert f"expected: {EXCEPTIONS['CrossVit']['gradients']} (1 architectures)" in text
    assert "ResNet" not in text


def test_patches_that_do_not_divide_the_image_are_an_expected_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    row = check_shallow("vit_so400m_patch14_siglip_384", {"depth": 3}, monkeypatch)
    assert row.failures == ()
    assert row.neck == "SimpleFeaturePyramid"
    assert len(row.expected) == 1
    assert row.expected[0].endswith("(patches do not divide the image, whose border timm cuts off)")


def test_a_false_claim_is_found_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = TimmBackbone.describe_stages

    def lie(self: TimmBackbone) -> Iterable[Stage]:
        *others, last = truth(self)
        return [*others, replace(last, channels=7)]

    monkeypatch.setattr(TimmBackbone, "describe_stages", lie)
    assert main(["--filter", "test_resnet", "--processes", "1"]) == 1
    output = capsys.readouterr().out
    assert "FAILED test_resnet: layer4: (7, 5, 5) is claimed and (" in output
    assert "0 every claim holds, 0 expected exceptions, 1 failed" in output


def test_an_error_is_a_failure_of_that_architecture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(sweep, "verify", breaks)
    rows = list(sweep.sweep(["test_resnet", "test_vit"], processes=1))
    assert [row.failures for row in rows] == [("RuntimeError: no such luck",)] * 2
    assert [row.kind for row in rows] == ["ResNet", "VisionTransformer"]


def test_many_failures_are_cut_and_counted() -> None:
    bad = replace(GOOD, name="bad", failures=tuple(f"claim {number}" for number in range(5)))
    assert "FAILED bad: claim 2\n    FAILED bad: … and 2 more; --json lists them" in table([bad, GOOD])
    assert summary([bad, GOOD])["failed"] == 1


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--filter", "resnet5O"]) == 2
    assert "matches no architecture of timm. Did you mean 'resnet50'" in capsys.readouterr().err
    assert main(["--processes", "0"]) == 2


def test_a_killed_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "check", die)
    with pytest.raises(RuntimeError, match=r"killed with 1 architectures to go; memory may have run out"):
        list(sweep.sweep(["test_resnet"]))


def die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_only_draws_on_the_meta_device_are_skipped() -> None:
    with NoDraws(), torch.no_grad():
        assert torch.zeros(3).uniform_(1, 2).min() >= 1
        meta = torch.empty(3, device="meta")
        assert meta.normal_() is meta
    with NoDraws():
        weight = torch.ones(3, device="meta", requires_grad=True)
        (weight * 2).clamp_(0, 1).sum().backward()
        assert weight.grad is not None
