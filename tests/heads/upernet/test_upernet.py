"""UperNet against transformers 5, live: keys, logits, losses, gradients and files over four backbones."""

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close, gradients_as_saved, perturb, same, save_with_transformers, saved_keys
from torch import Tensor

from vertebra import ResNetConfig, TimmBackboneConfig, UperNetConfig, UperNetForSemanticSegmentation
from vertebra.loading import match_model

LABELS = 5
HEAD: dict[str, Any] = {"hidden_size": 16, "auxiliary_channels": 8, "num_labels": LABELS}
RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 3,
    "drop_path_rate": 0.0,
}
THEIR_BACKBONES = {
    "swin": lambda: transformers.SwinConfig(**SWIN, out_indices=[1, 2, 3, 4]),
    "resnet": lambda: transformers.ResNetConfig(**RESNET, out_indices=[1, 2, 3, 4]),
    "timm-resnet": lambda: transformers.TimmBackboneConfig(backbone="test_resnet", out_indices=[1, 2, 3, 4]),
    "timm-convnext": lambda: transformers.TimmBackboneConfig(backbone="test_convnext", out_indices=[0, 1, 2, 3]),
}


def theirs(backbone: str, **kwargs: Any) -> Any:
    config = transformers.UperNetConfig(backbone_config=THEIR_BACKBONES[backbone](), **{**HEAD, **kwargs})
    return transformers.UperNetForSemanticSegmentation(config)


def loaded(folder: Path, **kwargs: Any) -> Any:
    """Our model, every key of the file accounted for."""
    model, info = UperNetForSemanticSegmentation.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    assert set(info["unexpected_keys"]) == set(info["explained"])
    return model


def resnet_config(**kwargs: Any) -> UperNetConfig:
    return UperNetConfig(backbone_config=ResNetConfig(**RESNET), **{**HEAD, **kwargs})


def batch(size: tuple[int, int] = (70, 90), count: int = 2) -> dict[str, Tensor]:
    labels = torch.randint(0, LABELS, (count, *size))
    labels[0, :20, :30] = 255
    return {"pixel_values": torch.randn(count, 3, *size), "labels": labels}


def test_keys_and_defaults_are_those_of_transformers() -> None:
    there, here = transformers.UperNetConfig().to_dict(), UperNetConfig().to_dict()
    own = {name for name in there if name not in ("transformers_version", "_name_or_path", "chunk_size_feed_forward")}
    different = {name for name in own - {"is_encoder_decoder"} if here.get(name) != json.loads(json.dumps(there[name]))}
    assert different == {"backbone_config", "id2label", "label2id"}
    assert here["backbone_config"]["model_type"] == "resnet"
    assert UperNetForSemanticSegmentation(resnet_config()).backbone.out_indices == [1, 2, 3, 4]


@pytest.mark.parametrize("backbone", THEIR_BACKBONES)
def test_files_of_transformers_give_its_numbers(backbone: str, tmp_path: Path) -> None:
    oracle = save_with_transformers(theirs(backbone), tmp_path / "theirs", scale=0.05)
    model = loaded(tmp_path / "theirs")
    for size in ((64, 64), (70, 90), (33, 200)):
        inputs = batch(size)
        with torch.no_grad():
            expected, actual = oracle(**inputs), model(**inputs)
        close(actual.logits, expected.logits, name=f"logits at {size}")
        close(actual.loss, expected.loss, name=f"loss at {size}")


@pytest.mark.parametrize("backbone", THEIR_BACKBONES)
def test_transformers_reads_our_files(backbone: str, tmp_path: Path) -> None:
    oracle = save_with_transformers(theirs(backbone), tmp_path / "theirs", scale=0.05)
    model = loaded(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs") - unused(tmp_path / "theirs", model)
    kind = transformers.UperNetForSemanticSegmentation
    back, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("unexpected_keys", "mismatched_keys", "error_msgs"))
    assert set(info["missing_keys"]) <= {f"backbone.layernorm.{leaf}" for leaf in ("weight", "bias")}
    inputs = batch()
    with torch.no_grad():
        close(back.eval()(**inputs).logits, oracle(**inputs).logits)


def unused(folder: Path, model: Any) -> set[str]:
    """Keys of a file of transformers that have no part in any map: Swin's final norm."""
    return {name for name in saved_keys(folder) if name.startswith("backbone.swin.layernorm.")}


VARIANTS: list[dict[str, Any]] = [
    {},
    {"auxiliary_concat_input": True, "auxiliary_num_convs": 2, "pool_scales": [2, 4], "auxiliary_loss_weight": 0.7},
    {"use_auxiliary_head": False, "pool_scales": [3], "loss_ignore_index": 4},
    {"auxiliary_num_convs": 0, "auxiliary_channels": 32, "auxiliary_concat_input": True, "auxiliary_in_channels": 32},
]


@pytest.mark.parametrize(
    ("backbone", "variant"),
    [*((name, {}) for name in THEIR_BACKBONES), *(("resnet", variant) for variant in VARIANTS[1:])],
)
def test_losses_and_gradients_in_training(backbone: str, variant: dict[str, Any], tmp_path: Path) -> None:
    oracle = save_with_transformers(theirs(backbone, **variant), tmp_path / "theirs", scale=0.05).double().train()
    model = loaded(tmp_path / "theirs").double().train()
    inputs = batch()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    if variant.get("loss_ignore_index") == 4:
        inputs["labels"][inputs["labels"] == 255] = 4
    there, here = oracle(**inputs), model(**inputs)
    close(here.loss, there.loss, tol=1e-9)
    there.loss.backward()
    here.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    state = model.state_dict(keep_vars=True)
    saved = gradients_as_saved(oracle, tmp_path / "gradients")
    expected = {ours: saved[name] for name, ours in match_model(model, saved, state).items() if ours in state}
    assert set(state) == set(expected)
    largest = max(
        saved[name].abs().max().item() for name in saved if "running" not in name and "num_batches" not in name
    )
    for name, tensor in state.items():  # of buffers, the statistics after one batch
        if not isinstance(tensor, torch.nn.Parameter):
            close(tensor, expected[name], tol=1e-6, name=name)
        elif expected[name].abs().max() > 1e-9 * largest:  # what cancels (the bias of keys) is rounding alone
            close(tensor.grad, expected[name], tol=1e-6, name=name)


def test_pyramid_pooling_of_small_maps(tmp_path: Path) -> None:
    oracle = save_with_transformers(theirs("resnet"), tmp_path, scale=0.05)
    model = loaded(tmp_path)
    for size in ((32, 32), (33, 65), (17, 40)):  # last maps of 1x1, 2x3 and 1x2 cells, pooled to 6x6
        pixels = torch.randn(2, 3, *size)
        with torch.no_grad():
            close(model(pixels).logits, oracle(pixels).logits, name=f"logits at {size}")


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_every_combination_of_flags(backbone: str, tmp_path: Path) -> None:
    oracle = save_with_transformers(theirs(backbone), tmp_path, scale=0.05)
    model = loaded(tmp_path)
    inputs = batch((48, 48))
    for labels, hidden, attentions in product((False, True), repeat=3):
        given = {name: value for name, value in inputs.items() if labels or name != "labels"}
        flags = {"output_hidden_states": hidden, "output_attentions": attentions}
        with torch.no_grad():
            expected, actual = oracle(**given, **flags), model(**given, **flags)
            plain = model(**given, **flags, return_dict=False)
        assert list(actual) == [name for name in ("loss", "logits", "hidden_states", "attentions") if name in expected]
        for name in actual:
            close(actual[name], expected[name], name=name)
        same(plain, actual.to_tuple())
    model.config.output_hidden_states = True
    model.config.return_dict = False
    assert len(model(inputs["pixel_values"])) == 2


def test_positional_arguments_are_in_transformers_order() -> None:
    model = UperNetForSemanticSegmentation(resnet_config()).eval()
    inputs = batch((32, 32))
    with torch.no_grad():
        output = model(inputs["pixel_values"], None, True, inputs["labels"], False)
    assert [type(value) for value in output] == [Tensor, Tensor, tuple]


def test_auxiliary_in_channels_of_version_4_and_none(tmp_path: Path) -> None:
    below = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 384, 16], depths=[1] * 4, out_indices=[1, 2, 3, 4]
    )
    for name, channels in (("v4", 384), ("v5", None)):
        config = transformers.UperNetConfig(backbone_config=below, **HEAD, auxiliary_in_channels=channels)
        oracle = save_with_transformers(transformers.UperNetForSemanticSegmentation(config), tmp_path / name)
        pixels = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            close(loaded(tmp_path / name)(pixels).logits, oracle(pixels).logits)
    swapped = UperNetConfig.from_pretrained(tmp_path / "v4", backbone_config=ResNetConfig(**RESNET))
    assert swapped.auxiliary_in_channels is None  # it told of the backbone that went
    assert UperNetForSemanticSegmentation(swapped).auxiliary_head.convs[0].conv.in_channels == 32
    with pytest.raises(
        ValueError, match=r"auxiliary_in_channels=384, .* has 32 channels \(of \[8, 16, 32, 64\]\)\. Leave it None"
    ):
        UperNetForSemanticSegmentation(resnet_config(auxiliary_in_channels=384))


def test_any_backbone_and_any_number_of_maps() -> None:
    vit = TimmBackboneConfig("test_vit", use_pretrained_backbone=False)
    three = ResNetConfig(**RESNET, out_indices=[2, 3, 4])
    two = ResNetConfig(**RESNET, out_indices=[2, 4])
    one = ResNetConfig(**RESNET, out_indices=[4])
    cases: list[tuple[Any, dict[str, Any], list[int]]] = [
        (vit, {}, [4, 8, 16, 32]),
        (three, {"neck": None}, [8, 16, 32]),
        (two, {"neck": None, "use_auxiliary_head": False}, [8, 32]),
        (one, {"neck": None, "use_auxiliary_head": False}, [32]),
    ]
    for below, kwargs, strides in cases:
        model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=below, **HEAD, **kwargs))
        assert model.backbone.strides == strides
        inputs = batch((160, 160))
        model(**inputs).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_too_few_maps_are_refused_with_the_reason() -> None:
    below = ResNetConfig(**RESNET, out_indices=[3, 4])
    with pytest.raises(ValueError, match="UperNetForSemanticSegmentation needs 3 maps at least"):
        UperNetForSemanticSegmentation(UperNetConfig(backbone_config=below, neck=None, **HEAD))
    with pytest.raises(IndexError):  # what transformers says
        transformers.UperNetForSemanticSegmentation(
            transformers.UperNetConfig(backbone_config=transformers.ResNetConfig(**RESNET, out_indices=[3, 4]), **HEAD)
        )


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("hidden_size", 0, "hidden_size=0 must be a whole number of 1 at least"),
        ("auxiliary_num_convs", -1, "auxiliary_num_convs=-1 must be a whole number of 0 at least"),
        ("auxiliary_channels", 2.5, "auxiliary_channels=2.5 must be a whole number of 1 at least"),
        ("pool_scales", [1, 0], r"pool_scales=\[1, 0\] must be whole numbers of 1 at least"),
    ],
)
def test_settings_that_make_no_sense(key: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        resnet_config(**{key: value})


def test_a_single_image_cannot_train_a_pooled_batch_norm() -> None:
    model = UperNetForSemanticSegmentation(resnet_config())
    with pytest.raises(
        ValueError, match=r"one image whose map has a single cell \(shape \(1, 16, 1, 1\)\).*drop_last=True"
    ):
        model(**batch((64, 64), count=1))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    model(**batch((64, 64), count=1)).loss.backward()
    model = UperNetForSemanticSegmentation(resnet_config(pool_scales=[2, 3]))
    model(**batch((64, 64), count=1)).loss.backward()


def test_without_labels_the_auxiliary_head_does_not_run() -> None:
    model = perturb(UperNetForSemanticSegmentation(resnet_config())).eval()
    ran: list[Any] = []
    model.auxiliary_head.register_forward_hook(lambda *_: ran.append(1))
    inputs = batch((32, 32))
    model(inputs["pixel_values"])
    assert ran == []
    model(**inputs)
    assert ran == [1]


def test_initial_weights(tmp_path: Path) -> None:
    model = UperNetForSemanticSegmentation(resnet_config(hidden_size=64, initializer_range=0.3))
    weight = model.decode_head.fpn_bottleneck.conv.weight
    assert abs(weight.std().item() - 0.3) < 0.01
    assert model.decode_head.classifier.bias.abs().max() == 0
    model.save_pretrained(tmp_path)
    other, info = UperNetForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    fresh = [name for name, _, _ in info["mismatched_keys"]]
    heads = ("decode_head", "auxiliary_head")
    assert sorted(fresh) == sorted(f"{head}.classifier.{leaf}" for head, leaf in product(heads, ("weight", "bias")))
    assert abs(other.decode_head.classifier.weight.std().item() - 0.3) < 0.05
    same(other.decode_head.fpn_bottleneck.conv.weight, weight)


def test_half_precision_and_autocast() -> None:
    model = perturb(UperNetForSemanticSegmentation(resnet_config()), scale=0.05).eval()
    inputs = batch((64, 64))
    with torch.no_grad():
        expected = model(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(**inputs)
        half = copy.deepcopy(model).to(torch.bfloat16)
        low = half(inputs["pixel_values"].to(torch.bfloat16), labels=inputs["labels"])
    assert cast.loss.dtype == low.loss.dtype == torch.float32
    assert low.logits.dtype == torch.bfloat16
    close(cast.logits.float(), expected.logits, tol=0.05)
    close(low.logits.float(), expected.logits, tol=0.05)
