"""Which engine is taken: measured, remembered, refused; and what optimize() does not take."""

import copy
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import SMALL, Plain, probe
from oracle import close
from torch import Tensor

from vertebra import (
    AutoBackbone,
    BertConfig,
    BertModel,
    ResNetConfig,
)
from vertebra.optimization import optimize as module
from vertebra.optimization.engines import ENGINES
from vertebra.optimization.engines.base import Engine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "engines"


@pytest.fixture
def model() -> Any:
    return AutoBackbone.from_config(ResNetConfig(**SMALL, out_indices=[1])).eval()


def use(monkeypatch: pytest.MonkeyPatch, *engines: Engine) -> None:
    monkeypatch.setattr("vertebra.optimization.engines.ENGINES", {engine.name: engine for engine in engines})
    monkeypatch.setattr(module, "ENGINES", {engine.name: engine for engine in engines})


def slow_eager(monkeypatch: pytest.MonkeyPatch, model: Any, wait: float) -> None:
    def forward(pixel_values: Tensor, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            time.sleep(wait)
        return embed(pixel_values, **kwargs)

    embed = model.embedder.forward
    monkeypatch.setattr(type(model.embedder), "forward", lambda self, pixels: forward(pixels))


def test_the_fastest_right_engine_is_taken_and_remembered(
    model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow_eager(monkeypatch, model, 0.2)
    engines = (
        Plain("slow", wait=0.06),
        Plain("fast", wait=0.02),
        Plain("wrong", off=1e-3),
        Plain("broken", fails="no such operation\nand more"),
        Plain("missing", packages=("no_such_package",)),
        Plain("elsewhere", devices=("cuda",)),
    )
    use(monkeypatch, *engines)
    found = model.optimize(image_size=32).optimization
    assert found.backend == "fast"
    assert not found.remembered
    assert sorted(found.seconds, key=lambda name: found.seconds[name]) == ["fast", "slow", "eager"]
    assert found.refused == {
        "missing": "it needs no_such_package (pip install 'vertebra[optimize]')",
        "elsewhere": "it runs on cuda here, and the model is on cpu",
        "broken": "NotImplementedError: no such operation",
        "wrong": "its outputs differ by 1.0e-03 of the largest value; 1e-04 is allowed",
    }
    said = capsys.readouterr().err
    assert "vertebra.optimize: slow: compiling" in said
    assert "vertebra.optimize: broken: not used, NotImplementedError: no such operation" in said
    (kept,) = folder.iterdir()
    assert json.loads(kept.read_text())["backend"] == "fast"

    before = engines[0].compiled
    again = model.optimize(image_size=32, verbose=False).optimization
    assert (again.backend, again.remembered, again.seconds) == ("fast", True, {})
    assert engines[0].compiled == before
    other = model.optimize(image_size=32, batch_size=2, verbose=False).optimization
    assert (other.shape, other.remembered) == ((2, 3, 32, 32), False)
    assert capsys.readouterr().err == ""


def test_what_was_the_fastest_and_fails_now_is_left(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow_eager(monkeypatch, model, 0.2)
    first, second = Plain("first"), Plain("second", wait=0.05)
    use(monkeypatch, first, second)
    assert model.optimize(image_size=32, verbose=False).optimization.backend == "first"
    for trouble in ({"fails": "no more"}, {"off": 1e-3}):
        first.fails, first.off = trouble.get("fails", ""), trouble.get("off", 0.0)
        found = model.optimize(image_size=32).optimization
        assert (found.backend, found.remembered, [*found.refused]) == ("second", False, ["first"])
        assert ("was the fastest before, and fails now: no more" in capsys.readouterr().err) == ("fails" in trouble)
        first.fails, first.off = "", 0.0
        for kept in (Path(os.environ["VERTEBRA_CACHE"]) / "engines").iterdir():
            kept.unlink()
        assert model.optimize(image_size=32, verbose=False).optimization.backend == "first"


def test_the_model_itself_is_taken_where_nothing_is_faster(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Plain("slow", wait=0.2))
    for remembered in (False, True):
        fast = model.optimize(image_size=32, verbose=False)
        assert (fast.optimization.backend, fast.optimization.remembered) == ("eager", remembered)
        pixels = torch.randn(1, 3, 40, 40)
        with torch.no_grad():
            torch.testing.assert_close(fast(pixels).feature_maps, model(pixels).feature_maps, rtol=0, atol=0)


def test_the_fastest_of_those_named_is_taken(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_eager(monkeypatch, model, 0.1)
    missing, broken = Plain("missing", packages=("no_such_package",)), Plain("broken", fails="no")
    use(monkeypatch, Plain("slow", wait=0.3), Plain("fast"), missing, broken)

    def optimized(*names: str, **kwargs: Any) -> Any:
        return model.optimize(names, image_size=32, verbose=False, **kwargs).optimization

    for names, taken in ((("eager", "slow"), "eager"), (("slow", "fast"), "fast"), (("eager", "broken"), "eager")):
        for remembered in (False, True):
            found = optimized(*names)
            assert (found.backend, found.remembered) == (taken, remembered)
            assert remembered or set(found.seconds) == ({*names} if "broken" not in names else set())
    assert optimized("eager") == model.optimize("eager", image_size=32, verbose=False).optimization
    assert str(optimized("eager")) == "eager in float32 for images of 1x3x32x32"
    with pytest.raises(
        ImportError, match=r"backend='missing' cannot be used: it needs no_such_package .*Here work: slow, fast,"
    ):
        optimized("fast", "missing")
    with pytest.raises(
        ValueError, match=r"backend='eager' cannot be used: the model itself computes in float32\. None of"
    ):
        optimized("eager", "fast", dtype="bfloat16")
    with pytest.raises(
        ValueError,
        match=r"'fats' is not known\. Did you mean 'fast'\? It is 'auto' by itself, or one or several of eager, slow, ",
    ):
        optimized("eager", "fats")
    with pytest.raises(
        ValueError, match=r"backend=\(\): '' is not known\. It is 'auto' by itself, or one or several of eager"
    ):
        optimized()
    with pytest.raises(
        ValueError, match=r"backend=3: '3' is not known\. It is 'auto' by itself, or one or several of eager"
    ):
        model.optimize(3)
    with pytest.raises(ValueError, match=r"'auto' is not known\. It is 'auto' by itself, or"):
        model.optimize(["auto", "eager"])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"backend": 3}', '{"backend": "gone"}', "x" * 2**21])
def test_a_damaged_memory_is_measured_again(
    content: str, model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Plain("only"))
    model.optimize(image_size=32, verbose=False)
    (kept,) = folder.iterdir()
    kept.write_text(content)
    assert not model.optimize(image_size=32, verbose=False).optimization.remembered
    assert json.loads(kept.read_text())["backend"] in ("only", "eager")


def test_a_memory_that_cannot_be_written_is_said(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    use(monkeypatch, Plain("only"))
    with caplog.at_level(logging.WARNING, "vertebra"):
        model.optimize(image_size=32, verbose=False)
    assert "The fastest engine is not remembered" in caplog.text


def test_bfloat16_prefers_what_is_near_enough(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"dtypes": (torch.float32, torch.bfloat16)}
    use(monkeypatch, Plain("far", off=0.03, **both), Plain("near", off=0.005, wait=0.05, **both))
    found = model.optimize(image_size=32, dtype="bfloat16", verbose=False).optimization
    assert (found.backend, list(found.refused)) == ("near", ["far"])
    use(monkeypatch, Plain("far", off=0.03, **both), Plain("farther", off=0.1, **both))
    found = model.optimize(image_size=32, batch_size=2, dtype="bfloat16", verbose=False).optimization
    assert found.backend == "far"
    assert found.error == pytest.approx(0.03, rel=0.01)
    use(monkeypatch, Plain("single"))
    with pytest.raises(
        RuntimeError, match=r"No engine computes ResNetBackbone in torch.bfloat16: .*computes in float32"
    ):
        model.optimize(image_size=32, batch_size=3, dtype="bfloat16", verbose=False)


@pytest.mark.parametrize("off", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_no_rounding_is_refused_in_every_dtype(dtype: str, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoBackbone.from_config(ResNetConfig(**SMALL, out_indices=[0, 1])).eval()
    use(monkeypatch, Plain("bad", off=off, last=True, dtypes=(torch.float32, torch.bfloat16)))
    for backend in ("bad", "auto"):
        if (dtype, backend) == ("float32", "auto"):
            found = model.optimize(image_size=32, dtype=dtype, verbose=False).optimization
            assert (found.backend, [*found.refused], found.seconds) == ("eager", ["bad"], {})
        else:
            with pytest.raises(RuntimeError, match="its outputs differ by"):
                model.optimize(backend, image_size=32, dtype=dtype, verbose=False)


def test_an_engine_asked_for_by_name_says_why_it_cannot(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Plain("wrong", off=1e-3), Plain("missing", packages=("no_such_package",)), Plain("single"))
    with pytest.raises(
        RuntimeError, match=r"backend='wrong': its outputs differ by 1.0e-03 of the largest value; 1e-04 is"
    ):
        model.optimize("wrong", verbose=False)
    with pytest.raises(
        ImportError, match=r"backend='missing' cannot be used: it needs no_such_package .*Here work: wrong,"
    ):
        model.optimize("missing", verbose=False)
    with pytest.raises(ValueError, match=r"backend='single' cannot be used: it computes in float32 here"):
        model.optimize("single", dtype="bfloat16", verbose=False)


def test_an_engine_may_compute_the_backbone_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole is slower, wrong or cannot be captured; by name as well as of all."""
    model = probe().eval()
    pixels = torch.randn(2, 3, 32, 32)
    for trouble in ({"wait": 0.3}, {"off": 1e-2}, {"fails": "no"}):
        engine = Plain("only", whole=trouble)
        use(monkeypatch, engine)
        for remembered in (False, True):
            fast = model.optimize("only", image_size=32, verbose=False)
            found = fast.optimization
            assert (found.backend, found.part, found.remembered) == ("only", "backbone", remembered)
            assert len(found.seconds) in (0, 2), "what was not measured has no time"
            assert str(found).startswith("only for the backbone in float32 for images of 1x3x32x32")
            with torch.no_grad():
                close(fast(pixels).logits, model(pixels).logits)
        for kept in folder.iterdir():
            kept.unlink()
    plain = fast.optimize("only", image_size=32, verbose=False)
    assert plain.optimization.part == "backbone"
    with torch.no_grad():
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.mul_(1.1)
        fast.load_state_dict(twin.state_dict(), assign=True)
        close(fast(pixels).logits, twin(pixels).logits)


def test_a_compiler_is_needed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"backend='inductor' cannot be used: it needs a C\+\+ compiler"):
        model.optimize("inductor", verbose=False)


def test_what_cannot_be_optimized(model: Any) -> None:
    assert list(ENGINES) == ["inductor", "openvino", "onnxruntime"]
    with pytest.raises(ValueError, match=r"backend='openvin': 'openvin' is not known. Did you mean 'openvino'\?"):
        model.optimize("openvin")
    with pytest.raises(ValueError, match=r"this ResNetBackbone is in training mode: call model.eval\(\) before"):
        model.train().optimize()
    model.eval()
    with pytest.raises(ValueError, match=r"dtype=torch.float16 must be torch.float32 or torch.bfloat16"):
        model.optimize(dtype="float16")
    with pytest.raises(ValueError, match=r"batch_size=0 must be a whole number of images, at least 1"):
        model.optimize(batch_size=0)
    with pytest.raises(
        ValueError, match=r"those of this ResNetBackbone are torch.bfloat16: load them with dtype='float32'"
    ):
        model.to(torch.bfloat16).optimize()
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).eval()
    with pytest.raises(ValueError, match=r"optimize\(\) takes models of images; BertModel takes input_ids"):
        bert.optimize()
