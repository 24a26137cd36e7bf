"""Training Mask2Former: how weights start, what is random, lower precision, compiling, bad labels, and that it learns."""

import copy
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from mask2former_cases import CLASSES, images, labels, saved, theirs, tiny
from oracle import close, perturb
from safetensors.torch import load_file
from torch import nn

from vertebra import ResNetConfig
from vertebra.heads.mask2former.decoder import MaskedAttentionLayer
from vertebra.heads.mask2former.model import Mask2FormerForUniversalSegmentation


def test_weights_start_as_in_transformers(tmp_path: Path) -> None:
    changes = {"init_std": 0.2, "init_xavier_std": 3.0, "num_queries": 50, "mask_feature_size": 40}
    changes |= {"enforce_input_projection": True}
    theirs(**changes).save_pretrained(tmp_path / "theirs")
    tiny(**changes).save_pretrained(tmp_path / "ours")
    ours, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == other.keys()
    compared = 0
    for name in sorted(ours):
        a, b = ours[name], other[name]
        if name.startswith("model.pixel_level_module.encoder"):
            continue
        if b.unique().numel() < 12:  # constants, and the directions of offsets
            close(a, b, 1e-6, name=name)
            continue
        compared += 1
        assert a.mean().abs() < 4 * b.std() / a.numel() ** 0.5, name
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.2), name
        if a.numel() > 1000:
            kurtosis = [(x**4).mean() / (x**2).mean() ** 2 for x in (a, b)]  # 1.8 of uniform, 3 of normal weights
            assert (kurtosis[0] < 2.4) == (kurtosis[1] < 2.4), name
    assert compared > 45


def test_dropouts_are_where_the_configuration_says() -> None:
    model = tiny(dropout=0.3)
    layers = [layer for layer in model.modules() if isinstance(layer, MaskedAttentionLayer)]
    assert len(layers) == 4
    for layer in layers:
        assert (layer.dropout.p, layer.cross_attn.dropout, layer.self_attn.dropout) == (0.3, 0.3, 0.3)
    dropouts = [part.p for part in model.model.pixel_level_module.decoder.modules() if isinstance(part, nn.Dropout)]
    assert dropouts == [0.3, 0.3]
    x = images(1, torch.float32)
    once, again = (model.train()(x).class_queries_logits for _ in range(2))
    assert not torch.equal(once, again)
    once, again = (model.eval()(x).class_queries_logits for _ in range(2))
    assert torch.equal(once, again)


def test_layers_are_left_out_in_training() -> None:
    model = tiny().train()
    model.model.transformer_module.decoder.layerdrop = 0.5
    left_out = 0
    for _ in range(20):
        states = model.model(images(1, torch.float32), output_hidden_states=True).transformer_decoder_hidden_states
        left_out += sum(torch.equal(before, after) for before, after in pairwise(states))
    assert 0.3 < left_out / (20 * 4) < 0.7
    states = model.eval().model(images(1, torch.float32), output_hidden_states=True).transformer_decoder_hidden_states
    assert not any(torch.equal(before, after) for before, after in pairwise(states))


def test_transformers_crashes_when_a_layer_is_left_out() -> None:
    # a layer that is skipped leaves the mask of its own level to the next layer, whose level has another size
    model = theirs(dropout=0.5).train()

    def often(model: nn.Module) -> None:
        for _ in range(20):
            assert model(images(1, torch.float32)).class_queries_logits.isfinite().all()

    with pytest.raises(RuntimeError, match="attn_mask"):
        often(model)
    often(tiny(dropout=0.5).train())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_auxiliary_loss": False},
        {"dropout": 1.0},
        {"pre_norm": True},
        {"decoder_layers": 2},
        {"decoder_layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("counts", [(2, 1), (0, 0)])
def test_every_parameter_has_a_gradient(changes: dict[str, object], counts: tuple[int, int]) -> None:
    model = tiny(**changes).train()
    loss = model(images(2, torch.float32), **labels(*counts, dtype=torch.float32)).loss
    assert loss.isfinite()
    loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # the files' parameters of levels that too few layers never get to are not trained
    assert without == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert bool(without) == ("decoder_layers" in changes)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)


def test_empty_labels_as_in_transformers(tmp_path: Path) -> None:
    model = saved(theirs(no_object_weight=0.7), tmp_path)
    ours = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path)
    losses = [each(images(2, torch.float32), **labels(0, 0, dtype=torch.float32)).loss for each in (model, ours)]
    close(losses[1], losses[0], 1e-5)


def test_labels_of_other_dtypes() -> None:
    model, x = perturb(tiny()).eval(), images(2, torch.float32)
    targets = labels(2, 1, dtype=torch.float32)
    losses = []
    for masks, classes in ((torch.float32, torch.int64), (torch.bool, torch.int32), (torch.uint8, torch.uint8)):
        torch.manual_seed(1)
        losses.append(
            model(
                x,
                mask_labels=[each.to(masks) for each in targets["mask_labels"]],
                class_labels=[each.to(classes) for each in targets["class_labels"]],
            ).loss
        )
    assert losses[0] == losses[1] == losses[2]


def test_autocast() -> None:
    model = tiny().train()
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = perturb(tiny(), scale=0.05).eval()
    x = images(2, torch.float32)
    mask = torch.ones(2, *x.shape[-2:])
    mask[0, :, 50:] = 0
    with torch.no_grad():
        expected = model(x, pixel_mask=mask)
        actual = copy.deepcopy(model).to(dtype)(x.to(dtype), pixel_mask=mask)
    assert actual.masks_queries_logits.dtype == dtype
    for name in ("pixel_decoder_last_hidden_state", "class_queries_logits"):
        error = (actual[name].float() - expected[name]).abs().mean() / expected[name].abs().mean()
        assert error < 0.05, name


# which torch would not show: it asks losses for gradients where its graph goes on
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
def test_trains_compiled() -> None:
    torch._dynamo.reset()
    model = perturb(tiny(decoder_layers=2, encoder_layers=1)).train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    x, targets = images(2, torch.float32), labels(0, 3, dtype=torch.float32)
    losses = []
    for each in (compiled, twin):
        torch.manual_seed(1)
        losses.append(each(x, **targets).loss)
        losses[-1].backward()
    close(*losses)
    for (name, parameter), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        if not parameter.requires_grad:
            continue
        assert (parameter.grad - expected.grad).abs().max() <= 1e-3 * expected.grad.abs().max() + 1e-5, name


def test_bad_input_is_named() -> None:
    model = tiny().train()
    x, targets = images(2, torch.float32), labels(2, 1, dtype=torch.float32)
    wrong = [targets["class_labels"][0], torch.tensor([CLASSES])]
    with pytest.raises(
        ValueError, match=re.escape(f"class_labels[1] holds {CLASSES}; there are {CLASSES} classes, 0 to 3")
    ):
        model(x, mask_labels=targets["mask_labels"], class_labels=wrong)
    with pytest.raises(ValueError, match="mask_labels is missing"):
        model(x, class_labels=targets["class_labels"])
    with pytest.raises(ValueError, match=re.escape("class_labels has 2 entries for 1 images")):
        model(x[:1], mask_labels=targets["mask_labels"][:1], class_labels=targets["class_labels"])
    with pytest.raises(
        ValueError, match=re.escape("mask_labels[0] has shape (2, 64, 96); it must be (labels, 64, 64)")
    ):
        model(x[..., :64], **targets)
    with pytest.raises(ValueError, match=re.escape("mask_labels[1] is torch.int64; it must be one of bool, uint8")):
        model(x, [targets["mask_labels"][0], targets["mask_labels"][1].long()], targets["class_labels"])
    with pytest.raises(ValueError, match=re.escape("pixel_mask of shape (2, 64) must be (2, 64, 96)")):
        model(x, pixel_mask=torch.ones(2, 64))
    with pytest.raises(
        ValueError, match=re.escape("pixel_values of shape (3, 64, 96) must be (batch, 3, height, width)")
    ):
        model(x[0])
    x[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"class_queries_logits of image 1 of the batch hold NaN"):
        model.eval()(x, **targets)


def test_it_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic")
    model = tiny(backbone, feature_size=32, train_num_points=200).train()
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
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_transformers_computes_auxiliary_losses_always(tmp_path: Path) -> None:
    """`use_auxiliary_loss=False` computes the last prediction's losses alone; transformers adds all others."""
    model = saved(theirs(use_auxiliary_loss=False), tmp_path)
    ours = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path)
    x, targets = images(1, torch.float32), labels(2, dtype=torch.float32)
    losses = []
    for each in (model, ours):
        torch.manual_seed(0)
        losses.append(each(x, output_hidden_states=True, **targets).loss.item())
    assert losses[0] > 2.5 * losses[1]
    assert isinstance(model, transformers.PreTrainedModel)
