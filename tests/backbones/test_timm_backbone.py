"""timm architectures as backbones: the contract, equality with timm's own maps, names, loading, sizes and freezing."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from oracle import close, perturb, same
from safetensors.torch import load_file, save_file
from timm_names import SHALLOW, SMALLEST
from torch import nn

from vertebra import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmBackbone,
    TimmBackboneConfig,
)
from vertebra.backbones.timm_models import WRAPPER_SPELLINGS
from vertebra.inspection.facts import NoDraws
from vertebra.inspection.verify import verify
from vertebra.loading import match_keys

GEMMA = ("Gemma4VitClassifier", "Gemma4VitEncoder")
LONGEST = ("InceptionResnetV2", "InceptionV4", "MobileNetV5", "MobileNetV5Encoder", "NASNetALarge", "PNASNet5Large")
"""Networks whose depth no argument changes: five to nine seconds each on the meta device."""
REAL = (  # at most 4 million parameters: run on real tensors in the default suite
    "ByobNet ConvNeXt CspNet DLA EdgeNeXt EfficientNet EfficientVit EfficientVitMsra GhostNet IFormer MambaOut MaxxVit MobileNetV3 "
    "NormFreeNet RegNet RepGhostNet ResNet StarNet SwiftFormer VisionTransformer VisionTransformerRelPos VovNet"
).split()
EQUAL = (  # thirty families of different layouts: NHWC, tokens, two branches, cached biases among them
    "ByobNet ConvNeXt CoaT CrossVit CspNet DLA DaVit EdgeNeXt EfficientFormerV2 EfficientNet EfficientVit EfficientVitMsra "
    "Eva FastVit FocalNet GhostNet Hiera HighResolutionNet LevitDistilled MambaOut MaxxVit MobileNetV3 RegNet ResNet "
    "PoolingVisionTransformer SwinTransformer TResNet TinyVit VisionTransformer VovNet Xcit"
).split()
LARGE = {  # at their own size these take minutes and ten gigabytes
    "DeepseekVitClassifier": (84, 126),
    "DeepseekVitEncoder": (84, 126),
    "MobileNetV5Encoder": (256, 256),
}
UNROLLED = {"Sequencer2d": (28, 42)}  # its LSTMs run step by step on the meta device, a step for each row and column
LAST_BITS = 1e-6  # the same operations, but convolutions pick their kernel by where the weights lie in memory
ALSO_EQUAL = sorted({*SMALLEST} - {*EQUAL, *GEMMA, *LARGE})
HEAVY = sorted({*SMALLEST} - {*REAL} - {*GEMMA})


def on_meta(name: str, **kwargs: object) -> TimmBackbone:
    with torch.device("meta"):
        return AutoBackbone.from_config(TimmBackboneConfig(name, use_pretrained_backbone=False, **kwargs))


def build(name: str, **kwargs: object) -> TimmBackbone:
    return AutoBackbone.from_config(TimmBackboneConfig(name, use_pretrained_backbone=False, **kwargs)).eval()


def write_timm_folder(name: str, folder: Path, **kwargs: object) -> nn.Module:
    """A checkpoint folder as timm writes it, with weights off their initial values; returns timm's own model."""
    model = perturb(timm.create_model(name, **kwargs), scale=0.02).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    cfg = {**model.pretrained_cfg, "num_classes": model.num_classes}
    config = {"architecture": name, "num_classes": model.num_classes, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": kwargs} if kwargs else config))
    return model


def timm_maps(name: str, weights: Path, pixels: torch.Tensor) -> tuple[list[torch.Tensor], list[str]]:
    """Timm's own `features_only` maps of every level that it offers, channels first, and the modules they are taken at."""
    with torch.device("meta"), NoDraws():
        levels = len(timm.create_model(name).feature_info)
    first = 1 if SMALLEST["TResNet"] == name else 0
    model = timm.create_model(
        name,
        features_only=True,
        out_indices=list(range(first, levels)),
        pretrained=True,
        pretrained_cfg_overlay={"file": str(weights)},
    ).eval()
    nhwc = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
    with torch.no_grad():
        return [
            level.permute(0, 3, 1, 2) if nhwc else level for level in model(pixels)
        ], model.feature_info.module_name()


class TestContract:
    def test_the_list_covers_every_class(self) -> None:
        assert len(SMALLEST) == 97

    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.slow if kind in LONGEST else ())
            for kind in sorted({*SMALLEST} - {*GEMMA})
        ],
    )
    def test_every_class_on_the_meta_device(self, kind: str) -> None:
        report = verify(on_meta(SMALLEST[kind], model_args=SHALLOW.get(kind)), UNROLLED.get(kind))
        assert report, str(report)
        assert len(report.stages) >= 1

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", SHALLOW)
    def test_deep_ones_as_deep_as_they_are(self, kind: str) -> None:
        report = verify(on_meta(SMALLEST[kind]))
        assert report, str(report)

    @pytest.mark.parametrize("kind", REAL)
    def test_small_ones_with_real_tensors(self, kind: str) -> None:
        report = verify(on_meta(SMALLEST[kind]), device="cpu")
        assert report, str(report)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", HEAVY)
    def test_the_others_with_real_tensors(self, kind: str) -> None:
        report = verify(on_meta(SMALLEST[kind]), LARGE.get(kind), device="cpu")
        assert report, str(report)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", timm.list_models("*gemma4*"))
    def test_gemma_reads_values_so_it_runs_for_real(self, name: str) -> None:
        report = verify(on_meta(name), size=(96, 144), device="cpu")
        assert report, str(report)


class TestEqualsTimm:
    @pytest.mark.parametrize("kind", [*EQUAL, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ALSO_EQUAL)])
    def test_maps_equal_features_only(self, kind: str, tmp_path: Path) -> None:
        """All in all 92 of the 97 classes, and every kind of wrapper, layout and pattern of strides."""
        name = SMALLEST[kind]
        write_timm_folder(name, tmp_path)
        backbone = AutoBackbone.from_pretrained(tmp_path, prune=False)
        assert not [key for key, tensor in backbone.state_dict(keep_vars=True).items() if tensor.is_meta]
        height, width = backbone.native_size
        pixels = torch.randn(2, 3, height, width)
        expected, _ = timm_maps(name, tmp_path / "model.safetensors", pixels)
        backbone.out_indices = list(range(len(backbone.stages) - len(expected), len(backbone.stages)))
        with torch.no_grad():
            actual = backbone(pixels).feature_maps
        close(actual, tuple(expected), tol=LAST_BITS if kind in EQUAL else 1e-5, name=kind)
        assert [level.shape[1] for level in actual] == backbone.channels

    @pytest.mark.parametrize("kind", ["ResNet", "SwinTransformer", "VisionTransformer", "EfficientNet"])
    def test_pruned_loads_give_the_same_map(self, kind: str, tmp_path: Path) -> None:
        name = SMALLEST[kind]
        write_timm_folder(name, tmp_path)
        pixels = torch.randn(1, 3, *on_meta(name).native_size)
        expected, _ = timm_maps(name, tmp_path / "model.safetensors", pixels)
        for index in range(len(expected)):
            backbone, info = AutoBackbone.from_pretrained(tmp_path, out_indices=[index], output_loading_info=True)
            with torch.no_grad():
                close(backbone(pixels).feature_maps[0], expected[index], tol=LAST_BITS)
            assert info["missing_keys"] == []
            assert set(info["unexpected_keys"]) == set(info["explained"])
            assert not any(tensor.is_meta for tensor in [*backbone.parameters(), *backbone.buffers()])

    def test_hidden_states_are_all_levels_up_to_the_last_selected(self, tmp_path: Path) -> None:
        name = SMALLEST["ResNet"]
        write_timm_folder(name, tmp_path)
        pixels = torch.randn(1, 3, 64, 64)
        expected, modules = timm_maps(name, tmp_path / "model.safetensors", pixels)
        backbone = AutoBackbone.from_pretrained(tmp_path, out_indices=(0, 2))
        assert backbone.stage_names == modules
        output = backbone(pixels, output_hidden_states=True)
        same(tuple(level.detach() for level in output.hidden_states), tuple(expected[:3]))


class TestNames:
    @pytest.mark.parametrize("kind", sorted({*SMALLEST} - {*GEMMA}))
    def test_every_features_only_spelling_is_read(self, kind: str) -> None:
        """Transformers' `timm_backbone` folders hold the names of timm's features_only wrappers."""
        name = SMALLEST[kind]
        with torch.device("meta"), NoDraws():
            model = timm.create_model(name)
            plain, levels = model.state_dict(), len(model.feature_info)
            wrapped = timm.create_model(name, features_only=True, out_indices=[levels - 1]).state_dict()
        matched = match_keys([f"_backbone.{key}" for key in wrapped], plain, "", WRAPPER_SPELLINGS)
        lost = [key for key in wrapped if matched[f"_backbone.{key}"] not in plain]
        assert lost == []
        assert len(set(matched.values())) == len(wrapped)
        for key, tensor in wrapped.items():
            assert plain[matched[f"_backbone.{key}"]].shape == tensor.shape or "weights" in key

    @pytest.mark.parametrize("kind", ["ConvNeXt", "ResNet", "VisionTransformer"])
    def test_names_do_not_depend_on_the_selection(self, kind: str) -> None:
        plain = set(timm.create_model(SMALLEST[kind]).state_dict())
        for index in range(len(on_meta(SMALLEST[kind]).stages)):
            assert set(on_meta(SMALLEST[kind], out_indices=[index]).state_dict()) <= plain

    def test_unpruned_is_the_whole_plain_model(self) -> None:
        assert set(on_meta("test_resnet", prune=False).state_dict()) == set(
            timm.create_model("test_resnet").state_dict()
        )

    def test_submodules_are_found_under_timm_names(self) -> None:
        backbone = on_meta("test_convnext")
        assert backbone.get_submodule("stages.0") is backbone.timm_model.stages[0]
        assert backbone.get_submodule("") is backbone


class TestFiles:
    def test_v4_timm_backbone_folder(self, v4: Path) -> None:
        expected = load_file(v4 / "timm_backbone" / "expected.safetensors")
        backbone = AutoBackbone.from_pretrained(v4 / "timm_backbone")
        assert (backbone.out_features, backbone.out_indices) == (["act1", "layer2"], [0, 2])
        for index, level in enumerate(backbone(expected["pixel_values"]).feature_maps):
            close(level, expected[f"feature_maps.{index}"])

    @pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
    def test_folder_that_transformers_5_wrote(self, name: str, tmp_path: Path) -> None:
        import transformers

        theirs = transformers.TimmBackbone(transformers.TimmBackboneConfig(backbone=name, out_indices=[0, 1]))
        perturb(theirs, scale=0.02).eval().save_pretrained(tmp_path)
        ours = AutoBackbone.from_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 160, 160)
        same(ours(pixels).feature_maps, tuple(theirs(pixels).feature_maps))

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
    def test_save_and_reload(self, name: str, tmp_path: Path) -> None:
        backbone = perturb(build(name, out_indices=(0, 1)), scale=0.02)
        backbone.save_pretrained(tmp_path)
        again = AutoBackbone.from_pretrained(tmp_path)
        assert type(again) is TimmBackbone
        assert again.config == TimmBackboneConfig.from_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 160, 160)
        same(again(pixels).feature_maps, backbone(pixels).feature_maps)
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        assert processor.size == {"height": 160, "width": 160}

    def test_another_number_of_input_channels_is_adapted_as_timm_does(self, tmp_path: Path) -> None:
        write_timm_folder("test_efficientnet", tmp_path)
        ours = AutoBackbone.from_pretrained(tmp_path, num_channels=1, out_indices=(1,))
        theirs = timm.create_model(
            "test_efficientnet",
            in_chans=1,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
        ).eval()
        pixels = torch.randn(1, 1, 64, 64)
        same(
            ours(pixels).feature_maps[0], theirs.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0]
        )
        with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\) must be \(batch, 1, height, width\)"):
            ours(torch.randn(1, 3, 64, 64))

    def test_position_table_is_resized_as_timm_does(self, tmp_path: Path) -> None:
        write_timm_folder("test_vit", tmp_path)
        ours = AutoBackbone.from_pretrained(tmp_path, img_size=(96, 128), out_indices=(1,))
        theirs = timm.create_model(
            "test_vit",
            img_size=(96, 128),
            pretrained=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
        ).eval()
        pixels = torch.randn(1, 3, 96, 128)
        same(
            ours(pixels).feature_maps[0], theirs.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0]
        )
        assert ours.output_shapes(96, 128) == {"blocks.1": (64, 6, 8)}

    def test_custom_head_and_unknown_weights(self, tmp_path: Path) -> None:
        write_timm_folder("test_resnet", tmp_path / "ten", num_classes=10)
        whole = AutoBackbone.from_pretrained(tmp_path / "ten", prune=False)
        assert whole.state_dict()["fc.weight"].shape[0] == 10
        save_file({"something.weight": torch.zeros(1)}, tmp_path / "ten" / "model.safetensors")
        with pytest.raises(
            RuntimeError, match=r"lacks \d+ tensors that TimmBackbone needs(.|\n)*missing\s+conv1.0.weight"
        ):
            AutoBackbone.from_pretrained(tmp_path / "ten")

    def test_folder_that_timm_itself_saved(self, tmp_path: Path) -> None:
        model = perturb(timm.create_model("test_resnet", in_chans=4, num_classes=7), scale=0.02).eval()
        timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
        ours = AutoBackbone.from_pretrained(tmp_path, out_indices=(1,))
        assert ours.config.num_channels == 4
        pixels = torch.randn(1, 4, 64, 64)
        same(ours(pixels).feature_maps[0], model.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0])

    def test_missing_layers_are_never_filled_with_random_ones(self, tmp_path: Path) -> None:
        write_timm_folder("test_resnet", tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        save_file({k: t for k, t in weights.items() if not k.startswith("layer4")}, tmp_path / "model.safetensors")
        for kwargs in ({}, {"num_labels": 10}, {"num_labels": 10, "ignore_mismatched_sizes": True}):
            with pytest.raises(RuntimeError, match=r"missing\s+layer4\.0\.conv1\.weight"):
                AutoModelForImageClassification.from_pretrained(tmp_path, **kwargs)

    @pytest.mark.parametrize(
        ("name", "kwargs", "shape"),
        [("test_vit", {"img_size": (96, 128)}, (3, 96, 128)), ("test_resnet", {"num_channels": 1}, (1, 64, 64))],
    )
    def test_a_pruned_folder_is_adapted_too(
        self, name: str, kwargs: dict[str, object], shape: tuple[int, int, int], tmp_path: Path
    ) -> None:
        write_timm_folder(name, tmp_path / "whole")
        AutoBackbone.from_pretrained(tmp_path / "whole", out_indices=(1,)).save_pretrained(tmp_path / "pruned")
        pixels = torch.randn(1, *shape)
        expected = AutoBackbone.from_pretrained(tmp_path / "whole", out_indices=(1,), **kwargs)(pixels)
        same(AutoBackbone.from_pretrained(tmp_path / "pruned", **kwargs)(pixels).feature_maps, expected.feature_maps)

    def test_nothing_selected_is_nothing_kept(self, tmp_path: Path) -> None:
        backbone = build("test_resnet", out_indices=[])
        assert backbone.num_parameters() == 0
        backbone.save_pretrained(tmp_path)
        assert AutoBackbone.from_pretrained(tmp_path)(torch.zeros(1, 3, 64, 64)).feature_maps == ()

    def test_a_configuration_with_a_head_makes_a_backbone(self, tmp_path: Path) -> None:
        backbone = AutoBackbone.from_config(AutoConfig.from_pretrained("test_resnet"))
        assert (type(backbone), backbone.out_features) == (TimmBackbone, ["layer4"])
        write_timm_folder("test_resnet", tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert AutoBackbone.from_pretrained(tmp_path, config=config, out_indices=(1,)).out_features == ["layer1"]

    def test_stage_names_follow_the_architecture(self) -> None:
        config = TimmBackboneConfig("resnet18")
        assert config.stage_names[0] == "act1"
        config.backbone = "test_convnext"
        assert config.stage_names[0] == "stages.0"


class TestBuilding:
    def test_positional_name_and_random_weights(self) -> None:
        backbone = TimmBackbone(config=TimmBackboneConfig("resnet18", use_pretrained_backbone=False, out_indices=(0,)))
        assert backbone.out_features == ["act1"]
        assert not any(parameter.is_meta for parameter in backbone.parameters())

    def test_output_stride(self) -> None:
        backbone = on_meta("resnet18", output_stride=8, out_indices=(1, 2, 3, 4))
        assert backbone.strides == [4, 8, 8, 8]
        report = verify(backbone)
        assert report, str(report)
        with pytest.raises(
            ValueError, match=r"vgg11 cannot be built with output_stride=16: its family \(vgg\) does not dilate"
        ):
            on_meta("vgg11", output_stride=16)

    def test_out_strides_take_the_deepest_stage_of_each(self) -> None:
        assert on_meta("test_vit", out_strides=(16,)).out_features == ["blocks.5"]
        assert on_meta("resnet18", out_strides=(4, 16)).out_features == ["layer1", "layer3"]
        with pytest.raises(
            ValueError, match=r"out_strides asks for stride 4, which no stage has\. The strides are blocks.0: 16"
        ):
            on_meta("test_vit", out_strides=(4, 16))

    def test_selection_is_checked_when_built(self) -> None:
        with pytest.raises(ValueError, match=r"out_indices=\[3, 1\] is not in stage order.*out_indices=\[1, 3\]"):
            on_meta("resnet18", out_indices=(3, 1))
        with pytest.raises(ValueError, match=r"names 'layer9', which is no stage. Did you mean 'layer4'"):
            on_meta("resnet18", out_features=["layer9"])

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match=r"timm has no architecture 'resnet5O'. Did you mean 'resnet50'"):
            on_meta("resnet5O")
        with pytest.raises(ValueError, match=r"timm's resnet18 has no weights 'nope'. It has resnet18"):
            on_meta("resnet18.nope")
        with pytest.raises(ValueError, match=r"timm's resnet18 cannot be built with \{'nonsense': 1\}"):
            on_meta("resnet18", model_args={"nonsense": 1})
        with pytest.raises(ValueError, match="No timm architecture is named"):
            TimmBackbone(TimmBackboneConfig())

    def test_corrected_strides(self) -> None:
        assert on_meta(SMALLEST["TResNet"]).stages[0].stride == (4, 4)
        branches = on_meta("crossvit_15_240").stages
        assert (branches[0].stride[0], branches[-1].stride[0] * 7) == (12, 120)


class TestSizes:
    def test_shapes_without_running(self) -> None:
        backbone = build("test_convnext", out_indices=(0, 1, 2, 3))
        for size in ((64, 64), (70, 95)):
            maps = backbone(torch.zeros(1, 3, *size)).feature_maps
            assert list(backbone.output_shapes(*size).values()) == [tuple(level.shape[1:]) for level in maps]

    def test_a_size_that_cannot_run_is_refused_with_one_that_can(self) -> None:
        backbone = build("test_vit")
        assert not backbone.accepts(100, 100)
        with pytest.raises(
            ValueError, match=r"does not run on images of 100x100.* The nearest size that runs is 96x96"
        ):
            backbone(torch.zeros(1, 3, 100, 100))
        with pytest.raises(
            ValueError, match=r"does not run on images of 100x100.* The nearest size that runs is 96x96"
        ):
            backbone.output_shapes(100, 100)

    def test_only_the_selected_levels_decide_what_runs(self) -> None:
        backbone = build("convnext_atto", out_indices=[0, 1])
        maps = backbone(torch.rand(1, 3, 33, 31)).feature_maps
        assert list(backbone.output_shapes(33, 31).values()) == [tuple(level.shape[1:]) for level in maps]

    def test_silent_resize_is_refused(self) -> None:
        backbone = build(SMALLEST["CrossVit"])
        with pytest.raises(
            ValueError, match=r"320x320: it resizes every image .* The nearest size that runs is 240x240"
        ):
            backbone(torch.zeros(1, 3, 320, 320))

    def test_padding_is_undone(self) -> None:
        backbone = build("test_convnext", out_indices=(0, 3), size_policy="pad")
        maps = backbone(torch.zeros(1, 3, 70, 95)).feature_maps
        assert [tuple(level.shape[-2:]) for level in maps] == [(18, 24), (3, 3)]


class TestTraining:
    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "levit_128s"])
    def test_freeze_holds(self, name: str, tmp_path: Path) -> None:
        backbone = build(name)
        names = backbone.stage_names
        report = backbone.freeze(upto=names[1])
        assert 0 < report.frozen < report.total
        backbone.save_pretrained(tmp_path)
        for candidate in (
            backbone,
            AutoBackbone.from_pretrained(tmp_path),
            copy.deepcopy(backbone),
            pickle.loads(pickle.dumps(backbone)),
        ):
            wrapper = nn.Sequential(candidate).train()
            for module in wrapper.modules():
                module.train()
            frozen = set(on_meta(name, out_indices=[0, 1]).state_dict())
            before = {key: tensor.clone() for key, tensor in candidate.state_dict().items()}
            pixels = torch.randn(2, 3, *candidate.native_size)
            wrapper(pixels).feature_maps[0].square().sum().backward()
            for key, parameter in candidate.named_parameters():
                assert (parameter.grad is None) == (key in frozen), key
            moved = {key for key, tensor in candidate.state_dict().items() if not torch.equal(tensor, before[key])}
            assert not moved & frozen
            assert moved or not any("running" in key for key in before)

    def test_unfreeze(self) -> None:
        backbone = build("test_resnet")
        backbone.freeze("layer1")
        backbone.unfreeze()
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        assert all(module.training for module in backbone.train().modules())

    def test_freeze_batch_norm_2d(self) -> None:
        backbone = perturb(build("test_resnet", freeze_batch_norm_2d=True)).train()
        before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
        backbone(torch.randn(2, 3, 64, 64)).feature_maps[0].sum().backward()
        same(tuple(backbone.state_dict().values()), tuple(before.values()))
        assert backbone.get_parameter("layer1.0.bn1.weight").grad is None
        assert backbone.get_parameter("layer1.0.conv1.weight").grad.abs().sum() > 0

    @pytest.mark.parametrize(
        "kind", ["LevitDistilled", "TinyVit", "EfficientFormer", "EfficientFormerV2", "EfficientVitMsra"]
    )
    def test_cached_attention_biases_never_go_stale(self, kind: str) -> None:
        backbone = perturb(build(SMALLEST[kind]))
        pixels = torch.randn(1, 3, *backbone.native_size)
        with torch.no_grad():
            before = backbone(pixels).feature_maps[0]
            for key, parameter in backbone.named_parameters():
                if key.endswith("attention_biases"):
                    parameter.add_(torch.randn_like(parameter))
            after = backbone(pixels).feature_maps[0]
        assert (after - before).abs().max() > 1e-3 * before.abs().max()
        backbone(pixels).feature_maps[0].sum().backward()
        biases = [parameter for key, parameter in backbone.named_parameters() if key.endswith("attention_biases")]
        assert biases
        assert all(parameter.grad is not None for parameter in biases)

    def test_batch_norms_thaw_but_for_those_of_frozen_stages(self) -> None:
        backbone = build("test_resnet", freeze_batch_norm_2d=True)
        backbone.freeze("act1")
        backbone.unfreeze_batch_norm_2d()
        backbone.train()
        assert not backbone.get_submodule("bn1").training
        assert backbone.get_submodule("layer1.0.bn1").training
        assert backbone.get_parameter("layer1.0.bn1.weight").requires_grad
        assert not backbone.get_parameter("bn1.weight").requires_grad

    def test_replicas_have_a_timm_model_of_their_own(self) -> None:
        backbone = build("test_resnet")
        replica = backbone._replicate_for_data_parallel()
        assert replica.timm_model is not backbone.timm_model
        assert replica.timm_model._modules is replica._modules

    def test_train_mode_reaches_the_timm_model(self) -> None:
        backbone = build("test_resnet")
        assert backbone.train().timm_model.training
        assert not backbone.eval().timm_model.training

    def test_copies_share_parameters_with_their_own_timm_model(self) -> None:
        twin = copy.deepcopy(build("test_resnet"))
        assert twin.timm_model._modules is twin._modules
        assert twin.double().timm_model.conv1[0].weight.dtype == torch.float64
