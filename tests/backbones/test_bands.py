"""Other numbers of image channels: filters against timm's own rule, for native families and every class of timm."""

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from oracle import close, perturb, same
from safetensors.torch import load_file, save_file
from timm.models._manipulate import adapt_input_conv
from timm_names import SMALLEST

from vertebra import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    SwinBackbone,
    SwinConfig,
)
from vertebra.backbones.timm_backbone import TimmBackbone, TimmBackboneConfig
from vertebra.backbones.timm_models import RGB_ONLY
from vertebra.backbones.timm_sizes import NO_META_RUN
from vertebra.bands import adapt_filters, input_layers

NATIVE: dict[str, Any] = {
    "resnet": (
        ResNetBackbone,
        ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], out_indices=[0, 2]),
    ),
    "swin": (SwinBackbone, SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, out_indices=[0, 2])),
}
INPUT = {"resnet": "embedder.embedder.convolution.weight", "swin": "embeddings.patch_embeddings.projection.weight"}


def native(name: str, folder: Path) -> Any:
    kind, config = NATIVE[name]
    model = perturb(kind(config)).eval()
    model.save_pretrained(folder)
    return model


def timm_folder(name: str, folder: Path, **kwargs: Any) -> Any:
    """A folder as timm writes it."""
    model = perturb(timm.create_model(name, **kwargs), scale=0.02).eval()
    timm.models.save_for_hf(model, folder, safe_serialization=True, model_args=kwargs or None)
    return model


class TestFilters:
    @pytest.mark.parametrize("new", [1, 2, 3, 4, 6, 13])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_rule_is_timms(self, new: int, dtype: torch.dtype) -> None:
        weight = torch.randn(5, 3, 4, 4).to(dtype)
        same(adapt_filters(weight, 3, new), adapt_input_conv(new, weight))

    def test_stacked_pixels_are_summed_as_timm_does(self) -> None:
        weight = torch.randn(5, 48, 3, 3)
        same(adapt_filters(weight, 3, 1), adapt_input_conv(1, weight))

    @pytest.mark.parametrize(("old", "new"), [(3, 13), (3, 1), (4, 8), (1, 3), (13, 1), (4, 13)])
    def test_closed_form_of_every_layout(self, old: int, new: int) -> None:
        """A flattened patch, a stack of pixels and a convolution hold the same numbers in another order."""
        filters = torch.randn(5, old, 2, 2, dtype=torch.float64)
        expected = torch.stack(
            [filters.sum(1)] if new == 1 else [filters[:, j % old] * old / new for j in range(new)], dim=1
        )
        close(adapt_filters(filters, old, new), expected, tol=1e-12)
        close(adapt_filters(filters.flatten(1), old, new), expected.flatten(1), tol=1e-12)
        last, wanted = (x.permute(0, 2, 3, 1).flatten(1) for x in (filters, expected))
        close(adapt_filters(last, old, new, flat_last=True), wanted, tol=1e-12)
        close(adapt_filters(last[..., None, None], old, new), wanted[..., None, None], tol=1e-12)
        close(adapt_filters(filters[:, :, None], old, new), expected[:, :, None], tol=1e-12)


@pytest.mark.parametrize("name", NATIVE)
class TestNative:
    @pytest.mark.parametrize("channels", [1, 2, 4, 13])
    @pytest.mark.parametrize("argument", ["num_channels", "in_chans"])
    def test_filters_are_timms_and_the_rest_is_the_files(
        self, name: str, channels: int, argument: str, tmp_path: Path
    ) -> None:
        usual = native(name, tmp_path).state_dict()
        made, info = AutoBackbone.from_pretrained(tmp_path, **{argument: channels}, output_loading_info=True)
        assert made.config.num_channels == channels
        weights = made.state_dict()
        same(weights.pop(INPUT[name]), adapt_input_conv(channels, usual[INPUT[name]]))
        for key, tensor in weights.items():
            same(tensor, usual[key], key)
        shapes = [tuple(usual[INPUT[name]].shape), (8, channels, *usual[INPUT[name]].shape[2:])]
        assert info["adapted_keys"] == [(INPUT[name], *shapes)]
        assert info["mismatched_keys"] == info["missing_keys"] == []
        with torch.no_grad():
            maps = made(torch.randn(1, channels, 32, 32)).feature_maps
        assert all(found.isfinite().all() for found in maps)

    def test_the_same_picture_twice_is_the_same(self, name: str, tmp_path: Path) -> None:
        usual = native(name, tmp_path)
        made = AutoBackbone.from_pretrained(tmp_path, num_channels=6)
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            close(list(made(torch.cat([pixels, pixels], 1)).feature_maps), list(usual(pixels).feature_maps), tol=1e-5)

    def test_saved_and_loaded(self, name: str, tmp_path: Path) -> None:
        native(name, tmp_path / "rgb")
        made = AutoBackbone.from_pretrained(tmp_path / "rgb", num_channels=13, dtype="bfloat16", freeze="stem")
        made.save_pretrained(tmp_path / "bands")
        again, info = AutoBackbone.from_pretrained(tmp_path / "bands", output_loading_info=True)
        assert (again.config.num_channels, again.dtype, info["adapted_keys"]) == (13, torch.bfloat16, [])
        pixels = torch.randn(1, 13, 32, 32, dtype=torch.bfloat16)
        with torch.no_grad():
            same(list(again(pixels).feature_maps), list(made(pixels).feature_maps))
            mono = AutoBackbone.from_pretrained(tmp_path / "bands", num_channels=1)
        same(mono.state_dict()[INPUT[name]], made.state_dict()[INPUT[name]].float().sum(1, True).bfloat16())

    def test_it_is_told(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        native(name, tmp_path)
        with caplog.at_level(logging.INFO, "vertebra"):
            AutoBackbone.from_pretrained(tmp_path, num_channels=13)
        told = [record for record in caplog.records if "image channels" in record.message]
        assert [record.levelname for record in told] == ["INFO"]
        assert "filters for 13 image channels from those for 3: the old ones in turn, times 3/13" in told[0].message
        assert INPUT[name] in told[0].message
        assert "num_channels=13" in told[0].message

    def test_which_bands_to_drop_is_not_guessed(self, name: str, tmp_path: Path) -> None:
        config = NATIVE[name][1]
        AutoBackbone.from_config(type(config).from_dict(config.to_dict(), num_channels=13)).save_pretrained(tmp_path)
        text = r"reads 13 channels and num_channels=4 are asked for: which of its 13 are meant cannot be known"
        with pytest.raises(ValueError, match=text):
            AutoBackbone.from_pretrained(tmp_path, num_channels=4)


def test_models_and_classifiers(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 26], depths=[1, 1], num_labels=26)
    usual = perturb(ResNetForImageClassification(config)).eval()
    usual.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    twice = torch.cat([pixels, pixels], 1)
    with torch.no_grad():
        whole = AutoModelForImageClassification.from_pretrained(tmp_path, num_channels=6)
        close(whole(twice).logits, usual(pixels).logits, tol=1e-5)
        model = AutoModel.from_pretrained(tmp_path, num_channels=6)
        close(model(twice).last_hidden_state, usual.resnet(pixels).last_hidden_state, tol=1e-5)
    with pytest.raises(RuntimeError, match=r"(?s)Shapes in the checkpoint differ.*mismatched\s+classifier\.1\.weight"):
        AutoModelForImageClassification.from_pretrained(tmp_path, num_channels=13, num_labels=13)
    fresh, info = AutoModelForImageClassification.from_pretrained(
        tmp_path, num_channels=13, num_labels=13, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [key for key, _, _ in info["adapted_keys"]] == ["resnet.embedder.embedder.convolution.weight"]
    assert [key for key, _, _ in info["mismatched_keys"]] == ["classifier.1.weight", "classifier.1.bias"]
    assert fresh(torch.randn(2, 13, 32, 32)).logits.shape == (2, 13)


def test_a_width_that_differs_is_no_number_of_channels(tmp_path: Path) -> None:
    native("resnet", tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)Shapes in the checkpoint differ.*mismatched\s+embedder"):
        AutoBackbone.from_pretrained(tmp_path, embedding_size=16)


def test_two_names_of_one_number(tmp_path: Path) -> None:
    native("resnet", tmp_path)
    with pytest.raises(ValueError, match="num_channels=4 and in_chans=13 are two names of one number; give one"):
        AutoBackbone.from_pretrained(tmp_path, num_channels=4, in_chans=13)
    config = ResNetConfig.from_pretrained(tmp_path, in_chans=4)
    assert config.in_chans == config.num_channels == 4
    assert "in_chans" not in config.to_dict()
    assert AutoBackbone.from_pretrained(tmp_path, config=ResNetConfig.from_pretrained(tmp_path), in_chans=4)(
        torch.randn(1, 4, 32, 32)
    )


class TestTimm:
    @pytest.mark.parametrize(("name", "channels"), [("test_resnet", 1), ("test_resnet", 13), ("test_vit", 4)])
    def test_equal_to_timms_own_loader(self, name: str, channels: int, tmp_path: Path) -> None:
        timm_folder(name, tmp_path)
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=channels).eval()
        pixels = torch.randn(1, channels, 160, 160)
        with torch.no_grad():
            expected = theirs.forward_intermediates(pixels, indices=[1], norm=False, intermediates_only=True)
            for argument in ("num_channels", "in_chans"):
                ours, info = AutoBackbone.from_pretrained(
                    tmp_path, **{argument: channels}, out_indices=(1,), output_loading_info=True
                )
                close(list(ours(pixels).feature_maps), expected, tol=1e-6)
                assert len(info["adapted_keys"]) == 1

    def test_a_resized_position_table_as_well(self, tmp_path: Path) -> None:
        timm_folder("test_vit", tmp_path)
        kwargs = {"in_chans": 4, "img_size": (96, 128)}
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **kwargs).eval()
        ours = AutoBackbone.from_pretrained(tmp_path, **kwargs, prune=False)
        for key, tensor in theirs.state_dict().items():
            same(ours.state_dict()[key], tensor, key)

    @pytest.mark.parametrize(("file", "asked"), [(4, 4), (4, 8), (13, 1)])
    def test_checkpoints_of_other_channels(self, file: int, asked: int, tmp_path: Path) -> None:
        usual = timm_folder("test_vit", tmp_path, in_chans=file)
        for kwargs in ({}, {"img_size": (96, 128)}):
            ours = AutoBackbone.from_pretrained(tmp_path, num_channels=asked, **kwargs)
            weight = usual.state_dict()["patch_embed.proj.weight"]
            same(ours.state_dict()["patch_embed.proj.weight"], adapt_filters(weight, file, asked))

    def test_models_with_their_head(self, tmp_path: Path) -> None:
        timm_folder("test_resnet", tmp_path)
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=4).eval()
        pixels = torch.randn(1, 4, 64, 64)
        with torch.no_grad():
            for argument in ("num_channels", "in_chans"):
                ours = AutoModelForImageClassification.from_pretrained(tmp_path, **{argument: 4})
                close(ours(pixels).logits, theirs(pixels), tol=1e-6)

    @pytest.mark.parametrize(
        ("name", "args", "size"),
        [
            ("naflexvit_base_patch16_parfac_gap", {"depth": 1, "embed_dim": 64, "num_heads": 2}, 64),
            ("gemma4_vit_167m_enc", {"depth": 1, "embed_dim": 64, "num_heads": 2, "head_dim": 32}, 48),
            pytest.param("tresnet_m", {}, 64, marks=pytest.mark.slow),
            ("cs3darknet_focus_s", {}, 64),
        ],
    )
    def test_stems_that_timms_rule_does_not_reach(self, name: str, args: Any, size: int, tmp_path: Path) -> None:
        """Linear layers on patches, of either order, and stacked pixels: the same picture twice is the same."""
        usual = perturb(timm.create_model(name, **args), scale=0.02).eval()
        save_file({key: tensor.clone() for key, tensor in usual.state_dict().items()}, tmp_path / "model.safetensors")
        ours = TimmBackbone(
            TimmBackboneConfig(name, num_channels=6, model_args=args, use_pretrained_backbone=False, out_indices=[0])
        )
        ours.save_pretrained(tmp_path / "six")
        save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "six" / "model.safetensors")
        ours = AutoBackbone.from_pretrained(tmp_path / "six")
        pixels = torch.rand(1, 3, size, size)
        with torch.no_grad():
            expected = usual.forward_intermediates(
                pixels, indices=[0], norm=False, stop_early=True, intermediates_only=True, output_fmt="NCHW"
            )
            close(list(ours(torch.cat([pixels, pixels], 1)).feature_maps), expected, tol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", sorted(SMALLEST))
    def test_every_class(self, kind: str) -> None:
        with torch.device("meta"):
            rgb = {key: tuple(x.shape) for key, x in timm.create_model(SMALLEST[kind]).state_dict().items()}
            for channels in (1, 4, 13):
                config = TimmBackboneConfig(SMALLEST[kind], num_channels=channels, prune=False, out_indices=[0])
                if SMALLEST[kind] in RGB_ONLY:
                    with pytest.raises(ValueError, match="is made for images of 3 channels"):
                        TimmBackbone(config)
                    continue
                model = TimmBackbone(config).eval()
                found = input_layers(model, rgb)
                differing = {key for key, x in model.state_dict().items() if rgb.get(key) != tuple(x.shape)}
                assert set(found.names) == differing
                assert differing
                assert (found.old, found.new) == (3, channels)
                if kind not in NO_META_RUN:
                    assert model(torch.empty(1, channels, *model.native_size)).feature_maps[0].shape[0] == 1
