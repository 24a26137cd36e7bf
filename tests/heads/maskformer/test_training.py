"""Training MaskFormer: how weights start, what is random, lower precision, compiling, and that it learns."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from maskformer_cases import CLASSES, images, labels, theirs, tiny
from oracle import close
from safetensors.torch import load_file

from vertebra import ResNetConfig
from vertebra.heads.attention import DetrDecoderLayer
from vertebra.heads.maskformer.model import MaskFormerForInstanceSegmentation


def test_weights_start_as_in_transformers(tmp_path: Path) -> None:
    changes = {"decoder": {"init_std": 0.05, "d_model": 64, "num_queries": 50}, "init_std": 0.2, "init_xavier_std": 3.0}
    theirs(**changes).save_pretrained(tmp_path / "theirs")
    tiny(**changes).save_pretrained(tmp_path / "ours")
    ours, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == other.keys()
    compared = 0
    for name in sorted(ours):
        a, b = ours[name], other[name]
        if name.startswith("model.pixel_level_module.encoder"):
            continue
        if a.ndim == 1:
            close(a, b, name=name)
            continue
        compared += 1
        assert a.numel() > 500 or name == "class_predictor.weight"
        assert a.mean().abs() < 0.2 * b.std(), name
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.2), name
        kurtosis = [(x**4).mean() / (x**2).mean() ** 2 for x in (a, b)]  # 1.8 of a uniform, 3 of a normal distribution
        assert (kurtosis[0] < 2.4) == (kurtosis[1] < 2.4), name
    assert compared > 30
    assert MaskFormerForInstanceSegmentation(tiny().config).criterion.empty_weight.tolist() == [1.0] * CLASSES + [
        pytest.approx(0.1)
    ]


def test_dropouts_are_where_the_configuration_says() -> None:
    model = tiny(decoder={"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.4})
    layers = [layer for layer in model.modules() if isinstance(layer, DetrDecoderLayer)]
    assert len(layers) == 3
    for layer in layers:
        assert (layer.dropout.p, layer.activation_dropout.p) == (0.3, 0.4)
        assert (layer.self_attn.dropout, layer.encoder_attn.dropout) == (0.2, 0.2)
    x = images(1, torch.float32)
    once, again = (model.train()(x).class_queries_logits for _ in range(2))
    assert not torch.equal(once, again)
    once, again = (model.eval()(x).class_queries_logits for _ in range(2))
    assert torch.equal(once, again)


def test_layers_are_left_out_in_training() -> None:
    model = tiny(decoder={"decoder_layerdrop": 0.5, "dropout": 0.0, "decoder_layers": 4})
    decoder = model.model.transformer_module
    features = torch.randn(2, 32, 2, 3)
    left_out = 0
    for _ in range(50):
        states, _ = decoder.train()(features)
        left_out += sum(torch.equal(before, after) for before, after in pairwise(states[:-1]))
    assert 0.35 < left_out / (50 * 3) < 0.65
    states, _ = decoder.eval()(features)
    assert not any(torch.equal(before, after) for before, after in pairwise(states))
    everything_dropped = tiny(decoder={"decoder_layerdrop": 1.0}).train()
    everything_dropped(images(2, torch.float32), **labels(1, 2, dtype=torch.float32)).loss.backward()
    assert [name for name, parameter in everything_dropped.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("counts", [(2, 1), (0, 0)])
def test_every_parameter_has_a_gradient(auxiliary: bool, counts: tuple[int, int]) -> None:
    model = tiny(use_auxiliary_loss=auxiliary).train()
    loss = model(images(2, torch.float32), **labels(*counts, dtype=torch.float32)).loss
    assert loss.isfinite()
    loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_empty_labels_as_in_transformers(tmp_path: Path) -> None:
    theirs().double().save_pretrained(tmp_path)
    model = transformers.MaskFormerForInstanceSegmentation.from_pretrained(tmp_path).eval()
    ours = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    close(ours(images(2), **labels(0, 0)).loss, model(images(2), **labels(0, 0)).loss, 1e-9)


def test_autocast() -> None:
    model = tiny(use_auxiliary_loss=True).train()
    x, targets = images(2, torch.float32), labels(2, 1, dtype=torch.float32)
    torch.manual_seed(0)
    expected = model(x, **targets).loss
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x, **targets)
    assert output.masks_queries_logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.03)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    model = tiny(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic")
    ).train()
    x, targets = images(2, torch.float32), labels(2, 1, dtype=torch.float32)
    for mask, image in zip(targets["mask_labels"], x, strict=True):
        image += 3 * mask.sum(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = model(x, **targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
