"""The rule by which models over a backbone choose its maps, and what becomes of the keys that name one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from oracle import same
from safetensors.torch import load_file
from tiny import RESNET, SWIN
from torch import Tensor, nn

from vertebra import (
    AutoBackbone,
    AutoConfig,
    ResNetBackbone,
    ResNetConfig,
    SwinBackbone,
    SwinConfig,
    TimmBackboneConfig,
)
from vertebra.auto.compose import build_backbone
from vertebra.backbones.base import Backbone
from vertebra.backbones.necks.fpn import FPN
from vertebra.heads.base import ComposedModel
from vertebra.heads.config import ComposedConfig

TIMM = ["layer1", "layer2", "layer3", "layer4"]
STAGES = ["stage1", "stage2", "stage3", "stage4"]


class ToyConfig(ComposedConfig):
    model_type = "toy-segmenter"
    default_backbone = {"model_type": "swin", **SWIN}
    backbone_spelling = {"swin": "maskformer-swin"}
    width: int = 4
    least: int = 2

    @property
    def least_maps(self) -> int:  # type: ignore[override]  # a key here
        return self.least


class Toy(ComposedModel):
    """A head in one line, so that what is tested here is the composition."""

    config_class = ToyConfig
    config: ToyConfig

    def __init__(self, config: ToyConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.encoder = self.compose(backbone)
        self.heads = nn.ModuleList(nn.Conv2d(channels, self.config.width, 1) for channels in self.encoder.channels)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps: Any = self.encoder(pixel_values)
        return [head(feature_map) for head, feature_map in zip(self.heads, maps.feature_maps, strict=True)]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96)


@pytest.fixture
def served(hub: HubServer, tmp_path: Path) -> HubServer:
    for name, model in (
        ("org/resnet", ResNetBackbone(ResNetConfig(**RESNET))),
        ("org/swin", SwinBackbone(SwinConfig(**SWIN))),
    ):
        model.config.out_indices = None
        model.save_pretrained(tmp_path / name)
        hub.add(name, tmp_path / name)
    return hub


def sizes(model: Toy, images: Tensor) -> list[tuple[int, int]]:
    return [(state.shape[-2], state.shape[-1]) for state in model(images)]


PYRAMID = [(16, 24), (8, 12), (4, 6), (2, 3)]


class TestSelection:
    @pytest.mark.parametrize(
        ("keys", "names"),
        [
            ({}, STAGES),
            ({"backbone_config": ResNetConfig(**RESNET)}, STAGES),
            ({"backbone_config": SwinConfig(**SWIN)}, STAGES),
            ({"backbone_config": {"model_type": "resnet", **RESNET}}, STAGES),
            ({"backbone_config": ResNetConfig(**RESNET, out_features=STAGES)}, STAGES),
            (
                {"backbone_config": TimmBackboneConfig("resnet18", use_pretrained_backbone=False)},
                TIMM,
            ),
            ({"backbone": "resnet18", "use_timm_backbone": True}, TIMM),
            (
                {"backbone": "resnet18", "backbone_kwargs": {"out_indices": (1, 2, 3, 4)}},
                TIMM,
            ),
            ({"backbone": "test_vit"}, ["stride4", "stride8", "stride16", "stride32"]),
        ],
        ids=["default", "resnet", "swin", "dictionary", "chosen", "timm_config", "timm_name", "kwargs", "neck"],
    )
    def test_the_models_strides_are_taken(self, keys: dict[str, Any], names: list[str], images: Tensor) -> None:
        model = Toy(ToyConfig(**keys))
        assert model.encoder.out_features == names
        assert model.encoder.strides == [4, 8, 16, 32]
        if "vit" not in str(keys):
            assert sizes(model, images) == PYRAMID

    def test_a_setter_is_a_choice(self) -> None:
        config = ResNetConfig(**RESNET)
        config.out_indices = [4]
        with pytest.raises(
            ValueError, match=r"\['stage4'\] was chosen, and has the strides 32; Toy needs one map for each"
        ):
            Toy(ToyConfig(backbone_config=config))

    @pytest.mark.parametrize(
        ("keys", "chosen"),
        [
            ({"backbone_config": ResNetConfig(**RESNET, out_indices=(1, 2))}, r"\['stage1', 'stage2'\]"),
            ({"backbone_config": {"model_type": "resnet", **RESNET, "out_features": ["stage4"]}}, r"\['stage4'\]"),
            ({"backbone_config": SwinConfig(**SWIN, out_features=["stage4"])}, r"\['stage4'\]"),
            ({"backbone": "resnet18", "backbone_kwargs": {"out_indices": [4]}}, r"\['layer4'\]"),
            ({"backbone_config": ResNetConfig(**RESNET, out_indices=(0, 1, 2, 3, 4))}, r"\['stem', 'stage1'"),
        ],
    )
    def test_a_choice_that_does_not_fit_is_refused(self, keys: dict[str, Any], chosen: str) -> None:
        with pytest.raises(
            ValueError, match=rf"The selection {chosen}.* was chosen.*these stages are taken: \['(stage|layer)1'"
        ):
            Toy(ToyConfig(**keys))

    def test_what_a_file_of_the_backbone_says_is_no_choice(self, served: HubServer, images: Tensor) -> None:
        loaded = AutoConfig.from_pretrained("org/resnet")
        assert loaded.out_features == ["stage4"]
        assert sizes(Toy(ToyConfig(backbone_config=loaded)), images) == PYRAMID
        assert sizes(Toy(ToyConfig(backbone="org/resnet")), images) == PYRAMID

    def test_a_saved_composed_configuration_is_a_choice(self, tmp_path: Path) -> None:
        content = ToyConfig(backbone_config=ResNetConfig(**RESNET, out_features=["stage4"])).to_dict()
        assert content["backbone_config"]["out_features"] == ["stage4"]
        with pytest.raises(ValueError, match="was chosen"):
            Toy(ToyConfig.from_dict(content))

    def test_what_nobody_chose_is_not_chosen_by_saving_it(self, tmp_path: Path) -> None:
        config = ToyConfig(backbone_config=ResNetConfig(**RESNET))
        config.save_pretrained(tmp_path)
        again = ToyConfig.from_pretrained(tmp_path)
        assert again == config == ToyConfig.from_dict(config.to_dict())
        assert Toy(again).encoder.out_features == STAGES
        assert Toy(again).config.to_dict()["backbone_config"]["out_features"] == STAGES

    def test_the_selection_of_a_built_model_is_always_saved(self) -> None:
        backbone = ResNetBackbone(ResNetConfig(**RESNET))
        model = Toy(ToyConfig(neck=None, least=1), backbone=backbone)
        assert model.config.to_dict()["backbone_config"]["out_features"] == ["stage4"]

    def test_files_of_a_spelt_family_say_the_last_stage_whatever_is_built(self, images: Tensor) -> None:
        """A MaskFormer of transformers builds four stages of every Swin in it, and writes `stage4`."""
        content = {
            "model_type": "toy-segmenter",
            "backbone_config": {"model_type": "swin", **SWIN, "out_features": ["stage4"]},
        }
        model = Toy(ToyConfig.from_dict(content))
        assert type(model.encoder).__name__ == "MaskFormerSwinBackbone"
        assert sizes(model, images) == PYRAMID

    def test_a_flat_backbone_gets_a_neck_over_what_was_chosen(self) -> None:
        model = Toy(ToyConfig(backbone="test_vit", backbone_kwargs={"out_indices": (1,)}))
        neck: Any = model.encoder
        assert neck.config.model_type == "vertebra_simple_feature_pyramid"
        assert neck.backbone.out_indices == [1]

    def test_without_a_neck_maps_are_taken_as_they_are(self, images: Tensor) -> None:
        config = ResNetConfig(**RESNET, out_indices=(2, 4))
        model = Toy(ToyConfig(backbone_config=config, neck=None))
        assert sizes(model, images) == [(8, 12), (2, 3)]

    def test_too_few_maps_without_a_neck(self) -> None:
        with pytest.raises(
            ValueError, match=r"Toy needs 2 maps at least .strides 4, 8, 16, 32.* gets the 1 of the selection"
        ):
            Toy(ToyConfig(backbone="test_vit", neck=None))

    def test_a_neck_of_that_name_is_declared(self) -> None:
        model = Toy(ToyConfig(backbone="test_vit", neck="reassemble"))
        assert model.encoder.config.model_type == "vertebra_reassemble"
        with pytest.raises(ValueError, match="Did you mean 'reassemble'"):
            Toy(ToyConfig(backbone="test_vit", neck="reasemble"))


class TestBuiltBackbone:
    def test_is_taken_with_its_weights(self, images: Tensor) -> None:
        backbone = ResNetBackbone(ResNetConfig(**RESNET, out_features=STAGES)).eval()
        model = Toy(ToyConfig(), backbone=backbone).eval()
        assert model.encoder is backbone
        assert model.config.backbone_config is backbone.config

    def test_must_have_the_maps(self) -> None:
        with pytest.raises(ValueError, match=r"The selection \['stage4'\] was chosen"):
            Toy(ToyConfig(), backbone=ResNetBackbone(ResNetConfig(**RESNET)))

    def test_a_spelt_family_is_respelt_so_that_others_read_the_files(self, tmp_path: Path, images: Tensor) -> None:
        """A MaskFormer of transformers builds its Swin under other names, whatever class the file names."""
        swin = SwinBackbone(SwinConfig(**SWIN, out_features=STAGES, size_policy="pad"))
        swin.freeze("stage1")
        swin.eval()
        model = Toy(ToyConfig(), backbone=swin).eval()
        assert type(model.encoder).__name__ == "MaskFormerSwinBackbone"
        assert {id(parameter) for parameter in model.encoder.parameters()} == {id(p) for p in swin.parameters()}
        frozen = {id(parameter) for parameter in swin.parameters() if not parameter.requires_grad}
        assert {id(p) for p in model.encoder.parameters() if not p.requires_grad} == frozen != set()
        assert (model.encoder.config.size_policy, model.encoder.config.freeze) == ("pad", "stage1")
        same(model.encoder(images).feature_maps, swin(images).feature_maps)
        model.save_pretrained(tmp_path)
        assert "encoder.model.embeddings.norm.weight" in load_file(tmp_path / "model.safetensors")

    def test_a_name_goes_into_the_configuration(self) -> None:
        with pytest.raises(TypeError, match=r"ToyConfig\(backbone=name\)"):
            Toy(ToyConfig(), backbone="resnet18")  # type: ignore[arg-type]


class TestWeights:
    def test_pretrained_weights_are_loaded(self, served: HubServer, tmp_path: Path) -> None:
        model = Toy(ToyConfig(backbone="org/resnet", use_pretrained_backbone=True))
        stored = load_file(tmp_path / "org/resnet/model.safetensors")
        assert stored
        for name, tensor in stored.items():
            same(model.encoder.state_dict()[name], tensor, name)
        assert model.training
        assert model.encoder.training

    def test_a_spelt_family_reads_its_own_files(self, served: HubServer, tmp_path: Path, images: Tensor) -> None:
        model = Toy(ToyConfig(backbone="org/swin", use_pretrained_backbone=True)).eval()
        assert type(model.encoder).__name__ == "MaskFormerSwinBackbone"
        swin = AutoBackbone.from_pretrained(tmp_path / "org/swin")
        maps: Any = model.encoder(images)
        same(maps.feature_maps[-1], swin(images).feature_maps[-1])

    @pytest.mark.parametrize("weights", [True, False])
    def test_timm_weights(self, weights: bool, served: HubServer, tmp_path: Path) -> None:
        trained = AutoBackbone.from_pretrained("test_resnet", use_pretrained_backbone=False)
        tensors = trained.state_dict()
        trained.save_pretrained(tmp_path / "timm")
        served.add("timm/test_resnet.r160_in1k", tmp_path / "timm")
        config = ToyConfig(backbone="test_resnet", use_timm_backbone=True, use_pretrained_backbone=weights)
        model = Toy(config)
        equal = [
            torch.equal(model.encoder.state_dict()[name], tensor)
            for name, tensor in tensors.items()
            if tensor.ndim == 4
        ]
        assert len(equal) > 10
        assert all(equal) is weights

    def test_weights_go_where_the_head_is_built(self, served: HubServer) -> None:
        with torch.device("meta"):
            model = Toy(ToyConfig(backbone="org/resnet", use_pretrained_backbone=True))
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}

    def test_without_weights_only_the_configuration_is_fetched(self, served: HubServer) -> None:
        served.clear()
        served_files = {"config.json"}
        served_model = Toy(ToyConfig(backbone="org/resnet"))
        assert isinstance(served_model.encoder, ResNetBackbone)
        fetched = {request.path.rpartition("/")[2] for request in served.requests if "/resolve/" in request.path}
        assert fetched <= served_files

    def test_constructing_a_configuration_asks_nobody(self, hub: HubServer) -> None:
        ToyConfig(backbone="org/nowhere", use_pretrained_backbone=True)
        assert hub.requests == []

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"backbone_config": ResNetConfig(**RESNET)},
            {"backbone": "test_vit"},
            {"backbone": "org/resnet", "use_pretrained_backbone": True},
            {"backbone_config": TimmBackboneConfig("resnet18", use_pretrained_backbone=False)},
        ],
        ids=["swin", "resnet", "neck", "hub", "timm"],
    )
    def test_round_trip_asks_nobody(self, keys: dict[str, Any], served: HubServer, tmp_path: Path) -> None:
        model = Toy(ToyConfig(**keys)).eval()
        model.save_pretrained(tmp_path / "saved")
        content = json.loads((tmp_path / "saved/config.json").read_text())
        assert content["backbone_config"]["model_type"] == model.encoder.config.model_type
        assert not {"backbone", "use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs"} & content.keys()
        served.clear()
        loaded, info = Toy.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert served.requests == []
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        for name, tensor in model.state_dict().items():
            same(loaded.state_dict()[name], tensor, name)

    def test_loading_never_fetches_the_backbones_own_weights(self, served: HubServer, tmp_path: Path) -> None:
        """A file of transformers 4 names the backbone, and says that it was pretrained once."""
        Toy(ToyConfig(backbone="org/resnet")).save_pretrained(tmp_path / "saved")
        content = json.loads((tmp_path / "saved/config.json").read_text())
        del content["backbone_config"]
        named = {**content, "backbone": "org/resnet", "use_pretrained_backbone": True, "use_timm_backbone": False}
        (tmp_path / "saved/config.json").write_text(json.dumps({**named, "backbone_kwargs": None}))
        served.clear()
        model = Toy.from_pretrained(tmp_path / "saved")
        assert model.encoder.out_features == STAGES
        assert not [request.path for request in served.requests if "safetensors" in request.path]

    def test_timm_parameters_are_wrapped_in_files_as_transformers_wraps_them(self, tmp_path: Path) -> None:
        model = Toy(ToyConfig(backbone="resnet18"))
        model.save_pretrained(tmp_path)
        names = load_file(tmp_path / "model.safetensors").keys()
        assert "encoder._backbone.conv1.weight" in names
        assert not [name for name in names if name.startswith("encoder.") and not name.startswith("encoder._backbone.")]


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "text"),
        [
            (
                {"backbone": "resnet18", "backbone_config": ResNetConfig()},
                "backbone='resnet18' and backbone_config exclude",
            ),
            (
                {"backbone_config": ResNetConfig(), "use_timm_backbone": True},
                r"use_timm_backbone=True goes with backbone='name'",
            ),
            (
                {"backbone_config": ResNetConfig(), "backbone_kwargs": {"out_indices": [1]}},
                r"backbone_kwargs=\{.*\} goes with",
            ),
            ({"backbone_config": ResNetConfig(), "use_pretrained_backbone": True}, "needs to know which weights"),
            (
                {"backbone_config": {"model_type": "levit"}},
                r"backbone_config of ToyConfig is .*model_type 'levit' is not known.*use_timm_backbone=True",
            ),
            ({"backbone_config": {"depths": [1]}}, r"a dictionary without 'model_type', so whose keys depths are"),
            (
                {"backbone_config": nn.Linear(1, 1)},
                r"backbone_config=torch\.nn\.modules\.linear\.Linear\(…\) of ToyConfig",
            ),
            ({"neck": "fnp"}, r"neck='fnp' is not known. Did you mean 'fpn'"),
            ({"neck": "linear_probe"}, r"neck='linear_probe' is not known"),
            ({"backbone_config": 5}, "backbone_config=5 of ToyConfig is not the configuration of a backbone"),
            ({"backbone_config": ToyConfig()}, "is not the configuration of a backbone"),
        ],
    )
    def test_conflicts_are_refused_at_once(self, keys: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            ToyConfig(**keys)

    @pytest.mark.parametrize(
        ("keys", "text"),
        [
            (
                {"backbone": nn.Linear(1, 1)},
                r"backbone=torch\..*Linear\(…\) must be a name.*Model\(config, backbone=backbone\)",
            ),
            ({"backbone": ""}, r"backbone='' must be a name"),
            (
                {"backbone": "resnet18", "backbone_kwargs": ["out_indices"]},
                r"backbone_kwargs=\['out_indices'\] must be a dict",
            ),
            ({"neck": FPN}, r"neck=FPN of ToyConfig must be a name, which a file can hold.*neck=FPN\)\)"),
        ],
    )
    def test_what_names_nothing_is_refused_at_once(self, keys: dict[str, Any], text: str) -> None:
        with pytest.raises(TypeError, match=text):
            ToyConfig(**keys)

    def test_a_folder_may_be_a_path(self, tmp_path: Path) -> None:
        config = ToyConfig(backbone=tmp_path)
        assert json.loads(config.to_json_string())["backbone"] == str(tmp_path)

    def test_keys_of_the_backbone_are_checked(self, served: HubServer) -> None:
        with pytest.raises(TypeError, match="out_indexes"):
            Toy(ToyConfig(backbone="org/resnet", backbone_kwargs={"out_indexes": [1]}))

    def test_a_neck_that_is_not_the_default_is_kept(self) -> None:
        content = ToyConfig(neck=None).to_dict()
        assert content["vertebra"] == {"format": 1, "neck": None}
        assert "neck" not in content
        assert ToyConfig.from_dict(content).neck is None
        assert ToyConfig.from_dict(ToyConfig().to_dict()).neck == "auto"

    def test_another_backbone_in_one_key(self, tmp_path: Path) -> None:
        Toy(ToyConfig()).config.save_pretrained(tmp_path)
        config = ToyConfig.from_pretrained(tmp_path, backbone_config=ResNetConfig(**RESNET))
        assert isinstance(Toy(config).encoder, ResNetBackbone)
        config = ToyConfig.from_pretrained(tmp_path, backbone="resnet18")
        assert Toy(config).encoder.config.model_type == "timm_backbone"

    def test_a_plain_configuration_is_built_with_random_weights(self, hub: HubServer) -> None:
        backbone = build_backbone(TimmBackboneConfig("resnet18"))
        assert backbone.out_features == ["layer4"]
        assert hub.requests == []


class TestState:
    def test_weights_of_the_backbone_survive_the_heads_initialisation(self) -> None:
        backbone = ResNetBackbone(ResNetConfig(**RESNET, out_features=STAGES))
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        Toy(ToyConfig(), backbone=backbone)
        for name, tensor in backbone.state_dict().items():
            same(tensor, before[name], name)

    def test_what_is_frozen_is_saved_and_loaded(self, tmp_path: Path) -> None:
        model = Toy(ToyConfig(backbone_config=ResNetConfig(**RESNET)))
        model.encoder.freeze("stage2")
        model.save_pretrained(tmp_path)
        loaded = Toy.from_pretrained(tmp_path)
        frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
        assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen

    def test_the_card_speaks_of_the_backbones_images(self, served: HubServer) -> None:
        """A card's example has to run: with these channels, and of a size that the backbone takes."""
        four = Toy(ToyConfig(backbone_config=ResNetConfig(**RESNET, num_channels=4)))
        assert four.card_facts().pixels == (4, 224, 224)
        assert "torch.rand(1, 4, 224, 224)" in four.model_card("me/four")
        fixed = Toy(ToyConfig(backbone="test_vit", backbone_kwargs={"image_size": (64, 96)}))
        assert fixed.card_facts().pixels == (3, 64, 96)
        loaded = Toy(ToyConfig(backbone="org/resnet", use_pretrained_backbone=True))
        assert "base_model: org/resnet" in loaded.model_card("me/loaded")
        loaded.encoder.freeze("stage1")
        assert "| frozen up to | `stage1` |" in loaded.model_card("me/loaded")

    def test_the_configuration_given_is_not_touched(self) -> None:
        config = ToyConfig(backbone="resnet18")
        Toy(config)
        assert config.backbone == "resnet18"
        assert config.backbone_config is None

    def test_parameters_of_missing_backbone_norms_get_the_backbones_values(self, tmp_path: Path) -> None:
        """A key that a file lacks is explained and initialised by the model that owns it."""
        model = Toy(ToyConfig())
        state = {name: tensor for name, tensor in model.state_dict().items() if "hidden_states_norms" not in name}
        model.save_pretrained(tmp_path, state_dict=state)
        loaded, info = Toy.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == set(info["explained"]) != set()
        norms: Any = loaded.encoder.get_submodule("hidden_states_norms")
        assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms.values())

    def test_other_numbers_of_channels(self, tmp_path: Path, images: Tensor) -> None:
        model = Toy(ToyConfig(backbone_config=ResNetConfig(**RESNET)))
        model.save_pretrained(tmp_path)
        config = ToyConfig.from_pretrained(tmp_path)
        config.backbone_config.num_channels = 6
        loaded = Toy.from_pretrained(tmp_path, config=config).eval()
        for six, three in zip(loaded(torch.cat([images, images], dim=1)), model.eval()(images), strict=True):
            torch.testing.assert_close(six, three, rtol=1e-4, atol=1e-4)
