"""Native classes against timm on the same weights: read from timm's files, equal in every map and logit, and given back."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import vertebra
from vertebra.auto.registry import config_class, model_class
from vertebra.backbones.timm_native import choose, families_of, sources
from vertebra.loading import match_model
from vertebra.no_draws import NoDraws


class Case(NamedTuple):
    """A small network of timm, and what reads it."""

    name: str
    """Of the classes: `<name>Backbone`, `<name>ForImageClassification`."""
    architecture: str
    arguments: dict[str, Any]
    """Of timm's constructor."""
    pairs: dict[int, int]
    """Our index to timm's, of the stages that are compared."""
    options: dict[str, Any] = {}
    """With which our maps are timm's."""
    classes: int = 5
    tolerance: float = 1e-5
    head: str = "ForImageClassification"
    pooled: bool = False
    """Whether what timm gives without a head is the pooled output, and not the last hidden state."""


SWIN = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
TINY_VIT = {"img_size": 48, "embed_dim": 32, "depth": 3, "num_heads": 2}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
PVT = {"depths": (1, 2, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}
HIERA = {"img_size": 64, "embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1)}
PLAIN = {1: 0, 3: 2}
UNNORMED = {"apply_layernorm": False}
CASES = {
    "swin": Case("Swin", "swin_tiny_patch4_window7_224", SWIN, {1: 0, 2: 1}, UNNORMED),
    "swin of other windows": Case(
        "Swin", "swin_tiny_patch4_window7_224", {**SWIN, "img_size": 64, "window_size": 4}, {1: 0, 2: 1}, UNNORMED
    ),
    "resnet18": Case("ResNet", "resnet18", {"layers": (1, 2, 1, 1)}, {1: 1, 2: 2, 3: 3, 4: 4}),
    "resnet bottleneck": Case(
        "ResNet", "resnet50", {"layers": (1, 2, 1, 1), "channels": (16, 16, 32, 32)}, {1: 1, 2: 2, 3: 3, 4: 4}
    ),
    "convnext": Case("ConvNext", "convnext_tiny", CONVNEXT, {1: 0, 2: 1, 3: 2, 4: 3}, UNNORMED),
    "convnext by convolutions": Case("ConvNext", "convnext_atto", CONVNEXT, {1: 0, 2: 1, 3: 2, 4: 3}, UNNORMED),
    "convnextv2": Case("ConvNextV2", "convnextv2_atto", CONVNEXT, {1: 0, 2: 1, 3: 2, 4: 3}, UNNORMED),
    "vit": Case("ViT", "vit_tiny_patch16_224", TINY_VIT, PLAIN, UNNORMED),
    "dinov2": Case("Dinov2", "vit_small_patch14_dinov2", {**TINY_VIT, "img_size": 42}, PLAIN, UNNORMED, 0),
    "dinov2 gated": Case(
        "Dinov2", "vit_giant_patch14_dinov2", {**TINY_VIT, "img_size": 42, "mlp_ratio": 5.5}, PLAIN, UNNORMED, 0
    ),
    "dinov2 with registers": Case(
        "Dinov2WithRegisters", "vit_small_patch14_reg4_dinov2", {**TINY_VIT, "img_size": 42}, PLAIN, UNNORMED, 0
    ),
    "swinv2": Case("Swinv2", "swinv2_tiny_window8_256", {**SWIN, "img_size": 64}, {1: 0, 2: 1}),
    "deit": Case(
        "DeiT",
        "deit_tiny_distilled_patch16_224",
        TINY_VIT,
        PLAIN,
        UNNORMED,
        head="ForImageClassificationWithTeacher",
    ),
    "dinov3": Case("DINOv3ViT", "vit_small_patch16_dinov3", TINY_VIT, {1: 0, 2: 1}, UNNORMED, 0),
    "dinov3 with biases": Case("DINOv3ViT", "vit_small_patch16_dinov3_qkvb", TINY_VIT, {1: 0, 2: 1}, UNNORMED, 0),
    "dinov3 gated": Case("DINOv3ViT", "vit_small_plus_patch16_dinov3", TINY_VIT, {1: 0, 2: 1}, UNNORMED, 0),
    "dinov3 convnext": Case("DINOv3ConvNext", "convnext_tiny", CONVNEXT, {1: 0, 2: 1, 3: 2, 4: 3}, {}, 0, pooled=True),
    "beit": Case("Beit", "beit_base_patch16_224", TINY_VIT, PLAIN),
    "pvt_v2": Case("PvtV2", "pvt_v2_b0", PVT, {0: 0, 1: 1, 2: 2, 3: 3}),
    "pvt_v2 linear": Case("PvtV2", "pvt_v2_b2_li", PVT, {0: 0, 1: 1, 2: 2, 3: 3}),
    "hiera": Case("Hiera", "hiera_tiny_224", HIERA, {1: 0, 2: 1, 3: 2, 4: 3}, UNNORMED),
}


def network(architecture: str, classes: int, arguments: dict[str, Any]) -> Any:
    """A timm model in which no parameter has the value that it starts with."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=classes, **arguments)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


REAL = {
    "resnet26": Case("ResNet", "resnet26", {}, {1: 1, 4: 4}),
    "swin_tiny_patch4_window7_224": Case("Swin", "swin_tiny_patch4_window7_224", {}, {1: 0, 4: 3}, UNNORMED),
    "swinv2_tiny_window8_256": Case("Swinv2", "swinv2_tiny_window8_256", {}, {1: 0, 4: 3}),
    "convnext_atto": Case("ConvNext", "convnext_atto", {}, {1: 0, 4: 3}, UNNORMED),
    "convnextv2_atto": Case("ConvNextV2", "convnextv2_atto", {}, {1: 0, 4: 3}, UNNORMED),
    "vit_tiny_patch16_384": Case("ViT", "vit_tiny_patch16_384", {}, {1: 0, 12: 11}, UNNORMED),
    "vit_base_patch16_224_miil": Case("ViT", "vit_base_patch16_224_miil", {}, {1: 0, 12: 11}, UNNORMED),
    "test_vit": Case("ViT", "test_vit", {}, {1: 0, 6: 5}, UNNORMED),
    "vit_small_patch14_dinov2": Case("Dinov2", "vit_small_patch14_dinov2", {}, {1: 0, 12: 11}, UNNORMED, 0),
    "vit_base_patch14_reg1_tipsv2": Case(
        "Dinov2WithRegisters", "vit_base_patch14_reg1_tipsv2", {}, {1: 0, 12: 11}, UNNORMED, 0
    ),
    "vit_tiny_patch16_dinov3_qkvb": Case("DINOv3ViT", "vit_tiny_patch16_dinov3_qkvb", {}, {1: 0, 11: 10}, UNNORMED, 0),
    "vit_small_patch16_lingbot": Case("DINOv3ViT", "vit_small_patch16_lingbot", {}, {1: 0, 11: 10}, UNNORMED, 0),
    "beitv2_base_patch16_224": Case("Beit", "beitv2_base_patch16_224", {}, {1: 0, 12: 11}),
    "pvt_v2_b0": Case("PvtV2", "pvt_v2_b0", {}, {0: 0, 3: 3}),
    "pvt_v2_b2_li": Case("PvtV2", "pvt_v2_b2_li", {}, {0: 0, 3: 3}),
    "hiera_tiny_224": Case("Hiera", "hiera_tiny_224", {}, {1: 0, 4: 3}, UNNORMED),
}
"""As timm has them."""


@pytest.fixture(scope="module", params=[*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in REAL)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Any, Path]:
    """A case, timm's model, and the folder in timm's format."""
    chosen = (CASES | REAL)[request.param]
    model = network(chosen.architecture, chosen.classes, chosen.arguments)
    folder = tmp_path_factory.mktemp("timm")
    save_for_hf(model, folder, model_args=chosen.arguments, safe_serialization=True)
    return chosen, model, folder


def pixels(model: Any) -> torch.Tensor:
    """Noise of the size that a timm model was built for."""
    embed = getattr(model, "patch_embed", None)
    height, width = getattr(embed, "img_size", None) or (64, 64)
    if (cells := getattr(model, "tokens_spatial_shape", None)) is not None:
        height, width = (count * stride for count, stride in zip(cells, model.patch_stride, strict=True))
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_maps_are_those_of_timm(case: tuple[Case, Any, Path]) -> None:
    """`compare` finds the native class and timm's model equal, on the same file."""
    chosen, model, folder = case
    native = getattr(vertebra, f"{chosen.name}Backbone").from_pretrained(
        folder, out_indices=list(chosen.pairs), **chosen.options
    )
    other = vertebra.AutoBackbone.from_pretrained(folder, out_indices=list(chosen.pairs.values()))
    found = vertebra.compare(native, other, pixels(model), tolerance=chosen.tolerance)
    assert found, str(found)


def answers(chosen: Case, native: Any, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What both give at the end of the network, for the same images."""
    images = pixels(model)
    with torch.no_grad():
        if chosen.classes:
            return native(images).logits, model(images)
        if chosen.pooled:
            return native(images).pooler_output, model(images)
        return native(images).last_hidden_state, model.forward_features(images)


def whole(chosen: Case, folder: Path) -> Any:
    """The classifier of a case, or the model without a head where timm's checkpoint has none."""
    kind = chosen.head if chosen.classes else "Model"
    return getattr(vertebra, f"{chosen.name}{kind}").from_pretrained(folder)


def test_the_end_is_that_of_timm(case: tuple[Case, Any, Path]) -> None:
    """Logits, or where timm's checkpoint has no head the final state."""
    chosen, model, folder = case
    ours, theirs = answers(chosen, whole(chosen, folder), model)
    assert (ours - theirs).abs().max() <= chosen.tolerance * theirs.abs().max()


def test_weights_go_back(case: tuple[Case, Any, Path]) -> None:
    """What was trained here timm loads strictly, and computes the same."""
    chosen, model, folder = case
    native = whole(chosen, folder)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.mul_(1.01)
    twin = timm.create_model(chosen.architecture, num_classes=chosen.classes, **chosen.arguments).eval()
    twin.load_state_dict(native.timm_state_dict(chosen.architecture, **chosen.arguments), strict=True)
    ours, theirs = answers(chosen, native, twin)
    assert (ours - theirs).abs().max() <= chosen.tolerance * theirs.abs().max()
    assert not torch.equal(theirs, answers(chosen, native, model)[1])


def saved(folder: Path, architecture: str, classes: int = 5, **arguments: Any) -> Path:
    """A folder with a small network in timm's format."""
    save_for_hf(network(architecture, classes, arguments), folder, model_args=arguments, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    ("reader", "architecture", "arguments", "told"),
    [
        (
            "ViTBackbone",
            "vit_small_patch14_dinov2",
            {**TINY_VIT, "img_size": 42},
            "layer scale. Classes of the model_type dinov2 can, and",
        ),
        (
            "ViTForImageClassification",
            "vit_tiny_patch16_224",
            {**TINY_VIT, "global_pool": "avg"},
            "global_pool='avg', not the class token",
        ),
        (
            "SwinBackbone",
            "resnet18",
            {},
            "the table of this family knows SwinTransformer. Classes of the model_type resnet can",
        ),
        ("ResNetBackbone", "seresnet18", {}, "squeeze and excitation"),
        ("ResNetBackbone", "resnext26ts", {}, "it is timm's ByobNet"),
        (
            "ConvNextModel",
            "convnextv2_atto",
            CONVNEXT,
            "it has global response norms. Classes of the model_type convnextv2 can",
        ),
        (
            "Dinov2ForImageClassification",
            "vit_small_patch14_dinov2",
            {**TINY_VIT, "img_size": 42},
            "its head sees one token",
        ),
        ("SegformerBackbone", "resnet18", {}, "this family has no table of timm's names"),
    ],
)
def test_another_network_is_refused(
    tmp_path: Path, reader: str, architecture: str, arguments: dict[str, Any], told: str
) -> None:
    """The error says why, which classes can, and what always reads it."""
    folder = saved(tmp_path, architecture, 0 if "dinov2" in architecture and "Class" not in reader else 5, **arguments)
    with pytest.raises(ValueError, match=rf"^timm's {architecture} is no network that {reader} can be: ") as caught:
        getattr(vertebra, reader).from_pretrained(folder)
    assert told in str(caught.value)
    assert str(caught.value).endswith("AutoBackbone.from_pretrained loads it as a TimmBackbone.")


def test_weights_go_back_to_their_own_architecture_alone() -> None:
    """Of another one the first key that differs is named."""
    model = vertebra.ResNetModel(vertebra.ResNetConfig(depths=(2, 2, 2, 2), layer_type="basic"))
    with pytest.raises(
        ValueError, match=r"resnet34 is another network than this ResNetModel: .* is .* there and .* here"
    ):
        model.timm_state_dict("resnet34")


def test_a_bare_name_is_a_timm_architecture(hub: Any, tmp_path: Path) -> None:
    """Its repository is asked, labels and all; a pruned backbone reads its part."""
    hub.add("timm/resnet18.a1_in1k", saved(tmp_path / "files", "resnet18", 1000))
    backbone = vertebra.ResNetBackbone.from_pretrained(
        "resnet18.a1_in1k", out_indices=[2], cache_dir=tmp_path / "cache"
    )
    assert (backbone.channels, backbone.strides) == ([128], [8])
    classifier = vertebra.ResNetForImageClassification.from_pretrained(
        "hf-hub:timm/resnet18.a1_in1k", cache_dir=tmp_path / "cache"
    )
    assert classifier.config.num_labels == 1000
    assert classifier.config.labels[1].startswith("goldfish")


def test_older_layouts_go_through_the_loader_of_timm(tmp_path: Path) -> None:
    """Swin's first checkpoints merge cells at the end of a stage, and have a head of one layer."""
    folder = saved(tmp_path, "swin_tiny_patch4_window7_224", **SWIN)
    expected = vertebra.SwinForImageClassification.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    older = {
        name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc.", "head."): tensor
        for name, tensor in tensors.items()
    }
    save_file(older, folder / "model.safetensors")
    found = vertebra.SwinForImageClassification.from_pretrained(folder)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_images_of_other_channels_and_other_labels(tmp_path: Path) -> None:
    """What else a load can change works on timm's files too."""
    folder = saved(tmp_path, "vit_tiny_patch16_224", **TINY_VIT)
    backbone = vertebra.ViTBackbone.from_pretrained(folder, num_channels=1)
    assert backbone(torch.zeros(1, 1, 48, 48)).feature_maps[0].shape == (1, 32, 3, 3)
    classifier = vertebra.ViTForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert classifier(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 3)


def test_what_was_read_from_timm_is_saved_as_the_family_saves(tmp_path: Path) -> None:
    """The folder is one of this family, and says what its maps are."""
    folder = saved(tmp_path / "timm", "swin_tiny_patch4_window7_224", **SWIN)
    backbone = vertebra.SwinBackbone.from_pretrained(folder, apply_layernorm=False, out_indices=[1, 2])
    backbone.save_pretrained(tmp_path / "own")
    again = vertebra.AutoBackbone.from_pretrained(tmp_path / "own")
    assert type(again) is vertebra.SwinBackbone
    assert vertebra.compare(backbone, again, torch.randn(1, 3, 56, 56), tolerance=0.0)


PYRAMIDS = ("resnet", "convnext", "swin_transformer", "swin_transformer_v2", "pvt_v2", "hiera")
PLAIN_ONES = ("vision_transformer", "deit", "eva", "beit")


@pytest.mark.slow
@pytest.mark.parametrize("module", [*PYRAMIDS, *PLAIN_ONES])
def test_what_a_table_takes_has_every_tensor(module: str) -> None:
    """Every architecture of timm that a family takes for its own has all tensors of the family's model, and no others."""
    taken = 0
    for name in timm.list_models(module=module):
        with torch.device("meta"), NoDraws():
            theirs = timm.create_model(name, num_classes=0)
        shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
        for family in families_of(theirs):
            if family == "maskformer-swin":  # which has no whole model
                continue
            config = config_class(family)
            model = model_class(config, "model", "AutoModel")
            table, keys = choose(model, theirs, name)
            with torch.device("meta"), NoDraws():
                ours = model(config(**keys))
            made = {key: source.shape(shapes) for key, source in sources(table, theirs, shapes).items()}
            wanted = {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()}
            target = match_model(ours, made, wanted)
            left = {
                key for key, own in target.items() if own not in wanted and not known(key, ours.explained_unexpected)
            }
            lacking = {key for key in wanted if key not in target.values() and not known(key, ours.explained_missing)}
            assert (left, lacking) == (set(), set()), f"{family} {name}"
            for key, own in target.items():
                assert own not in wanted or math.prod(made[key]) == math.prod(wanted[own]), f"{family} {name} {key}"
            taken += 1
    assert taken


def known(name: str, reasons: Any) -> bool:
    """Whether one of the patterns finds a name."""
    return any(re.search(pattern, name) for pattern in reasons)
