"""An optimized model beside the plain one: kinds of call, and everything that is not a forward. The engine is torch itself."""

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import pytest
import torch
from engine_cases import Plain, optimized, resnet, swin, upernet
from oracle import close, perturb, same
from tiny import RESNET

from vertebra import (
    FPN,
    AutoBackbone,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    TimmBackboneConfig,
)
from vertebra.optimization.engines import ENGINES


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[Plain]:
    """An engine of the name `plain`, for as long as these tests run."""
    ENGINES["plain"] = Plain("plain")
    yield ENGINES["plain"]
    del ENGINES["plain"]


@pytest.fixture(scope="module")
def pair(engine: Plain) -> tuple[Any, Any]:
    """A plain backbone, and what is optimized of it; tests do not change them."""
    plain = swin()
    return plain, optimized(plain, "plain")


@pytest.fixture(scope="module")
def short(engine: Plain) -> tuple[Any, Any]:
    """The same of a network that is captured quickly."""
    plain = resnet(out_indices=[1])
    return plain, optimized(plain, "plain")


def test_all_that_a_call_may_ask_for(pair: tuple[Any, Any]) -> None:
    plain, fast = pair
    pixels = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        expected = plain(pixels, output_hidden_states=True, output_attentions=True)
        found = fast(pixels, output_hidden_states=True, output_attentions=True)
        as_tuple = fast(pixels, None, None, False)
    assert list(found) == list(expected)
    for name, value in expected.items():
        close(found[name], value, name=name)
    assert type(found) is type(expected)
    close(as_tuple, (expected.feature_maps,))


def test_it_is_the_model_it_was_made_of(tmp_path: Path) -> None:
    plain = resnet(out_indices=[2, 4], freeze="stage1")
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    fast = optimized(plain, "plain")
    assert isinstance(fast, ResNetBackbone)
    assert type(plain) is ResNetBackbone
    assert (fast.out_features, fast.channels, fast.strides) == (["stage2", "stage4"], [16, 64], [8, 32])
    assert fast.num_parameters() == plain.num_parameters()
    assert str(fast.frozen_report()) == str(plain.frozen_report())
    fast.save_pretrained(tmp_path)
    again = AutoBackbone.from_pretrained(tmp_path)
    assert type(again) is ResNetBackbone
    for state in (plain.state_dict(), fast.state_dict(), again.state_dict()):
        assert state.keys() == before.keys()
        same(list(state.values()), list(before.values()))


def test_a_selection_may_be_narrowed() -> None:
    plain, pixels = resnet(), torch.randn(1, 3, 32, 32)
    fast = optimized(plain, "plain")
    for indices in ([4], [1, 2]):
        other = copy.deepcopy(fast)
        other.out_indices = indices
        with torch.no_grad():
            close(other(pixels).feature_maps, [plain(pixels).feature_maps[index - 1] for index in indices])
    with pytest.raises(ValueError, match="asks for stages this pruned backbone was not built with"):
        other.out_indices = [0]


def test_changed_weights_are_compiled_anew() -> None:
    plain, other = (resnet(out_indices=[1]) for _ in range(2))
    pixels = torch.randn(1, 3, 32, 32)
    fast, state = optimized(plain, "plain"), perturb(other, seed=1).state_dict()

    def agree() -> None:
        with torch.no_grad():
            close(fast(pixels).feature_maps, plain(pixels).feature_maps)

    for model in (plain, fast):
        model.load_state_dict(state)
    agree()
    with torch.no_grad():
        for model in (plain, fast):
            model.embedder.embedder.convolution.weight.mul_(2)
    agree()
    for model in (plain, fast):
        model.load_state_dict({name: tensor + 0.1 for name, tensor in state.items()}, assign=True)
    agree()


def test_copies_and_pickles_compile_for_themselves(short: tuple[Any, Any]) -> None:
    plain, fast = short
    pixels = torch.randn(1, 3, 32, 32)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert isinstance(other, ResNetBackbone)
        assert str(other.optimization) == str(fast.optimization)
        assert len(other._graphs) == 0
        with torch.no_grad():
            close(other(pixels).feature_maps, plain(pixels).feature_maps)
        assert len(other._graphs) == 1


def test_it_stays_in_evaluation_mode(pair: tuple[Any, Any]) -> None:
    around = torch.nn.Sequential(copy.deepcopy(pair[1]))
    around.train()
    assert around.training
    assert not any(module.training for module in around[0].modules())


def test_gradients_of_images_come_from_the_plain_forward(pair: tuple[Any, Any]) -> None:
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    gradients = [torch.autograd.grad(model(pixels).feature_maps[-1].square().sum(), pixels)[0] for model in pair]
    close(*gradients)
    assert gradients[0].abs().max() > 0


def test_what_captures_or_watches_it_sees_the_plain_forward(pair: tuple[Any, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    plain, fast = pair
    pixels = torch.randn(1, 3, 32, 32)
    counts = []
    for model in pair:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(pixels)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    program = torch.export.export(fast, (pixels,))
    with torch.no_grad():
        close(program.module()(pixels).feature_maps, plain(pixels).feature_maps)


def test_one_graph_for_the_first_batch_and_one_for_all_others(short: tuple[Any, Any]) -> None:
    plain, fast = copy.deepcopy(short)
    with torch.no_grad():
        for batch, graphs in ((3, 1), (1, 2), (2, 2), (5, 2), (3, 2)):
            pixels = torch.randn(batch, 3, 32, 32)
            close(fast(pixels).feature_maps, plain(pixels).feature_maps)
            assert len(fast._graphs) == graphs


def test_threads_do_not_mix_their_images(short: tuple[Any, Any]) -> None:
    plain, fast = copy.deepcopy(short)
    batches = [torch.randn(1 + index % 3, 3, *((32, 32) if index % 2 else (40, 36))) for index in range(12)]
    with ThreadPoolExecutor(4) as threads, torch.no_grad():
        expected = [plain(pixels).feature_maps for pixels in batches]
        found = list(threads.map(lambda pixels: [tensor.detach() for tensor in fast(pixels).feature_maps], batches))
    close(found, expected)


def test_calls_wait_while_another_thread_captures() -> None:
    plain = resnet(out_indices=[1])
    capturing, calls = Event(), [torch.randn(1, 3, 40, 36), torch.randn(2, 3, 32, 32)]

    def linger(*_: Any) -> None:
        if torch.compiler.is_exporting():
            capturing.set()
            sleep(0.2)

    plain.embedder.register_forward_hook(linger)
    fast = optimized(plain, "plain")
    capturing.clear()

    def second() -> Any:
        assert capturing.wait(60)
        return [fast(calls[1]).feature_maps for _ in range(3)]

    with ThreadPoolExecutor(1) as thread, torch.no_grad():
        other = thread.submit(second)
        first = fast(calls[0]).feature_maps
        others = [[tensor.detach() for tensor in maps] for maps in other.result()]
        expected = [plain(pixels).feature_maps for pixels in calls]
    close(first, expected[0])
    for maps in others:
        close(maps, expected[1])


def test_bad_images_are_refused_as_by_the_plain_model(pair: tuple[Any, Any]) -> None:
    for shape in ((1, 4, 32, 32), (3, 32, 32)):
        messages = []
        for model in pair:
            with pytest.raises(ValueError, match="pixel_values of shape") as error, torch.no_grad():
                model(torch.randn(shape))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_many_sizes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vertebra.optimization.graphs.LIMIT", 2)
    fast = optimized(resnet(), "plain")
    with torch.no_grad():
        for size in (32, 40, 48, 32):
            fast(torch.randn(1, 3, size, size))
    assert len(fast._graphs) == 2


def test_losses_come_from_the_plain_forward() -> None:
    plain = perturb(upernet()).eval()
    fast = optimized(plain, "plain", image_size=64)
    pixels, labels = torch.randn(1, 3, 64, 64), torch.randint(0, 3, (1, 64, 64))
    with torch.no_grad():
        same(fast(pixels, labels=labels).loss, plain(pixels, labels=labels).loss)
    assert len(fast._graphs) == 1


def test_classifiers_necks_and_timm() -> None:
    classifier = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=5))
    neck = FPN(resnet(), channels=8)
    timm = AutoBackbone.from_config(TimmBackboneConfig("test_resnet", use_pretrained_backbone=False))
    for model in (classifier, neck, timm):
        plain, pixels = perturb(model).eval(), torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            expected, found = plain(pixels), optimized(plain, "plain", image_size=64)(pixels)
        assert list(found) == list(expected)
        close(list(found.values()), list(expected.values()))


def test_a_stem_with_one_map_keeps_its_size_policy() -> None:
    plain = swin(size_policy="pad")
    fast, pixels = optimized(plain, "plain"), torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        close(fast(pixels).feature_maps, plain(pixels).feature_maps)


def test_loading_optimized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, pixels = resnet(), torch.randn(2, 3, 32, 32)
    plain.save_pretrained(tmp_path)
    how = {"backend": "plain", "image_size": 32, "batch_size": 2}
    fast = AutoBackbone.from_pretrained(tmp_path, optimize=how)
    assert "plain in float32 for images of 2x3x32x32" in capsys.readouterr().err
    assert isinstance(fast, ResNetBackbone)
    with torch.no_grad():
        close(fast(pixels).feature_maps, plain(pixels).feature_maps)
    with pytest.raises(
        TypeError, match=r"optimize=3 must be True, the name of a backend such as 'openvino', or a mapping"
    ):
        AutoBackbone.from_pretrained(tmp_path, optimize=3)
