"""Files that transformers 4 wrote, with the outputs it computed: `tests/fixtures/v4` says how they were made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close
from safetensors.torch import load_file

from vertebra.backbones.resnet import ResNetBackbone, ResNetForImageClassification, ResNetModel
from vertebra.backbones.swin import MaskFormerSwinBackbone, SwinBackbone, SwinForImageClassification, SwinModel
from vertebra.model import PreTrainedModel

SWIN_FOLDERS = ["swin_backbone", "swin_backbone_negative", "swin_bin", "swin_sharded"]


def expected_of(folder: Path) -> dict[str, Any]:
    """Tensors by name; those called `name.0`, `name.1` as a list."""
    found: dict[str, Any] = {}
    for name, tensor in sorted(load_file(folder / "expected.safetensors").items()):
        field, _, index = name.partition(".")
        if index:
            found.setdefault(field, {})[tuple(map(int, index.split(".")))] = tensor
        else:
            found[name] = tensor
    return {k: [v[i] for i in sorted(v)] if isinstance(v, dict) else v for k, v in found.items()}


def load(cls: type[PreTrainedModel], folder: Path, **kwargs: Any) -> Any:
    """Load, and assert that every key either arrived or is accounted for."""
    model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    assert set(info["unexpected_keys"]) == set(info["explained"])
    return model


def tokens(maps: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """`(b, c, h, w)` maps as the `(b, n, c)` tokens of version 4."""
    return [state.flatten(2).mT for state in maps]


@pytest.mark.parametrize("name", SWIN_FOLDERS)
@pytest.mark.parametrize("prune", [True, False])
def test_swin_backbone(v4: Path, name: str, prune: bool) -> None:
    expected = expected_of(v4 / name)
    if prune:
        model = load(SwinBackbone, v4 / name)
    else:
        model, info = SwinBackbone.from_pretrained(v4 / name, prune=False, output_loading_info=True)
        assert all(key.startswith("hidden_states_norms.") for key in info["missing_keys"])
    with torch.no_grad():
        output = model(expected["pixel_values"], output_hidden_states=True, output_attentions=True)
    states = 1 + model.final_stage(output_hidden_states=True)
    assert states == len(output.hidden_states)
    close(output.feature_maps, expected["feature_maps"], name="feature_maps")
    close(tokens(output.hidden_states), expected["hidden_states"][:states], name="hidden_states")
    close(output.attentions, expected["attentions"][: states - 1], name="attentions")


def test_prune_is_seen_in_the_states(v4: Path) -> None:
    pixels = expected_of(v4 / "swin_backbone_negative")["pixel_values"]
    pruned = load(SwinBackbone, v4 / "swin_backbone_negative")
    whole = SwinBackbone.from_pretrained(v4 / "swin_backbone_negative", prune=False)
    assert pruned.out_indices == whole.out_indices == [-4, -2]
    assert len(pruned(pixels, output_hidden_states=True).hidden_states) == 3
    assert len(whole(pixels, output_hidden_states=True).hidden_states) == 4


def test_maskformer_swin_backbone(v4: Path) -> None:
    folder = v4 / "maskformer_swin_backbone"
    expected = expected_of(folder)
    model = load(MaskFormerSwinBackbone, folder)
    with torch.no_grad():
        output = model(expected["pixel_values"], output_hidden_states=True)
    close(output.feature_maps, expected["feature_maps"])
    nested = {name: v for name, v in load_file(folder / "expected.safetensors").items() if name.startswith("hidden")}
    assert sorted(nested) == [f"hidden_states.{n}" for n in ("0", "1.0", "1.1", "2.0", "2.1", "2.2", "2.3")]
    # of each stage version 4 lists the input and the states after the blocks, some of them twice
    last = [nested[f"hidden_states.{name}"] for name in ("0", "1.1", "2.3")]
    close(tokens(output.hidden_states), last)


def test_resnet_backbone(v4: Path) -> None:
    folder = v4 / "resnet_backbone_bottleneck"
    expected = expected_of(folder)
    model = load(ResNetBackbone, folder)
    assert model.out_features == ["stem", "stage1", "stage3"]
    with torch.no_grad():
        output = model(expected["pixel_values"], output_hidden_states=True)
    close(output.feature_maps, expected["feature_maps"])
    close(output.hidden_states, expected["hidden_states"])


@pytest.mark.parametrize(
    ("name", "classifier", "base"),
    [
        ("swin_classifier", SwinForImageClassification, SwinModel),
        ("resnet_classifier_basic", ResNetForImageClassification, ResNetModel),
    ],
)
def test_classifiers(v4: Path, name: str, classifier: type[PreTrainedModel], base: type[PreTrainedModel]) -> None:
    expected = expected_of(v4 / name)
    model = load(classifier, v4 / name)
    assert model.config.labels == {0: "cat", 1: "dog", 2: "vertebra"}
    assert model.config.label2id == {"cat": 0, "dog": 1, "vertebra": 2}
    asked = {"output_hidden_states": True} | ({"output_attentions": True} if name.startswith("swin") else {})
    with torch.no_grad():
        output = model(expected["pixel_values"], **asked)
        trunk = load(base, v4 / name)(expected["pixel_values"])
    for field in output:
        close(output[field], expected[field], name=field)
    for field in trunk:
        close(trunk[field], expected[field], name=field)
    assert {*output, *trunk, "pixel_values", "image"} >= set(expected)


@pytest.mark.parametrize("name", [*SWIN_FOLDERS, "maskformer_swin_backbone", "resnet_backbone_bottleneck"])
def test_saved_again_the_configuration_says_the_same(v4: Path, name: str, tmp_path: Path) -> None:
    cls = {"m": MaskFormerSwinBackbone, "r": ResNetBackbone, "s": SwinBackbone}[name[0]]
    config = cls.config_class.from_pretrained(v4 / name)
    config.save_pretrained(tmp_path)
    assert cls.config_class.from_pretrained(tmp_path) == config
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (v4 / name, tmp_path))
    after.pop("encoder_stride" if name.startswith("maskformer") else "", None)  # MaskFormer's own Swin has no such key
    assert before == after
