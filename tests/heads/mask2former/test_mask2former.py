"""Mask2Former against transformers, live: outputs, losses, gradients, assignments and files; and where it crashes or ignores.

fp32 outputs agree to 1e-5 of the largest value, float64 outputs, losses and gradients to 1e-9, with the same random points.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mask2former_cases import CLASSES, RESNET, SIZE, STAGES, both, images, labels, saved, theirs, tiny
from oracle import close, gradients_as_saved, perturb, saved_keys
from safetensors.torch import load_file, save_file

from vertebra import AutoBackbone, ResNetConfig, SwinConfig, TimmBackboneConfig
from vertebra.heads.losses import check_targets
from vertebra.heads.mask2former.model import Mask2FormerForUniversalSegmentation, Mask2FormerModel
from vertebra.outputs import ModelOutput

over_backbones = pytest.mark.parametrize("backbone", ["swin", "resnet", "timm"])
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
FLAGS = list(itertools.product([False, True], repeat=4))
POINTS = {"train_num_points": 40, "oversample_ratio": 2.5, "importance_sample_ratio": 0.6}
WEIGHTS = {"class_weight": 3.0, "mask_weight": 4.0, "dice_weight": 2.0, "no_object_weight": 0.3}


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Transformers draws points in the default dtype, and samples float64 masks at no others."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def same_output(actual: Any, expected: Any, tol: float) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        pair = (actual[name], expected[name])
        if name == "auxiliary_logits":
            assert [list(each) for each in pair[0]] == [list(each) for each in pair[1]]
            pair = tuple([tuple(each.values()) for each in side] for side in pair)
        close(*pair, tol=tol, name=name)


# Parity


@over_backbones
def test_everything_that_is_returned(backbone: str, tmp_path: Path) -> None:
    model, ours = both(tmp_path, backbone, double=False)
    x = images(2, torch.float32)
    with torch.no_grad():
        flags = {**EVERYTHING, "output_auxiliary_logits": True}
        same_output(ours(x, **flags), model(x, **flags), 1e-5)
        actual, expected = ours(x, return_dict=False, **flags), model(x, return_dict=False, **flags)
        assert isinstance(actual, tuple)
        close(actual[3:], expected[3:])
        same_output(ours.model(x, **EVERYTHING), model.model(x, **EVERYTHING), 1e-5)
        same_output(ours.model(x), model.model(x), 1e-5)
        close(ours.model(x, return_dict=False, **EVERYTHING), model.model(x, return_dict=False, **EVERYTHING))


@over_backbones
@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_other_sizes(backbone: str, size: tuple[int, int], tmp_path: Path) -> None:
    model, ours = both(tmp_path, backbone)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        same_output(ours(x, **EVERYTHING), model(x, **EVERYTHING), 1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_norm": True, "activation_function": "gelu"},
        {"enforce_input_projection": True, "feature_size": 32},
        {"feature_size": 32},
        {"common_stride": 8},
        {"encoder_layers": 0, "decoder_layers": 1},
        {"num_attention_heads": 1, "decoder_layers": 3},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_other_architectures(changes: dict[str, Any], tmp_path: Path) -> None:
    model, ours = both(tmp_path, **changes)
    assert set(ours.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        same_output(ours(images(), **EVERYTHING), model(images(), **EVERYTHING), 1e-9)


def test_maps_of_one_stride_as_they_are(tmp_path: Path) -> None:
    model, ours = both(tmp_path, "vit", neck=None)
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x, **EVERYTHING)
        assert expected.masks_queries_logits.shape[-2:] == (14, 14)
        same_output(ours(x, **EVERYTHING), expected, 1e-9)


@over_backbones
@pytest.mark.parametrize("auxiliary", [False, True])
def test_losses_gradients_and_assignments(backbone: str, auxiliary: bool, tmp_path: Path) -> None:
    changes = {"use_auxiliary_loss": auxiliary, **POINTS, **WEIGHTS}
    with float64_by_default():
        model, ours = both(tmp_path / "weights", backbone, **changes)
        x, targets = images(), labels(3, 0, 9)  # no label, and more labels than queries
        outputs = []
        for each in (model, ours):
            torch.manual_seed(5)
            outputs.append(each(x, output_hidden_states=True, output_auxiliary_logits=True, **targets))
        logits = outputs[0].class_queries_logits, outputs[0].masks_queries_logits
        compared = outputs[0].auxiliary_logits if auxiliary else None
        torch.manual_seed(5)  # transformers computes the auxiliary losses whatever its configuration says
        expected = model.get_loss_dict(logits[1], logits[0], **targets, auxiliary_predictions=compared)
        loss = outputs[0].loss = sum(expected.values())
        same_output(outputs[1], outputs[0], 1e-9)
        checked = check_targets(images=x, num_labels=CLASSES, **targets)
        predictions = [logits, *((a["class_queries_logits"], a["masks_queries_logits"]) for a in compared or ())]
        torch.manual_seed(5)
        actual = ours.criterion(predictions, *checked)
        assert list(actual) == list(expected)
        assert len(actual) == (15 if auxiliary else 3)
        for name in expected:
            close(actual[name], expected[name], tol=1e-9, name=name)
        torch.manual_seed(6)
        pairs = model.criterion.matcher(logits[1], logits[0], **targets)
        torch.manual_seed(6)
        for ours_pair, theirs_pair in zip(ours.criterion.match(*logits, *checked), pairs, strict=True):
            assert [each.tolist() for each in ours_pair] == [each.tolist() for each in theirs_pair]
    loss.backward()
    outputs[1].loss.backward()
    expected = gradients_as_saved(model, tmp_path / "gradients")
    largest = max(parameter.grad.abs().max().item() for parameter in ours.parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        spelled = name if name in expected else name.replace("encoder.", "encoder._backbone.", 1)
        error = (parameter.grad - expected[spelled]).abs().max().item()
        # a softmax does not see biases of keys, nor a norm those before it: zero but for rounding
        assert error <= 1e-9 * expected[spelled].abs().max().item() + 1e-13 * largest, f"gradient of {name}"


def test_the_same_seed_has_the_same_loss_in_float32(tmp_path: Path) -> None:
    model, ours = both(tmp_path, "swin", double=False)
    x, targets = images(2, torch.float32), labels(3, 1, dtype=torch.float32)
    losses, states = [], []
    for each in (model, ours):
        torch.manual_seed(5)
        losses.append(each(x, **targets).loss)
        states.append(torch.get_rng_state())
    close(losses[1], losses[0], 1e-5)
    assert torch.equal(*states)


# Files


@over_backbones
def test_files_go_both_ways(backbone: str, tmp_path: Path) -> None:
    model = saved(theirs(backbone).double(), tmp_path / "theirs")
    ours, info = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    assert set(info["unexpected_keys"]) == set(info["explained"])
    ours.save_pretrained(tmp_path / "ours")
    back, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    written, read = saved_keys(tmp_path / "ours"), saved_keys(tmp_path / "theirs")
    assert written <= read
    # the norm of the last state, which version 5 adds to a Swin backbone and no map depends on; 4 has none
    assert all(backbone == "swin" and "encoder.swin.layernorm." in name for name in read - written)
    assert set(info["missing_keys"]) == read - written
    assert set(info["unexpected_keys"]) == set(info["mismatched_keys"]) == set()
    with torch.no_grad():
        same_output(back.eval()(images()), model(images()), 1e-6)
    assert back.config.id2label == model.config.id2label


def test_index_tables_of_older_files_are_explained(tmp_path: Path) -> None:
    both(tmp_path, "swin")
    state = load_file(tmp_path / "model.safetensors")
    older = {name: tensor for name, tensor in state.items() if ".swin.layernorm." not in name}
    table = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    save_file({**older, table: torch.zeros(9, 9, dtype=torch.int64)}, tmp_path / "model.safetensors", {"format": "pt"})
    _, info = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert list(info["explained"]) == info["unexpected_keys"] == [table]
    assert info["missing_keys"] == []


def test_files_of_the_model_with_and_without_a_head(tmp_path: Path) -> None:
    model, _ = both(tmp_path / "with")
    base, info = Mask2FormerModel.from_pretrained(tmp_path / "with", output_loading_info=True)
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"class_predictor", "criterion"}
    assert set(info["unexpected_keys"]) == set(info["explained"])
    with torch.no_grad():
        same_output(base(images(), **EVERYTHING), model.model(images(), **EVERYTHING), 1e-9)
    base.save_pretrained(tmp_path / "without")
    _, info = transformers.Mask2FormerModel.from_pretrained(tmp_path / "without", output_loading_info=True)
    assert {name: keys for name, keys in info.items() if keys} == {}
    headed, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path / "without", num_labels=2, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"class_predictor", "criterion"}
    assert headed.criterion.empty_weight.tolist() == pytest.approx([1.0, 1.0, 0.1])
    assert headed.class_predictor.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_another_number_of_classes_and_queries(tmp_path: Path) -> None:
    both(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes=True"):
        Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path, num_labels=9)
    model, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path, num_labels=9, num_queries=50, ignore_mismatched_sizes=True, output_loading_info=True
    )
    names = {name.rpartition("module.")[2] for name, *_ in info["mismatched_keys"]}
    queries = {"queries_embedder.weight", "queries_features.weight"}
    assert names == {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight", *queries}
    assert model(images(1)).class_queries_logits.shape == (1, 50, 10)
    assert model.model.transformer_module.queries_features.weight.std().item() == pytest.approx(1.0, rel=0.1)


# Flags


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("auxiliary", "hidden", "as_dict", "extra"), FLAGS)
def test_auxiliary_loss_in_every_combination(
    auxiliary: bool, hidden: bool, as_dict: bool, extra: bool, labelled: bool
) -> None:
    torch.manual_seed(0)
    model = tiny(use_auxiliary_loss=auxiliary, decoder_layers=3).eval()
    x, targets = images(1, torch.float32), labels(2) if labelled else {}
    torch.manual_seed(1)
    reference = model(x, output_hidden_states=True, output_auxiliary_logits=True, **labels(2))
    torch.manual_seed(1)
    output = model(x, output_hidden_states=hidden, output_auxiliary_logits=extra, return_dict=as_dict, **targets)
    assert isinstance(output, ModelOutput if as_dict else tuple)
    left_out = {name for name in reference if name.endswith("hidden_states") and not hidden}
    left_out |= set() if labelled else {"loss"}
    left_out |= set() if extra else {"auxiliary_logits"}
    wanted = [name for name in reference if name not in left_out]
    values = output.to_tuple() if as_dict else output
    assert len(values) == len(wanted)
    for name, value in zip(wanted, values, strict=True):
        if name == "auxiliary_logits":
            close([list(a.values()) for a in value], [list(a.values()) for a in reference[name]])
        else:
            close(value, reference[name], name=name)


def test_transformers_crashes_with_these_flags(tmp_path: Path) -> None:
    model, ours = both(tmp_path, use_auxiliary_loss=False)
    with pytest.raises(TypeError):
        model(images())
    with pytest.raises(TypeError), float64_by_default():
        model(images(), return_dict=False, output_hidden_states=True, **labels(1, 2, 3))
    expected = model(images(), output_hidden_states=True)
    close(ours(images()).masks_queries_logits, expected.masks_queries_logits, 1e-9)
    assert ours(images(), return_dict=False, **labels(1, 2, 3))[0].ndim == 0


def test_auxiliary_losses_are_computed_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for auxiliary, count in ((True, 5), (False, 1)):
        model = tiny(use_auxiliary_loss=auxiliary)
        seen = []
        forward = model.criterion.forward
        monkeypatch.setattr(
            model.criterion, "forward", lambda p, *rest, f=forward, s=seen: s.append(len(p)) or f(p, *rest)
        )
        model(images(1, torch.float32), output_auxiliary_logits=True, **labels(2))
        assert seen == [count]


def test_masks_of_all_layers_are_made_only_where_needed() -> None:
    model = tiny().eval()
    x = images(1, torch.float32)
    everything, last = model.model(x), model.model(x, every_mask=False)
    assert len(everything.masks_queries_logits) == 5
    close(last.masks_queries_logits, everything.masks_queries_logits[-1:])


def test_attentions_and_hidden_states_by_configuration() -> None:
    model = tiny(output_attentions=True, output_hidden_states=True, return_dict=False, output_auxiliary_logits=True)
    x = images(2, torch.float32)
    _, masks, auxiliary, *_, attentions = model.eval()(x)
    assert len(auxiliary) == 4
    assert masks.shape == (2, 7, SIZE[0] // 4, SIZE[1] // 4)
    assert [tuple(each.shape) for each in attentions] == [(2, 4, 7, 7)] * 4
    close(attentions[0].sum(-1), torch.ones(2, 4, 7))
    assert list(model(x, output_attentions=False, output_hidden_states=False, return_dict=True))[-1].startswith(
        "transf"
    )


# Composition


def test_a_built_backbone_is_taken() -> None:
    backbone = perturb(AutoBackbone.from_config(ResNetConfig(**RESNET, out_features=STAGES)))
    model = Mask2FormerForUniversalSegmentation(tiny().config, backbone=backbone)
    assert model.model.pixel_level_module.encoder is backbone
    assert model.config.backbone_config is backbone.config


@pytest.mark.parametrize(
    "config",
    [
        SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=3),
        # its maps are (b, h, w, c) in timm
        TimmBackboneConfig(
            "swin_tiny_patch4_window7_224",
            use_pretrained_backbone=False,
            model_args={"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
            image_size=SIZE,
        ),
        TimmBackboneConfig("test_vit", use_pretrained_backbone=False),
        # cells of 14 pixels
        TimmBackboneConfig(
            "vit_small_patch14_dinov2",
            use_pretrained_backbone=False,
            model_args={"embed_dim": 24, "depth": 2, "num_heads": 2},
        ),
    ],
    ids=["swin", "timm-swin", "timm-vit", "timm-dinov2"],
)
def test_any_backbone_at_the_right_strides(config: Any, tmp_path: Path) -> None:
    model = tiny(config, feature_size=32)
    height, width = (224, 224) if getattr(config, "backbone", "").endswith("dinov2") else SIZE
    x = torch.randn(2, 3, height, width)
    masks = [torch.zeros(n, height, width) for n in (2, 1)]
    for each in masks:
        each[:, 10:40, 20:50] = 1
    targets = {"mask_labels": masks, "class_labels": labels(2, 1)["class_labels"]}
    output = model(x, output_hidden_states=True, **targets)
    sizes = [tuple(level.shape[-2:]) for level in output.encoder_hidden_states]
    assert sizes == [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
    assert [tuple(level.shape[-2:]) for level in output.pixel_decoder_hidden_states] == sizes[:0:-1]
    assert output.masks_queries_logits.shape == (2, 7, *sizes[0])
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval().save_pretrained(tmp_path)
    again = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path)
    close(again(x).masks_queries_logits, model(x).masks_queries_logits)


def test_transformers_crashes_with_a_timm_swin() -> None:
    backbone = transformers.TimmBackboneConfig(
        backbone="swin_tiny_patch4_window7_224", out_indices=[0, 1, 2, 3], use_pretrained_backbone=False
    )
    config = transformers.Mask2FormerConfig(backbone_config=backbone, encoder_layers=1, decoder_layers=2)
    with torch.no_grad(), pytest.raises(RuntimeError, match="to have 768 channels, but got 7 channels"):
        transformers.Mask2FormerForUniversalSegmentation(config)(torch.randn(1, 3, 224, 224))


def test_maps_that_are_too_few_or_not_the_ones() -> None:
    with pytest.raises(ValueError, match="Mask2FormerModel needs 4 maps at least"):
        tiny(ResNetConfig(**RESNET, out_features=["stage3", "stage4"]), neck=None)
    with pytest.raises(ValueError, match="Mask2FormerModel needs one map for each of the strides 4, 8, 16, 32"):
        tiny(ResNetConfig(**RESNET, out_features=STAGES[1:]))
    model = tiny(feature_strides=[8, 16, 32], common_stride=8)
    assert model.model.pixel_level_module.encoder.strides == [8, 16, 32]
    assert model(images(1, torch.float32)).masks_queries_logits.shape[-2:] == (SIZE[0] // 8, SIZE[1] // 8)
