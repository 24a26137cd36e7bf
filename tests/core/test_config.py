"""Configurations: arguments, files, overrides, the selection of stages, and subclasses in transformers' style."""

import copy
import dataclasses
import json
import pickle
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hub_server import HubServer

from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.resnet import ResNetConfig
from vertebra.backbones.swin import MaskFormerSwinConfig, SwinConfig
from vertebra.config import PreTrainedConfig, PretrainedConfig
from vertebra.stages import pair


class TestArguments:
    def test_positions_follow_the_family_s_own_keys(self) -> None:
        config = SwinConfig(48, 2, 4, num_heads=(1, 2, 4, 8))
        assert (config.image_size, config.patch_size, config.num_channels) == (48, 2, 4)
        assert config.num_heads == [1, 2, 4, 8]

    def test_too_many_positions(self) -> None:
        with pytest.raises(
            TypeError,
            match=r"^SwinConfig takes 19 positional arguments: image_size, .*encoder_stride, .*always_shift\.$",
        ):
            SwinConfig(*range(20))
        with pytest.raises(TypeError, match=r"^SwinConfig got image_size both by position and by name\.$"):
            SwinConfig(48, image_size=32)

    def test_a_typo_shows_the_nearest(self) -> None:
        with pytest.raises(
            TypeError, match=r"^SwinConfig has no key 'windowsize'\. Did you mean 'window_size'\? Its keys are "
        ):
            SwinConfig(windowsize=7)
        with pytest.raises(
            AttributeError, match=r"^SwinConfig has no key 'windowsize'\. Did you mean 'window_size'\?$"
        ):
            SwinConfig().windowsize  # noqa: B018
        assert not hasattr(SwinConfig(), "pretrained_window_sizes")

    def test_defaults_are_not_shared(self) -> None:
        one, two = SwinConfig(), SwinConfig()
        one.depths.append(9)
        assert two.depths == [2, 2, 6, 2]
        assert SwinConfig.depths == (2, 2, 6, 2)

    def test_aliases(self) -> None:
        config = SwinConfig(num_attention_heads=[1, 2, 4, 8])
        assert config.num_heads == config.num_attention_heads == [1, 2, 4, 8]
        config.num_attention_heads = [3, 6, 12, 24]
        assert config.num_heads == [3, 6, 12, 24]
        assert config.num_hidden_layers == config.num_layers == 4
        assert "num_attention_heads" not in config.to_dict()

    def test_dtype_is_a_name(self) -> None:
        assert SwinConfig(dtype=torch.bfloat16).dtype == "bfloat16"
        assert SwinConfig(dtype="torch.float16").dtype == "float16"

    @pytest.mark.parametrize(
        ("config", "kwargs", "text"),
        [
            (
                SwinConfig,
                {"depths": [2]},
                "depths=[2] and num_heads=[3, 6, 12, 24] must have one entry per stage each.",
            ),
            (
                SwinConfig,
                {"embed_dim": 97},
                "num_heads=[3, 6, 12, 24]: stage1 has 97 channels (embed_dim=97), which 3 heads cannot share equally.",
            ),
            (ResNetConfig, {"layer_type": "wide"}, "layer_type='wide' must be one of basic, bottleneck."),
            (
                ResNetConfig,
                {"depths": [1]},
                "hidden_sizes=[256, 512, 1024, 2048] and depths=[1] must have one entry per stage each.",
            ),
        ],
    )
    def test_values_that_do_not_fit(self, config: Any, kwargs: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            config(**kwargs)


class TestLabels:
    def test_default(self) -> None:
        config = SwinConfig()
        assert config.num_labels == 2
        assert config.labels == {0: "LABEL_0", 1: "LABEL_1"}
        assert "id2label" not in json.loads(config.to_json_string())

    def test_number(self) -> None:
        config = SwinConfig(num_labels=3)
        assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
        config.num_labels = 1
        assert config.labels == {0: "LABEL_0"}

    def test_names_survive_json_as_numbers(self, tmp_path: Path) -> None:
        config = SwinConfig(id2label={0: "cat", 1: "dog", 10: "mug"})
        config.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        assert content["id2label"] == {"0": "cat", "1": "dog", "10": "mug"}
        loaded = SwinConfig.from_pretrained(tmp_path)
        assert loaded.id2label == {0: "cat", 1: "dog", 10: "mug"}
        assert loaded.label2id == {"cat": 0, "dog": 1, "mug": 10}
        assert loaded == config

    def test_null_in_a_file_is_derived(self) -> None:
        config = SwinConfig.from_dict({"id2label": {"0": "cat"}, "label2id": None})
        assert config.label2id == {"cat": 0}


class TestJson:
    def test_prints_as_json(self) -> None:
        text = repr(SwinConfig(embed_dim=48))
        assert text.startswith("SwinConfig {\n")
        content = json.loads(text.removeprefix("SwinConfig "))
        assert content["embed_dim"] == 48
        assert content["model_type"] == "swin"
        assert list(content) == sorted(content)

    def test_whole_or_as_the_difference(self) -> None:
        config = SwinConfig(output_attentions=True)
        diff, whole = json.loads(config.to_json_string()), json.loads(config.to_json_string(use_diff=False))
        assert diff["output_attentions"] is whole["output_attentions"] is True
        assert "return_dict" not in diff
        assert whole["return_dict"] is True
        assert diff.items() <= whole.items()
        # the family's own keys are written also at their default
        assert diff["window_size"] == 7

    def test_folder_json_path_and_dictionary(self, tmp_path: Path, hub: HubServer) -> None:
        config = ResNetConfig(embedding_size=8, out_indices=[-2, -1])
        config.save_pretrained(tmp_path / "new" / "folder")
        path = tmp_path / "new" / "folder" / "config.json"
        for loaded in (
            ResNetConfig.from_pretrained(path.parent),
            ResNetConfig.from_pretrained(str(path.parent)),
            ResNetConfig.from_pretrained(path),
            ResNetConfig.from_json_file(path),
            ResNetConfig.from_dict(config.to_dict()),
            copy.deepcopy(config),
            pickle.loads(pickle.dumps(config)),
        ):
            assert loaded == config
            assert loaded.out_indices == [-2, -1]
        assert ResNetConfig.from_pretrained(path.parent).name_or_path == str(path.parent)
        assert hub.requests == []
        config.to_json_file(tmp_path / "whole.json", use_diff=False)
        assert ResNetConfig.from_pretrained(tmp_path / "whole.json") == config

    def test_unknown_keys_of_a_file_are_kept(self, tmp_path: Path) -> None:
        content = SwinConfig().to_dict() | {"transformers_version": "4.30.0", "path_norm": True, "nested": {"a": [1]}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        config = SwinConfig.from_pretrained(tmp_path)
        assert config.path_norm is True
        assert config.nested == {"a": [1]}
        config.save_pretrained(tmp_path / "again")
        again = json.loads((tmp_path / "again" / "config.json").read_text())
        assert again.items() >= {"transformers_version": "4.30.0", "path_norm": True}.items()
        assert again["nested"] == {"a": [1]}
        assert copy.deepcopy(config) == config
        with pytest.raises(AttributeError, match=r"has no key 'path_nrm'\. Did you mean 'path_norm'"):
            config.path_nrm  # noqa: B018

    def test_overrides(self, tmp_path: Path) -> None:
        SwinConfig(embed_dim=48, out_features=["stage1"]).save_pretrained(tmp_path)
        config = SwinConfig.from_pretrained(tmp_path, drop_path_rate=0.3, num_labels=5, out_indices=[0, 3])
        assert (config.embed_dim, config.drop_path_rate, config.num_labels) == (48, 0.3, 5)
        assert config.out_features == ["stem", "stage3"]
        with pytest.raises(TypeError, match=r"^SwinConfig has no key 'drop_rate'\. Did you mean 'drop_path_rate'\?$"):
            SwinConfig.from_pretrained(tmp_path, drop_rate=0.3)
        config, unused = SwinConfig.from_pretrained(tmp_path, return_unused_kwargs=True, speed=3, qkv_bias=False)
        assert unused == {"speed": 3}
        assert config.qkv_bias is False

    def test_derived_keys_are_written_and_not_read(self) -> None:
        content = SwinConfig(embed_dim=48).to_dict()
        assert (content["hidden_size"], content["num_layers"]) == (384, 4)
        config = SwinConfig.from_dict(content | {"hidden_size": 5, "stage_names": ["a", "b"]})
        assert config.hidden_size == 384
        assert config.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]

    def test_equality(self) -> None:
        assert SwinConfig() == SwinConfig()
        assert SwinConfig() != SwinConfig(embed_dim=48)
        assert SwinConfig() != MaskFormerSwinConfig()
        assert SwinConfig() != {}
        with pytest.raises(TypeError, match="unhashable"):
            hash(SwinConfig())


class TestBadFiles:
    def test_another_model_type(self) -> None:
        text = (
            "This configuration has model_type 'resnet'; SwinConfig reads 'swin'. AutoConfig.from_pretrained chooses "
            "the class by model_type."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            SwinConfig.from_dict(ResNetConfig().to_dict())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{not json", "is not a JSON file: Expecting property name"),
            ("[1, 2]", "holds a JSON list, not an object."),
            ("\xff\xfe", "is not a JSON file"),
            ("", "is not a JSON file: Expecting value"),
            ("version https://git-lfs.github.com/spec/v1", "is not a JSON file: Expecting value"),
            ('{"depths": ' + "[" * 50_000, "is not a JSON file: maximum recursion depth exceeded"),
            ('{"depths": ' + "9" * 5_000 + "}", "is not a JSON file: Exceeds the limit"),
        ],
        ids=["no JSON", "a list", "no text", "empty", "a Git LFS pointer", "nested", "an endless number"],
    )
    def test_not_a_json_object(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            SwinConfig.from_pretrained(tmp_path)
        assert str(tmp_path / "config.json") in str(caught.value)

    def test_missing(self, tmp_path: Path, hub: HubServer) -> None:
        with pytest.raises(OSError, match=re.escape(f"The folder '{tmp_path}' has no file 'config.json'.")):
            SwinConfig.from_pretrained(tmp_path)
        gone = tmp_path / "gone"
        with pytest.raises(OSError, match=re.escape(f"'{gone}' is not an existing folder")):
            SwinConfig.from_pretrained(gone)
        assert hub.requests == []

    def test_a_later_format(self) -> None:
        text = (
            "This configuration was written in format 2 of vertebra's own keys; this version reads format 1. Update "
            "vertebra to load it."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            SwinConfig.from_dict({"vertebra": {"format": 2, "magic": 1}})


class TestSelection:
    def test_names_and_indices_stay_in_step(self) -> None:
        config = SwinConfig()
        assert (config.out_features, config.out_indices) == (["stage4"], [4])
        config.out_features = ["stem", "stage2"]
        assert config.out_indices == [0, 2]
        config.out_indices = (-2, -1)
        assert config.out_features == ["stage3", "stage4"]
        assert config.out_indices == [-2, -1]
        config.out_indices = None
        assert config.out_features == ["stage4"]
        config.set_output_features_output_indices(["stage1"], [1])
        assert (config.out_features, config.out_indices) == (["stage1"], [1])

    def test_a_refused_selection_changes_nothing(self) -> None:
        config = SwinConfig(out_indices=[1])
        with pytest.raises(ValueError, match=r"^out_indices=\[7\] holds 7; allowed are -5 to 4\."):
            config.out_indices = [7]
        with pytest.raises(ValueError, match="select different stages"):
            config.set_output_features_output_indices(["stage1"], [2])
        with pytest.raises(ValueError, match=r"^out_strides and out_indices exclude each other; give one\.$"):
            SwinConfig(out_indices=[1], out_strides=[4])
        assert config.out_features == ["stage1"]

    def test_the_keys_on_disk_are_those_of_transformers(self) -> None:
        ours = SwinConfig(out_indices=[-2, -1]).to_dict()
        theirs = transformers.SwinConfig(out_indices=[-2, -1]).to_dict()
        for key in ("stage_names", "out_features", "out_indices"):
            assert ours[key] == list(theirs[key])
        assert "vertebra" not in ours

    def test_vertebra_s_own_state_stands_under_one_key(self, tmp_path: Path) -> None:
        config = SwinConfig(prune=False, freeze="stage2", size_policy="pad", out_indices=[1])
        content = config.to_dict()
        assert content["vertebra"] == {"format": 1, "prune": False, "freeze": "stage2", "size_policy": "pad"}
        assert not {"prune", "freeze", "size_policy", "out_strides", "selection_is_chosen"} & content.keys()
        config.save_pretrained(tmp_path)
        loaded = SwinConfig.from_pretrained(tmp_path)
        assert (loaded.prune, loaded.freeze, loaded.size_policy) == (False, "stage2", "pad")
        assert SwinConfig.from_pretrained(tmp_path, prune=True).prune is True
        assert loaded == config

    def test_strides_wait_for_the_backbone(self, tmp_path: Path) -> None:
        config = SwinConfig(out_strides=(4, 8))
        assert config.out_strides == [4, 8]
        with pytest.raises(ValueError, match=r"^out_strides=\[4, 8\] is resolved when the backbone is built"):
            config.out_features  # noqa: B018
        config.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        assert content["vertebra"] == {"format": 1, "out_strides": [4, 8]}
        assert SwinConfig.from_pretrained(tmp_path) == config
        assert SwinConfig.from_pretrained(tmp_path, out_indices=[1]).out_features == ["stage1"]
        config.out_features = ["stage1"]
        assert config.out_strides is None

    def test_fractional_strides_are_saved(self, tmp_path: Path) -> None:
        config = SwinConfig(out_strides=[Fraction(7, 2), (Fraction(16, 3), Fraction(8))])
        config.save_pretrained(tmp_path)
        loaded = SwinConfig.from_pretrained(tmp_path)
        assert loaded == config
        assert [pair(stride) for stride in loaded.out_strides] == [pair(stride) for stride in config.out_strides]


class Plain(PreTrainedConfig):
    """A configuration in transformers' style."""

    model_type = "plain"

    def __init__(self, width: int = 64, act: str = "relu", **kwargs: Any) -> None:
        self.width = width
        self.act = act
        super().__init__(**kwargs)


class PlainBackbone(BackboneConfigMixin, PretrainedConfig):
    """The same with stages."""

    model_type = "plain-backbone"

    def __init__(
        self, widths: tuple[int, ...] = (8, 16), out_features: Any = None, out_indices: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.widths = list(widths)
        self.stage_names = ["stem"] + [f"stage{number}" for number in range(1, len(widths) + 1)]
        self.set_output_features_output_indices(out_features, out_indices)


class TestSubclassesInTransformersStyle:
    def test_round_trip(self, tmp_path: Path) -> None:
        config = Plain(width=32, num_labels=4)
        assert (config.width, config.act, config.num_labels) == (32, "relu", 4)
        config.save_pretrained(tmp_path)
        assert Plain.from_pretrained(tmp_path) == config
        assert Plain.from_pretrained(tmp_path, act="gelu").act == "gelu"
        with pytest.raises(TypeError, match=r"^Plain has no key 'widht'\. Did you mean 'width'\?$"):
            Plain.from_pretrained(tmp_path, widht=3)
        with pytest.raises(TypeError, match=r"^Plain has no key 'widht'\."):
            Plain(widht=3)

    def test_a_backbone(self, tmp_path: Path) -> None:
        config = PlainBackbone(widths=(4, 8, 16), out_indices=(1, -1))
        assert config.out_features == ["stage1", "stage3"]
        config.save_pretrained(tmp_path)
        loaded = PlainBackbone.from_pretrained(tmp_path)
        assert loaded == config
        assert loaded.widths == [4, 8, 16]
        assert loaded.out_indices == [1, -1]
        assert PlainBackbone.from_pretrained(tmp_path, out_features=["stem"]).out_indices == [0]
        with pytest.raises(ValueError, match=r"names 'stage4', which is no stage"):
            PlainBackbone(out_features=["stage4"])

    def test_stages_that_were_never_named(self) -> None:
        class Nameless(BackboneConfigMixin):
            model_type = "nameless"

        with pytest.raises(ValueError, match=r"^Nameless does not say what its stages are: assign self\.stage_names"):
            Nameless().out_features  # noqa: B018


class TestPeers:
    @pytest.mark.parametrize("name", ["SwinConfig", "ResNetConfig", "MaskFormerSwinConfig"])
    def test_defaults_are_transformers_own(self, name: str, tmp_path: Path) -> None:
        ours = {"SwinConfig": SwinConfig, "ResNetConfig": ResNetConfig, "MaskFormerSwinConfig": MaskFormerSwinConfig}[
            name
        ]()
        theirs = getattr(transformers, name)().to_dict()
        written = json.loads(ours.to_json_string(use_diff=False))
        # version 5 has dropped num_layers from MaskFormer's Swin, and encoder_stride it never had
        own = set(written) - ({"encoder_stride", "num_layers"} if name.startswith("Mask") else set())
        assert own <= set(theirs) | {"vertebra"}
        for key in own - {"id2label", "label2id", "dtype"}:
            value = list(theirs[key]) if isinstance(theirs[key], tuple) else theirs[key]
            assert written[key] == value, key

    def test_transformers_reads_ours_and_the_reverse(self, tmp_path: Path) -> None:
        ours = SwinConfig(embed_dim=48, out_indices=[1, -1], num_labels=3, prune=False)
        ours.save_pretrained(tmp_path / "ours")
        theirs = transformers.SwinConfig.from_pretrained(tmp_path / "ours")
        assert (theirs.embed_dim, list(theirs.out_indices), theirs.num_labels) == (48, [1, -1], 3)
        assert theirs.out_features == ["stage1", "stage4"]
        theirs.save_pretrained(tmp_path / "theirs")
        again = SwinConfig.from_pretrained(tmp_path / "theirs")
        assert again.prune is False
        assert (again.out_indices, again.labels, again.embed_dim) == (ours.out_indices, ours.labels, 48)


class TestFoundByReview:
    def test_keyword_only_arguments_come_back(self) -> None:
        class KeywordOnly(PretrainedConfig):
            model_type = "keyword-only"

            def __init__(self, *, width: int = 64, **kwargs: object) -> None:
                self.width = width
                super().__init__(**kwargs)

        assert KeywordOnly.from_dict(KeywordOnly(width=5).to_dict()).width == 5

    def test_factories_and_required_keys(self) -> None:
        class Made(PretrainedConfig):
            model_type = "made"
            width: int
            depths: list[int] = dataclasses.field(default_factory=lambda: [1, 2])

        assert Made(3).depths == [1, 2]
        assert Made(3).depths is not Made(3).depths
        with pytest.raises(TypeError, match="Made needs 'width'; it has no default"):
            Made()

    def test_aliases_of_derived_keys_in_files(self) -> None:
        assert SwinConfig.from_dict({"num_hidden_layers": 4, "num_labels": None}).num_layers == 4

    def test_torch_dtype_is_dtype(self) -> None:
        config = SwinConfig.from_dict({"torch_dtype": "float16"})
        assert config.dtype == "float16"
        assert "torch_dtype" not in config.to_dict()

    def test_labels_follow_what_is_given(self) -> None:
        saved = SwinConfig(num_labels=3).to_dict()
        assert SwinConfig.from_dict(saved, id2label={0: "a", 1: "b"}).label2id == {"a": 0, "b": 1}
        assert SwinConfig(label2id={"x": 0, "y": 1, "z": 2}).num_labels == 3
        assert SwinConfig.from_dict({"id2label": {"0": "cat"}, "label2id": None}).label2id == {"cat": 0}

    def test_assigning_to_a_name_that_is_no_key(self) -> None:
        config = SwinConfig()
        with pytest.raises(AttributeError, match=r"SwinConfig has no key 'depth' to assign. Did you mean 'depths'"):
            config.depth = [1]
        loaded = SwinConfig.from_dict({"something_else": 1})
        loaded.something_else = 2
        assert loaded.to_dict()["something_else"] == 2
