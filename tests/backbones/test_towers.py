"""CLIP and SigLIP: the image tower out of files of the whole model, and classifiers whose files are those."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close, same, save_with_transformers, saved_keys
from safetensors.torch import load_file, save_file

import vertebra
from vertebra import AutoBackbone, AutoConfig, AutoModelForImageClassification

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 99}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "spine"}, "label2id": {"cat": 0, "dog": 1, "spine": 2}}
BOTH = pytest.mark.parametrize("family", ["CLIP", "Siglip"])


def whole(family: str, folder: Path, kind: str = "Model", **kwargs: Any) -> Any:
    """A model of transformers with both towers, or its classifier, saved."""
    config = getattr(transformers, f"{family}Config")(vision_config=VISION, text_config=TEXT, **kwargs)
    return save_with_transformers(getattr(transformers, f"{family}{kind}")(config), folder)


def named(family: str, kind: str) -> Any:
    return getattr(vertebra, f"{family}{kind}")


@BOTH
class TestFilesOfWholeModels:
    def test_backbone(self, family: str, tmp_path: Path) -> None:
        theirs = whole(family, tmp_path).vision_model
        x = torch.randn(2, 3, 37, 51)
        with torch.no_grad():
            states = theirs(x, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
            normed = theirs.post_layernorm(states[2])[:, family == "CLIP" :].mT.unflatten(2, (4, 6))
        config = AutoConfig.from_pretrained(tmp_path)
        for load in (named(family, "VisionBackbone"), AutoBackbone):
            for options in ({}, {"config": config}):
                backbone, info = load.from_pretrained(tmp_path, output_loading_info=True, **options)
                assert type(backbone) is named(family, "VisionBackbone")
                assert type(backbone.config) is named(family, "VisionConfig")
                assert info["missing_keys"] == []
                assert set(info["unexpected_keys"]) == info["explained"].keys()
                assert {key.split(".")[0] for key in info["unexpected_keys"]} >= {"text_model", "logit_scale"}
                with torch.no_grad():
                    (found,) = backbone(x).feature_maps
                close(found, normed)

    def test_selection_and_keys(self, family: str, tmp_path: Path) -> None:
        whole(family, tmp_path)
        backbone = AutoBackbone.from_pretrained(tmp_path, out_indices=[0, 1], apply_layernorm=False, dtype="bfloat16")
        assert backbone.out_features == ["stem", "stage1"]
        assert not any("post_layernorm" in name for name in backbone.state_dict())
        assert backbone.dtype == torch.bfloat16
        with pytest.raises(ValueError, match="norm=True needs the final norm"):
            backbone.get_intermediate_layers(torch.zeros(1, 3, 32, 32), [0])

    def test_model(self, family: str, tmp_path: Path) -> None:
        theirs = whole(family, tmp_path).vision_model
        ours, info = named(family, "VisionModel").from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == []
        assert ours.base_model is ours
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            close(ours(x).pooler_output, theirs(x).pooler_output)
        # transformers 4 reads this spelling alone
        ours.save_pretrained(tmp_path / "tower")
        assert {name.split(".")[0] for name in saved_keys(tmp_path / "tower")} == {"vision_model"}
        assert ours.config.model_type == f"{family.lower()}_vision_model"

    def test_random_weights(self, family: str) -> None:
        config = named(family, "Config")(vision_config={**VISION, "num_hidden_layers": 3})
        backbone = AutoBackbone.from_config(config)
        assert type(backbone) is named(family, "VisionBackbone")
        assert backbone.out_features == ["stage3"]

    def test_older_files_count_positions(self, family: str, tmp_path: Path) -> None:
        whole(family, tmp_path)
        (path,) = tmp_path.glob("*.safetensors")
        ids = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
        save_file(load_file(path) | ids, path, {"format": "pt"})
        _, info = AutoBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["explained"]["vision_model.embeddings.position_ids"] == "older files count the positions"


@BOTH
class TestClassifiers:
    def test_as_transformers(self, family: str, tmp_path: Path) -> None:
        theirs = whole(family, tmp_path, "ForImageClassification", num_labels=3)
        ours, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert type(ours) is named(family, "ForImageClassification")
        assert info["missing_keys"] == info["unexpected_keys"] == []
        assert type(ours.base_model).__name__ == f"{family}VisionTransformer"
        x, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
        asked = {"labels": labels, "output_hidden_states": True, "output_attentions": True}
        expected, actual = theirs(x, **asked), ours(x, **asked)
        assert list(actual) == list(expected)
        for name in actual:
            close(actual[name], expected[name], name=name)
        expected.loss.backward()
        actual.loss.backward()
        close(ours.classifier.weight.grad, theirs.classifier.weight.grad)

    def test_transformers_reads_ours(self, family: str, tmp_path: Path) -> None:
        theirs = whole(family, tmp_path, "ForImageClassification", **LABELS)
        named(family, "ForImageClassification").from_pretrained(tmp_path).save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
        content, there = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "ours", tmp_path))
        assert {name: value for name, value in there.items() if content[name] != value}.keys() <= {
            "transformers_version",
            "vision_config",
        }
        assert there["vision_config"].items() <= content["vision_config"].items()
        back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert {name: set(keys) for name, keys in info.items() if keys} == {}
        assert back.config.id2label[2] == "spine"
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            close(back.eval()(x).logits, theirs(x).logits)

    def test_files_of_whole_models(self, family: str, tmp_path: Path) -> None:
        whole(family, tmp_path)
        model, info = AutoModelForImageClassification.from_pretrained(
            tmp_path, num_labels=5, num_channels=1, output_loading_info=True
        )
        assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
        assert set(info["missing_keys"]) <= info["explained"].keys()
        assert [key for key, _, _ in info["adapted_keys"]] == ["vision_model.embeddings.patch_embedding.weight"]
        assert model(torch.randn(1, 1, 40, 33)).logits.shape == (1, 5)

    def test_backbone_of_a_classifier(self, family: str, tmp_path: Path) -> None:
        whole(family, tmp_path, "ForImageClassification")
        backbone, info = AutoBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == []
        assert set(info["unexpected_keys"]) == info["explained"].keys()
        model = AutoModelForImageClassification.from_pretrained(tmp_path)
        for name, tensor in backbone.state_dict().items():
            same(tensor, model.state_dict()[name], name)


@BOTH
def test_initial_weights(family: str) -> None:
    """Standard deviations are transformers' own, whose patches of SigLIP start 14% wider than Lecun's rule."""
    sizes = {**VISION, "hidden_size": 64, "intermediate_size": 128}
    theirs = getattr(transformers, f"{family}VisionModel")(getattr(transformers, f"{family}VisionConfig")(**sizes))
    ours = named(family, "VisionModel")(named(family, "VisionConfig")(**sizes))
    expected = {f"vision_model.{name}": tensor for name, tensor in theirs.named_parameters()}
    for name, tensor in ours.named_parameters():
        if tensor.numel() >= 1024:
            assert tensor.std().item() == pytest.approx(expected[name].std().item(), rel=0.15), name
