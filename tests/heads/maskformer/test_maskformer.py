"""MaskFormer against transformers, live: outputs, losses, gradients, assignments and files; and where it crashes or ignores.

fp32 outputs agree to 1e-5 of the largest value, float64 outputs, losses and gradients to 1e-9.
"""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from maskformer_cases import CLASSES, RESNET, SIZE, both, images, labels, theirs, tiny
from oracle import close, gradients_as_saved, perturb, save_with_transformers, saved_keys

from vertebra import AutoBackbone, ResNetConfig, SwinConfig, TimmBackboneConfig
from vertebra.heads.losses import check_targets
from vertebra.heads.maskformer.model import MaskFormerForInstanceSegmentation, MaskFormerModel
from vertebra.outputs import ModelOutput

over_backbones = pytest.mark.parametrize("backbone", ["swin", "resnet", "timm"])
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
FLAGS = list(itertools.product([False, True], repeat=3))


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
    model, ours = both(tmp_path, backbone, double=False, use_auxiliary_loss=True)
    x = images(2, torch.float32)
    with torch.no_grad():
        flags = {**EVERYTHING, "output_auxiliary_logits": True}
        same_output(ours(x, **flags), model(x, **flags), 1e-5)
        actual, expected = ours(x, return_dict=False, **flags), model(x, return_dict=False, **flags)
        assert isinstance(actual, tuple)
        close(actual[3:], expected[3:])
        same_output(ours.model(x, **EVERYTHING), model.model(x, **EVERYTHING), 1e-5)
        close(ours.model(x, return_dict=False, **EVERYTHING), model.model(x, return_dict=False, **EVERYTHING))


@over_backbones
@pytest.mark.parametrize("size", [(64, 64), (37, 51)])
def test_other_sizes(backbone: str, size: tuple[int, int], tmp_path: Path) -> None:
    model, ours = both(tmp_path, backbone)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        same_output(ours(x, **EVERYTHING), model(x, **EVERYTHING), 1e-9)


@over_backbones
@pytest.mark.parametrize("auxiliary", [False, True])
def test_losses_gradients_and_assignments(backbone: str, auxiliary: bool, tmp_path: Path) -> None:
    changes = {"use_auxiliary_loss": auxiliary, "dice_weight": 2.0, "mask_weight": 5.0, "cross_entropy_weight": 3.0}
    model, ours = both(tmp_path / "weights", backbone, no_object_weight=0.3, **changes)
    x, targets = images(), labels(3, 0, 9)  # no label, and more labels than queries
    results = []
    for each in (model, ours):
        output = each(x, output_hidden_states=True, output_auxiliary_logits=True, **targets)
        output.loss.backward()
        results.append(output)
    same_output(results[1], results[0], 1e-9)
    theirs_pairs = model.matcher(results[0].masks_queries_logits, results[0].class_queries_logits, **targets)
    logits = (results[1].class_queries_logits, results[1].masks_queries_logits)
    (ours_pairs,) = ours.criterion.matches([logits], *check_targets(images=x, num_labels=CLASSES, **targets))
    for ours_pair, theirs_pair in zip(ours_pairs, theirs_pairs, strict=True):
        assert [each.tolist() for each in ours_pair] == [each.tolist() for each in theirs_pair]
    compared = results[0].auxiliary_logits if auxiliary else ()
    expected = model.get_loss_dict(
        results[0].masks_queries_logits, results[0].class_queries_logits, auxiliary_logits=compared, **targets
    )
    predictions = [logits, *((each["class_queries_logits"], each["masks_queries_logits"]) for each in compared)]
    actual = ours.criterion(predictions, **targets)
    assert set(actual) == set(expected)
    assert len(actual) == (12 if auxiliary else 3)
    for name in expected:
        close(actual[name], expected[name], tol=1e-9, name=name)
    expected = gradients_as_saved(model, tmp_path / "gradients")
    largest = max(parameter.grad.abs().max().item() for parameter in ours.parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        spelled = name if name in expected else name.replace("encoder.", "encoder._backbone.", 1)
        error = (parameter.grad - expected[spelled]).abs().max().item()
        # a softmax does not see biases of keys, nor a first layer what its equal values are mixed by: zero but for rounding
        assert error <= 1e-9 * expected[spelled].abs().max().item() + 1e-14 * largest, f"gradient of {name}"


def test_a_decoder_that_norms_every_layer(tmp_path: Path) -> None:
    model, ours = both(tmp_path, decoder={"auxiliary_loss": True})
    with torch.no_grad():
        same_output(ours(images()), model(images()), 1e-9)
        assert len(ours(images(), output_hidden_states=True).transformer_decoder_hidden_states) == 4


def test_no_input_projection_where_the_channels_fit(tmp_path: Path) -> None:
    for width, projects in ((32, False), (16, True)):
        model, ours = both(tmp_path / str(width), decoder={"d_model": width})
        assert (ours.model.transformer_module.input_projection is not None) == projects
        with torch.no_grad():
            same_output(ours(images()), model(images()), 1e-9)


# Files


@over_backbones
def test_files_go_both_ways(backbone: str, tmp_path: Path) -> None:
    model = save_with_transformers(theirs(backbone).double(), tmp_path / "theirs")
    ours, info = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    assert set(info["unexpected_keys"]) == set(info["explained"])
    ours.save_pretrained(tmp_path / "ours")
    back, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    written, read = saved_keys(tmp_path / "ours"), saved_keys(tmp_path / "theirs")
    assert written <= read
    # Swin's tables, which it computes, and the norm of its last state, which no map depends on
    pattern = r"encoder\.model\.(layernorm\.|.*relative_position_index$)"
    assert all(backbone == "swin" and re.search(pattern, name) for name in read - written)
    assert set(info["missing_keys"]) <= read - written
    assert set(info["unexpected_keys"]) == set(info["mismatched_keys"]) == set()
    with torch.no_grad():
        same_output(back.eval()(images(), output_hidden_states=True), model(images(), output_hidden_states=True), 1e-9)
    assert back.config.id2label == model.config.id2label


def test_files_of_the_model_with_and_without_a_head(tmp_path: Path) -> None:
    model, _ = both(tmp_path / "with")
    base, info = MaskFormerModel.from_pretrained(tmp_path / "with", output_loading_info=True)
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"class_predictor", "mask_embedder", "criterion"}
    assert set(info["unexpected_keys"]) == set(info["explained"])
    with torch.no_grad():
        same_output(base(images(), **EVERYTHING), model.model(images(), **EVERYTHING), 1e-9)
    base.save_pretrained(tmp_path / "without")
    _, info = transformers.MaskFormerModel.from_pretrained(tmp_path / "without", output_loading_info=True)
    assert {name: keys for name, keys in info.items() if keys} == {}
    headed, info = MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path / "without", num_labels=2, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"class_predictor", "mask_embedder", "criterion"}
    assert headed.criterion.empty_weight.tolist() == pytest.approx([1.0, 1.0, 0.1])
    assert headed.class_predictor.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert headed.mask_embedder[0][0].weight.abs().max() <= (6 / 64) ** 0.5


def test_another_number_of_classes(tmp_path: Path) -> None:
    both(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes=True"):
        MaskFormerForInstanceSegmentation.from_pretrained(tmp_path, num_labels=9)
    model, info = MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path, num_labels=9, ignore_mismatched_sizes=True, output_loading_info=True
    )
    names = {name for name, *_ in info["mismatched_keys"]}
    assert names == {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"}
    assert model(images(1)).class_queries_logits.shape == (1, 7, 10)


# Flags


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("auxiliary", "hidden", "as_dict"), FLAGS)
def test_auxiliary_loss_in_every_combination(auxiliary: bool, hidden: bool, as_dict: bool, labelled: bool) -> None:
    torch.manual_seed(0)
    model = tiny(use_auxiliary_loss=auxiliary).eval()
    x, targets = images(1, torch.float32), labels(2) if labelled else {}
    reference = model(x, output_hidden_states=True, **labels(2))
    output = model(x, output_hidden_states=hidden, return_dict=as_dict, **targets)
    assert isinstance(output, ModelOutput if as_dict else tuple)
    wanted = [
        name for name in reference if (hidden or not name.endswith("hidden_states")) and (labelled or name != "loss")
    ]
    values = output.to_tuple() if as_dict else output
    assert len(values) == len(wanted)
    for name, value in zip(wanted, values, strict=True):
        close(value, reference[name], name=name)


def test_transformers_needs_hidden_states_for_auxiliary_losses(tmp_path: Path) -> None:
    model, ours = both(tmp_path, use_auxiliary_loss=True)
    with pytest.raises(TypeError):
        model(images(), **labels(1, 2, 3))
    expected = model(images(), output_hidden_states=True, **labels(1, 2, 3)).loss
    close(ours(images(), **labels(1, 2, 3)).loss, expected, 1e-9)


def test_attentions_and_hidden_states_by_configuration() -> None:
    model = tiny(output_attentions=True, output_hidden_states=True, return_dict=False, output_auxiliary_logits=True)
    x = images(2, torch.float32)
    _, _, auxiliary, *_, attentions = model.eval()(x)
    assert auxiliary == []  # as in transformers: asked for, and there are none
    assert [tuple(each.shape) for each in attentions] == [(2, 4, 7, 7)] * 3
    close(attentions[0].sum(-1), torch.ones(2, 4, 7))
    assert list(model(x, output_attentions=False, output_hidden_states=False, return_dict=True))[-1].startswith(
        "transf"
    )


# Padding


@over_backbones
def test_a_mask_of_ones_changes_nothing(backbone: str, tmp_path: Path) -> None:
    model, ours = both(tmp_path, backbone)
    mask = torch.ones(3, *SIZE, dtype=torch.int64)
    with torch.no_grad():
        same_output(ours(images(), pixel_mask=mask), model(images(), pixel_mask=mask), 1e-9)


def test_queries_look_past_padding(tmp_path: Path) -> None:
    model, ours = both(tmp_path)
    decode = ours.model.transformer_module
    features = torch.randn(2, 32, 4, 6, dtype=torch.float64)
    mask = torch.zeros(2, *SIZE, dtype=torch.int64)
    mask[0, :32, :64] = mask[1, :, :] = 1
    for weights in (False, True):
        states, _ = decode(features, mask, weights)
        # as if the padding were not there, positions included
        close(states[-1][:1], decode(features[:1, :, :2, :4], None)[0][-1], 1e-9)
        close(states[-1][1:], decode(features[1:], None)[0][-1], 1e-9)
    x = images(2)
    with torch.no_grad():
        changed = ours(x, pixel_mask=mask).class_queries_logits
        assert (changed[0] - ours(x).class_queries_logits[0]).abs().max() > 1e-3
        close(changed[1], ours(x).class_queries_logits[1], 1e-9)
        # transformers ignores it
        close(model(x, pixel_mask=mask).class_queries_logits, model(x).class_queries_logits, 0.0)


# Bad input


def test_bad_input_is_named() -> None:
    model = tiny().train()
    x, targets = images(2, torch.float32), labels(2, 1, dtype=torch.float32)
    wrong = [targets["class_labels"][0], torch.tensor([CLASSES])]
    with pytest.raises(
        ValueError, match=re.escape(f"class_labels[1] holds {CLASSES}; there are {CLASSES} classes, 0 to 3")
    ):
        model(x, mask_labels=targets["mask_labels"], class_labels=wrong)
    with pytest.raises(ValueError, match="class_labels is missing"):
        model(x, mask_labels=targets["mask_labels"])
    with pytest.raises(ValueError, match=re.escape("mask_labels has 2 entries for 1 images")):
        model(x[:1], **targets)
    with pytest.raises(
        ValueError, match=re.escape("mask_labels[0] has shape (2, 64, 96); it must be (labels, 64, 64)")
    ):
        model(x[..., :64], **targets)
    with pytest.raises(ValueError, match=re.escape("pixel_mask of shape (2, 64) must be (2, 64, 96)")):
        model(x, pixel_mask=torch.ones(2, 64))
    with pytest.raises(
        ValueError, match=re.escape("pixel_values of shape (3, 64, 96) must be (batch, 3, height, width)")
    ):
        model(x[0])
    x[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"class_queries_logits of image 1 of the batch hold NaN"):
        model.eval()(x, **targets)


# Composition


def test_a_built_backbone_is_taken() -> None:
    backbone = perturb(AutoBackbone.from_config(ResNetConfig(**RESNET, out_features=["stage2", "stage4"])))
    model = tiny(neck=None)
    other = MaskFormerForInstanceSegmentation(model.config, backbone=backbone)
    assert other.model.pixel_level_module.encoder is backbone
    assert len(other.model.pixel_level_module.decoder.fpn.layers) == 1
    assert other.config.backbone_config is backbone.config
    assert other(images(1, torch.float32)).masks_queries_logits.shape[-2:] == (8, 12)


@pytest.mark.parametrize(
    "config",
    [
        SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=3),
        TimmBackboneConfig("test_vit", use_pretrained_backbone=False),
    ],
    ids=lambda config: config.model_type,
)
def test_any_backbone_at_the_right_strides(config: Any) -> None:
    model = tiny(config)
    output = model(images(2, torch.float32), output_hidden_states=True, **labels(2, 1, dtype=torch.float32))
    sizes = [tuple(level.shape[-2:]) for level in output.encoder_hidden_states]
    assert sizes == [(SIZE[0] // stride, SIZE[1] // stride) for stride in (4, 8, 16, 32)]
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_one_map_is_too_few() -> None:
    with pytest.raises(ValueError, match="MaskFormerModel needs 2 maps at least"):
        tiny(ResNetConfig(**RESNET, out_features=["stage4"]), neck=None)
