"""The Auto classes: the quick tour's blocks verbatim, every way to name a checkpoint, registration, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from hub_server import HubServer
from oracle import close, perturb, same, save_with_transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from vertebra import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    Backbone,
    BackboneConfigMixin,
    BackboneOutput,
    BaseImageProcessor,
    PretrainedConfig,
    ResNetBackbone,
    ResNetConfig,
    Stage,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    TimmBackbone,
    TimmBackboneConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    TimmWrapperModel,
    ViTImageProcessor,
)

SWIN = "microsoft/swin-tiny-patch4-window7-224"
RESNET = "microsoft/resnet-50"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hub repositories as transformers and timm write them, with random weights.

    The Swin is as wide as Swin-T and ends after three stages of one block; of timm's ResNet-50 there is what `layer2` needs.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    swin = transformers.SwinForImageClassification(
        transformers.SwinConfig(depths=[1, 1, 1], num_heads=[3, 6, 12], num_labels=10)
    )
    save_with_transformers(swin, folder / SWIN, scale=0.02)
    transformers.ViTImageProcessor(
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], resample=3
    ).save_pretrained(folder / SWIN)
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1])
    save_with_transformers(transformers.ResNetForImageClassification(resnet), folder / RESNET, scale=0.02)
    unread: dict[str, tuple[str, ...]] = {"resnet50.a1_in1k": ("layer3", "layer4", "fc"), "test_resnet.r160_in1k": ()}
    for name in unread:
        model = perturb(timm.create_model(name), scale=0.02)
        (folder / "timm" / name).mkdir(parents=True)
        tensors = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(unread[name])}
        save_file(tensors, folder / "timm" / name / "model.safetensors")
        cfg = {**model.pretrained_cfg, "num_classes": model.num_classes}
        config = {"architecture": name.split(".")[0], "num_classes": model.num_classes, "pretrained_cfg": cfg}
        (folder / "timm" / name / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def served(hub: HubServer, checkpoints: Path) -> HubServer:
    for repository in (SWIN, RESNET, "timm/resnet50.a1_in1k", "timm/test_resnet.r160_in1k"):
        hub.add(repository, checkpoints / repository)
    hub.add("swin-without-organisation", checkpoints / SWIN)
    return hub


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8))


class TestQuickTour:
    def test_swin(self, served: HubServer, image: Image.Image, checkpoints: Path) -> None:
        from vertebra import AutoBackbone, AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained("microsoft/swin-tiny-patch4-window7-224")
        model = AutoBackbone.from_pretrained("microsoft/swin-tiny-patch4-window7-224", out_indices=(1,))
        inputs = processor(image, return_tensors="pt")
        outputs = model(**inputs)
        assert list(outputs.feature_maps[0].shape) == [1, 96, 56, 56]

        theirs = transformers.SwinBackbone.from_pretrained(checkpoints / SWIN, out_indices=(1,))
        expected = transformers.ViTImageProcessor.from_pretrained(checkpoints / SWIN)(image, return_tensors="pt")
        same(inputs["pixel_values"], expected["pixel_values"])
        close(outputs.feature_maps, theirs(**expected).feature_maps)

    def test_timm(self, served: HubServer, checkpoints: Path) -> None:
        model = AutoBackbone.from_pretrained("resnet50", use_timm_backbone=True, out_features=["layer2"])
        assert type(model) is TimmBackbone
        assert (model.channels, model.strides, model.out_indices) == ([512], [8], [2])
        weights = load_file(checkpoints / "timm/resnet50.a1_in1k/model.safetensors")
        kept = model.state_dict()
        same(tuple(kept.values()), tuple(weights[name] for name in kept))
        assert any(request.path.startswith("/timm/resnet50.a1_in1k/resolve/") for request in served.requests)

    def test_timm_config(self, served: HubServer) -> None:
        model = TimmBackbone(config=TimmBackboneConfig("resnet50", use_pretrained_backbone=False))
        assert (model.out_features, model.channels) == (["layer4"], [2048])
        assert served.requests == []

    def test_timm_config_loads_weights_by_default(self, served: HubServer, checkpoints: Path) -> None:
        weights = load_file(checkpoints / "timm/test_resnet.r160_in1k/model.safetensors")
        for model in (
            TimmBackbone(TimmBackboneConfig("test_resnet")),
            AutoBackbone.from_config(TimmBackboneConfig("test_resnet.r160_in1k")),
        ):
            assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


class TestNames:
    """One checkpoint, every way to write its name."""

    @pytest.mark.parametrize(
        ("name", "timm_route"),
        [
            ("test_resnet", False),
            ("test_resnet", True),
            ("test_resnet.r160_in1k", False),
            ("timm/test_resnet.r160_in1k", False),
            ("timm/test_resnet.r160_in1k", True),
            ("hf-hub:timm/test_resnet.r160_in1k", False),
            ("hf_hub:timm/test_resnet.r160_in1k", True),
            ("local-dir:{folder}", False),
            ("{folder}", False),
            ("{folder}", True),
        ],
    )
    def test_timm(self, name: str, timm_route: bool, served: HubServer, checkpoints: Path) -> None:
        folder = checkpoints / "timm/test_resnet.r160_in1k"
        name = name.format(folder=folder)
        model = AutoBackbone.from_pretrained(name, use_timm_backbone=timm_route, out_indices=(1, 2))
        weights = load_file(folder / "model.safetensors")
        assert type(model) is TimmBackbone
        assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
        assert ("test_resnet" in name and "/" not in name) or str(folder) not in name or served.requests == []
        processor = AutoImageProcessor.from_pretrained(name)
        assert type(processor) is TimmWrapperImageProcessor
        assert processor.size == {"height": 160, "width": 160}

    def test_without_organisation(self, served: HubServer) -> None:
        assert type(AutoBackbone.from_pretrained("swin-without-organisation", out_indices=(0,))) is SwinBackbone
        assert type(AutoConfig.from_pretrained("swin-without-organisation")) is SwinConfig

    def test_a_local_folder_never_asks_the_network(self, served: HubServer, checkpoints: Path) -> None:
        for auto in (AutoConfig, AutoBackbone, AutoModel, AutoModelForImageClassification, AutoImageProcessor):
            auto.from_pretrained(checkpoints / SWIN)
        assert served.requests == []

    def test_a_local_folder_wins_over_a_timm_name(
        self, served: HubServer, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(checkpoints / SWIN, tmp_path / "resnet50")
        monkeypatch.chdir(tmp_path)
        assert type(AutoBackbone.from_pretrained("resnet50")) is SwinBackbone
        assert served.requests == []

    def test_offline_from_the_cache(self, served: HubServer, cache: Path) -> None:
        AutoBackbone.from_pretrained(SWIN, cache_dir=cache, out_indices=(1,))
        served.clear()
        model = AutoBackbone.from_pretrained(SWIN, cache_dir=cache, out_indices=(1,), local_files_only=True)
        assert model.out_features == ["stage1"]
        assert served.requests == []
        with pytest.raises(OSError, match=r"has no file 'config.json'. Only the local cache was searched"):
            AutoBackbone.from_pretrained(RESNET, cache_dir=cache, local_files_only=True)

    def test_offline_variable(self, served: HubServer, cache: Path) -> None:
        AutoBackbone.from_pretrained(SWIN, cache_dir=cache, out_indices=(1,))
        code = (
            "import sys; from vertebra import AutoBackbone, AutoImageProcessor\n"
            "model = AutoBackbone.from_pretrained(sys.argv[1], cache_dir=sys.argv[2], out_indices=(1,)); print(model.out_features)"
        )
        served.clear()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, SWIN, str(cache)], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "['stage1']"
        assert served.requests == []

    def test_one_commit_for_all_files_of_a_load(self, served: HubServer, cache: Path) -> None:
        AutoBackbone.from_pretrained(SWIN, cache_dir=cache)
        resolved = [request.path for request in served.requests if request.path.endswith("model.safetensors")]
        assert resolved
        assert all("/resolve/main/" not in path for path in resolved)

    @pytest.mark.parametrize(
        ("name", "error", "text"),
        [
            ("nobody/nothing", OSError, "'nobody/nothing' is neither a local folder nor a repository on the hub"),
            (
                "./nowhere",
                OSError,
                r"'./nowhere' is not an existing folder, and a hub repository is named 'organisation/name'",
            ),
            ("/no/such/folder", OSError, "is not an existing folder"),
            ("local-dir:nowhere", OSError, "is not an existing folder"),
        ],
    )
    def test_names_that_lead_nowhere(self, name: str, error: type[Exception], text: str, hub: HubServer) -> None:
        with pytest.raises(error, match=text):
            AutoBackbone.from_pretrained(name)

    def test_use_timm_refuses_what_timm_does_not_have(self, hub: HubServer) -> None:
        with pytest.raises(ValueError, match=r"timm has no architecture 'resnet5O'\. Did you mean 'resnet50'"):
            AutoBackbone.from_pretrained("resnet5O", use_timm_backbone=True)
        assert hub.requests == []

    def test_use_timm_refuses_a_native_checkpoint(self, served: HubServer) -> None:
        with pytest.raises(
            ValueError, match=r"holds a 'swin' checkpoint, not one of timm's; leave use_timm_backbone out"
        ):
            AutoBackbone.from_pretrained(SWIN, use_timm_backbone=True)


class TestBackbone:
    def test_random_weights(self, served: HubServer) -> None:
        native = AutoBackbone.from_pretrained(RESNET, use_pretrained_backbone=False, out_indices=(1,))
        assert type(native) is ResNetBackbone
        assert not any(request.path.endswith("safetensors") for request in served.requests)
        served.clear()
        other = AutoBackbone.from_pretrained(
            "resnet18", use_pretrained_backbone=False, out_indices=(1,), output_stride=16
        )
        assert (other.config.use_pretrained_backbone, other.config.model_args) == (False, None)
        assert other.config.output_stride == 16
        assert served.requests == []

    def test_selection_in_every_way(self, checkpoints: Path) -> None:
        folder = checkpoints / SWIN
        for kwargs in ({"out_features": ["stage2", "stage3"]}, {"out_indices": [2, 3]}, {"out_strides": (8, 16)}):
            model = AutoBackbone.from_pretrained(folder, **kwargs)
            assert (model.out_features, model.channels, model.strides) == (["stage2", "stage3"], [192, 384], [8, 16])
        with pytest.raises(ValueError, match="select different stages"):
            AutoBackbone.from_pretrained(folder, out_features=["stage1"], out_indices=[2])
        with pytest.raises(ValueError, match=r"out_strides and out_indices exclude each other"):
            AutoBackbone.from_pretrained(folder, out_strides=[4], out_indices=[2])

    def test_a_given_config_is_used(self, checkpoints: Path) -> None:
        config = SwinConfig.from_pretrained(checkpoints / SWIN, out_indices=[2])
        model = AutoBackbone.from_pretrained(checkpoints / SWIN, config=config, out_indices=[1])
        assert (model.out_indices, config.out_indices) == ([1], [2])

    def test_save_and_reload_through_auto(self, checkpoints: Path, tmp_path: Path) -> None:
        model = AutoBackbone.from_pretrained(checkpoints / SWIN, out_indices=(1, 2))
        model.save_pretrained(tmp_path)
        again = AutoBackbone.from_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 64, 64)
        same(again(pixels).feature_maps, model(pixels).feature_maps)

    def test_constructors_are_closed(self) -> None:
        for auto in (AutoConfig, AutoBackbone, AutoModel, AutoModelForImageClassification, AutoImageProcessor):
            with pytest.raises(
                OSError, match=rf"{auto.__name__} is not constructed itself: call {auto.__name__}.from_pretrained"
            ):
                auto()

    def test_remote_code_is_refused(self, checkpoints: Path) -> None:
        for auto in (AutoConfig, AutoBackbone, AutoModel, AutoImageProcessor):
            with pytest.raises(ValueError, match="vertebra runs no code from a checkpoint"):
                auto.from_pretrained(checkpoints / SWIN, trust_remote_code=True)
            auto.from_pretrained(checkpoints / SWIN, trust_remote_code=False)

    def test_typos_are_named(self, checkpoints: Path) -> None:
        with pytest.raises(TypeError, match=r"no argument 'out_indeces'. Did you mean 'out_indices'"):
            AutoBackbone.from_pretrained(checkpoints / SWIN, out_indeces=[1])


class TestModels:
    def test_native(self, checkpoints: Path) -> None:
        assert type(AutoModel.from_pretrained(checkpoints / SWIN)) is SwinModel
        model = AutoModelForImageClassification.from_pretrained(checkpoints / SWIN)
        assert type(model) is SwinForImageClassification
        pixels = torch.randn(2, 3, 224, 224)
        theirs = transformers.SwinForImageClassification.from_pretrained(checkpoints / SWIN)
        expected = theirs(pixels, labels=torch.tensor([1, 9]))
        output = model(pixels, labels=torch.tensor([1, 9]))
        close(output.logits, expected.logits)
        close(output.loss, expected.loss)

    def test_timm_wrapper_equals_transformers(self, served: HubServer, checkpoints: Path) -> None:
        folder = checkpoints / "timm/test_resnet.r160_in1k"
        pixels = torch.randn(2, 3, 160, 160)
        theirs = transformers.TimmWrapperForImageClassification.from_pretrained(folder)
        ours = AutoModelForImageClassification.from_pretrained(folder)
        assert type(ours) is TimmWrapperForImageClassification
        labels = torch.tensor([1, 999])
        expected, output = (
            theirs(pixels, labels=labels, output_hidden_states=True),
            ours(pixels, labels=labels, output_hidden_states=True),
        )
        close(output.logits, expected.logits)
        close(output.loss, expected.loss)
        close(output.hidden_states, tuple(expected.hidden_states))
        assert ours.config.labels == theirs.config.id2label
        base, expected = AutoModel.from_pretrained(folder), transformers.TimmWrapperModel.from_pretrained(folder)
        assert type(base) is TimmWrapperModel
        close(base(pixels).pooler_output, expected(pixels).pooler_output)
        close(base(pixels).last_hidden_state, expected(pixels).last_hidden_state)

    def test_timm_wrapper_files_go_both_ways(self, checkpoints: Path, tmp_path: Path) -> None:
        folder = checkpoints / "timm/test_resnet.r160_in1k"
        pixels = torch.randn(1, 3, 160, 160)
        ours = AutoModelForImageClassification.from_pretrained(folder)
        ours.save_pretrained(tmp_path / "ours")
        theirs, info = transformers.TimmWrapperForImageClassification.from_pretrained(
            tmp_path / "ours", output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        close(theirs(pixels).logits, ours(pixels).logits)
        theirs.save_pretrained(tmp_path / "theirs")
        again = AutoModelForImageClassification.from_pretrained(tmp_path / "theirs")
        close(again(pixels).logits, ours(pixels).logits)
        assert again.config.labels == ours.config.labels

    def test_v4_timm_wrapper(self, v4: Path) -> None:
        expected = load_file(v4 / "timm_wrapper" / "expected.safetensors")
        model = AutoModelForImageClassification.from_pretrained(v4 / "timm_wrapper")
        output = model(expected["pixel_values"], output_hidden_states=True)
        close(output.logits, expected["logits"])
        close(output.hidden_states, tuple(expected[f"hidden_states.{index}"] for index in range(5)))
        assert model.config.labels == {0: "cat", 1: "dog", 2: "vertebra"}

    def test_new_head_for_a_timm_checkpoint(self, checkpoints: Path) -> None:
        folder = checkpoints / "timm/test_resnet.r160_in1k"
        with pytest.raises(RuntimeError, match=r"mismatched\s+fc.weight\s+file \(1000, 96\), model \(3, 96\)"):
            AutoModelForImageClassification.from_pretrained(folder, num_labels=3)
        model = AutoModelForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
        assert model(torch.randn(1, 3, 160, 160)).logits.shape == (1, 3)
        weights = load_file(folder / "model.safetensors")
        assert torch.equal(model.get_parameter("layer1.0.conv1.weight"), weights["layer1.0.conv1.weight"])

    def test_bare_timm_names(self, served: HubServer) -> None:
        model = AutoModelForImageClassification.from_pretrained("test_resnet")
        assert model.config.labels[0].startswith("tench")
        assert model.num_parameters() == sum(p.numel() for p in timm.create_model("test_resnet").parameters())

    def test_attentions_of_timm_are_refused(self, checkpoints: Path) -> None:
        model = AutoModel.from_pretrained(checkpoints / "timm/test_resnet.r160_in1k")
        with pytest.raises(ValueError, match="timm models do not give their attention weights"):
            model(torch.randn(1, 3, 160, 160), output_attentions=True)

    @pytest.mark.parametrize("config", ["bert", {"model_type": "bert"}, None, transformers.BertConfig(), SwinConfig])
    def test_what_is_no_configuration(self, config: object, tmp_path: Path) -> None:
        text = r"no configuration of vertebra\. AutoConfig\.from_pretrained\(name or folder\) loads one, AutoConfig\.for_model\("
        for auto in (AutoModel, AutoBackbone, AutoModelForImageClassification):
            with pytest.raises(TypeError, match=text):
                auto.from_config(config)
            if not (config is None or isinstance(config, str)):
                with pytest.raises(TypeError, match=text):
                    auto.from_pretrained(tmp_path, config=config)

    def test_no_class_for_it(self) -> None:
        with pytest.raises(ValueError, match=r"AutoModelForImageClassification has no class for TimmBackboneConfig"):
            AutoModelForImageClassification.from_config(TimmBackboneConfig("resnet18", use_pretrained_backbone=False))


class TestConfig:
    def test_by_json_path_and_model_type(self, checkpoints: Path) -> None:
        config = AutoConfig.from_pretrained(checkpoints / SWIN / "config.json", window_size=5)
        assert (type(config), config.window_size, config.num_labels) == (SwinConfig, 5, 10)
        assert AutoConfig.for_model("resnet", depths=[1, 1, 1, 1]).depths == [1, 1, 1, 1]
        config, unused = AutoConfig.from_pretrained(checkpoints / SWIN, return_unused_kwargs=True, nonsense=1)
        assert unused == {"nonsense": 1}

    def test_unknown_and_missing_model_type(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "swinn"}')
        with pytest.raises(ValueError, match=r"model_type 'swinn' is not known. Did you mean 'swin'"):
            AutoConfig.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match="has no 'model_type'"):
            AutoConfig.from_pretrained(tmp_path)


class TestImageProcessor:
    def test_named_by_the_file_in_every_spelling(self, checkpoints: Path, tmp_path: Path) -> None:
        for name in ("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor"):
            key = "feature_extractor_type" if "Feature" in name else "image_processor_type"
            (tmp_path / "preprocessor_config.json").write_text(json.dumps({key: name, "size": 96}))
            processor = AutoImageProcessor.from_pretrained(tmp_path)
            assert (type(processor), processor.size) == (ViTImageProcessor, {"height": 96, "width": 96})

    def test_named_by_the_model_type(self, checkpoints: Path, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text('{"size": 96}')
        (tmp_path / "config.json").write_text('{"model_type": "swin"}')
        assert type(AutoImageProcessor.from_pretrained(tmp_path, do_normalize=False)) is ViTImageProcessor

    def test_by_the_path_of_the_file(self, tmp_path: Path) -> None:
        ViTImageProcessor(size=96).save_pretrained(tmp_path)
        path = tmp_path / "preprocessor_config.json"
        assert AutoImageProcessor.from_pretrained(path, do_normalize=False).size == {"height": 96, "width": 96}
        nested = {"image_processor": json.loads(path.read_text()), "processor_class": "CLIPProcessor"}
        (tmp_path / "processor_config.json").write_text(json.dumps(nested))
        ours = AutoImageProcessor.from_pretrained(str(tmp_path / "processor_config.json"))
        assert (type(ours), ours.size) == (ViTImageProcessor, {"height": 96, "width": 96})

    def test_refusals(self, checkpoints: Path, tmp_path: Path) -> None:
        for model_type, what_to_do in {
            "swin": r"usually have a ViTImageProcessor: build it, ViTImageProcessor\(size=…\), and save_pretrained\(\) it there",
            "mask2former": r"usually have a Mask2FormerImageProcessor: build it, Mask2FormerImageProcessor\(size=…\)",
            "upernet": "usually have a SegformerImageProcessor",
            "wav2vec2": rf"'wav2vec2' take no images: AutoProcessor.from_pretrained\('{tmp_path}'\) loads what they take",
            "gpt2": r"e\.g\. ViTImageProcessor\(size=224\)",
        }.items():
            (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
            text = rf"neither a 'preprocessor_config.json' nor a 'processor_config.json' with an 'image_processor'.*{what_to_do}"
            with pytest.raises(FileNotFoundError, match=text):
                AutoImageProcessor.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(
            '{"backbone_config": {"model_type": "resnet"}, "model_type": "vertebra_fpn"}'
        )
        with pytest.raises(FileNotFoundError, match="Models of type 'resnet' usually have a ConvNextImageProcessor"):
            AutoImageProcessor.from_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcesor"}')
        with pytest.raises(ValueError, match=r"'ViTImageProcesor' .*is not known. Did you mean 'ViTImageProcessor'"):
            AutoImageProcessor.from_pretrained(tmp_path)


class NewConfig(BackboneConfigMixin):
    model_type = "new-model"
    num_channels: int = 3
    width: int = 4

    @property
    def stage_names(self) -> list[str]:
        return ["only"]


class NewBackbone(Backbone):
    config_class = NewConfig

    def __init__(self, config: NewConfig) -> None:
        super().__init__(config)
        self.stem = torch.nn.Conv2d(config.num_channels, config.width, 2, 2)
        self.post_init()

    def describe_stages(self) -> list[Stage]:
        return [Stage("only", 0, self.config.width, (2, 2))]

    def forward_features(self, pixel_values: torch.Tensor, **_: bool) -> BackboneOutput:
        return BackboneOutput(feature_maps=(self.stem(pixel_values),))


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra.auto import preparers, registry

    for module, name in ((registry, "_configs"), (registry, "_models"), (preparers, "_registered")):
        monkeypatch.setattr(module, name, {})


@pytest.mark.usefixtures("clean_registry")
class TestRegister:
    def test_a_backbone_of_ones_own(self, tmp_path: Path) -> None:
        AutoConfig.register("new-model", NewConfig)
        AutoBackbone.register(NewConfig, NewBackbone)
        model = AutoBackbone.from_config(NewConfig(width=6))
        model.save_pretrained(tmp_path)
        again = AutoBackbone.from_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 8, 8)
        same(again(pixels).feature_maps, model(pixels).feature_maps)
        assert again.output_shapes(8, 8) == {"only": (6, 4, 4)}

    def test_transformers_style_config(self, tmp_path: Path) -> None:
        class OldStyle(PretrainedConfig):
            model_type = "old-style"

            def __init__(self, width: int = 4, **kwargs: object) -> None:
                self.width = width
                super().__init__(**kwargs)

        AutoConfig.register("old-style", OldStyle)
        OldStyle(width=9, num_labels=3).save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert (type(config), config.width, config.num_labels) == (OldStyle, 9, 3)

    def test_refusals(self) -> None:
        with pytest.raises(
            ValueError, match=r"NewConfig.model_type is 'new-model', and it is to be registered as 'other'"
        ):
            AutoConfig.register("other", NewConfig)
        AutoConfig.register("new-model", NewConfig)
        with pytest.raises(ValueError, match="'new-model' is taken; pass exist_ok=True"):
            AutoConfig.register("new-model", NewConfig)
        AutoConfig.register("new-model", NewConfig, exist_ok=True)
        with pytest.raises(
            ValueError, match=r"NewBackbone.config_class is NewConfig, and it is to be registered for ResNetConfig"
        ):
            AutoBackbone.register(ResNetConfig, NewBackbone)
        for config, model in ((NewConfig(), NewBackbone), (int, NewBackbone), ("new-model", NewBackbone)):
            with pytest.raises(TypeError, match=r"it must be a class that derives from vertebra\.PreTrainedConfig"):
                AutoBackbone.register(config, model)
            with pytest.raises(TypeError, match=r"it must be a class that derives from vertebra\.PreTrainedConfig"):
                AutoConfig.register("new-model", config)
        with pytest.raises(TypeError, match="register got 'NewBackbone'; it must be a class"):
            AutoBackbone.register(config_class=NewConfig, model_class="NewBackbone")
        with pytest.raises(ValueError, match="ResNetConfig has a class here already; pass exist_ok=True"):
            AutoBackbone.register(ResNetConfig, ResNetBackbone)
        AutoBackbone.register(ResNetConfig, ResNetBackbone, exist_ok=True)
        with pytest.raises(
            ValueError, match=r"AutoModel has no class for NewConfig .*AutoModel.register\(NewConfig, YourModel\)"
        ):
            AutoModel.from_config(NewConfig())

    def test_processors(self, tmp_path: Path) -> None:
        class NewImageProcessor(BaseImageProcessor):
            size = {"height": 8, "width": 8}

        with pytest.raises(ValueError, match=r"must be a class that derives from vertebra.BaseImageProcessor"):
            AutoImageProcessor.register(NewConfig, NewBackbone)
        AutoConfig.register("new-model", NewConfig)
        with pytest.raises(ValueError, match=r"'NewImageProcessor' must be a class that derives"):
            AutoImageProcessor.register(NewConfig, "NewImageProcessor")
        AutoImageProcessor.register(NewConfig, image_processor_classes={"pil": NewImageProcessor})
        with pytest.raises(ValueError, match="NewConfig has an image processor already"):
            AutoImageProcessor.register(NewConfig, NewImageProcessor)
        NewImageProcessor(size=16).save_pretrained(tmp_path)
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is NewImageProcessor


class TestViTProcessorBlocks:
    @pytest.mark.parametrize(
        "processor",
        [
            ViTImageProcessor(),
            ViTImageProcessor(resample="PIL.Image.BOX", do_normalize=False, image_mean=[0.3, 0.3, 0.3]),
        ],
    )
    def test_print_round_trip_and_run(self, processor: ViTImageProcessor, tmp_path: Path, image: Image.Image) -> None:
        name, _, text = repr(processor).partition(" ")
        assert name == "ViTImageProcessor"
        assert json.loads(text)["size"] == {"height": 224, "width": 224}
        processor.save_pretrained(tmp_path)
        again = AutoImageProcessor.from_pretrained(tmp_path)
        assert again.to_dict() == processor.to_dict()
        same(again(image, return_tensors="pt")["pixel_values"], processor(image, return_tensors="pt")["pixel_values"])
