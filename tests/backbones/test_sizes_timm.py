"""Sizes of timm architectures with real tensors: equal to timm's own models, flexible by default, built for a size on request."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from oracle import close, perturb, same
from safetensors.torch import save_file
from torch import nn

from vertebra import FPN, AutoBackbone, AutoConfig, TimmBackbone, TimmBackboneConfig
from vertebra.backbones.timm_sizes import FLEXIBLE

SMALL = {  # one small architecture per kind of flexible model, at a size that keeps it quick
    "VisionTransformer": ("test_vit", {}),
    "VisionTransformerDistilled": ("deit_tiny_distilled_patch16_224", {"depth": 2}),
    "Eva": ("vit_tiny_patch16_dinov3_qkvb", {"depth": 2}),
    "Eva with a table": ("eva02_tiny_patch14_224", {"depth": 2}),
    "SwinTransformer": ("swin_tiny_patch4_window7_224", {"depths": (2, 2), "num_heads": (3, 6)}),
    "SwinTransformerV2": ("swinv2_tiny_window8_256", {"depths": (2, 2), "num_heads": (3, 6)}),
    "SwinTransformerV2Cr": ("swinv2_cr_tiny_224", {"depths": (2, 2), "num_heads": (3, 6)}),
}


def build(name: str, **kwargs: object) -> TimmBackbone:
    return AutoBackbone.from_config(TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, **kwargs)).eval()


def write_folder(name: str, folder: Path, **kwargs: object) -> nn.Module:
    model = perturb(timm.create_model(name, **kwargs), scale=0.02).eval()
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config = {"architecture": name, "num_classes": model.num_classes, "pretrained_cfg": dict(model.pretrained_cfg)}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": kwargs} if kwargs else config))
    return model


def last_level(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.forward_intermediates(pixels, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]


@pytest.mark.parametrize("kind", SMALL)
class TestFlexible:
    def test_nothing_changes_at_the_native_size_and_other_sizes_run(self, kind: str) -> None:
        name, args = SMALL[kind]
        theirs = perturb(timm.create_model(name, **args), scale=0.02).eval()
        ours = build(name, model_args=args, prune=False)
        shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
        ours.load_state_dict(theirs.state_dict())
        pixels = torch.randn(1, 3, *ours.native_size)
        with torch.no_grad():
            same(ours(pixels).feature_maps[0], last_level(theirs, pixels))
        assert (
            ours.config.model_args == {key: list(v) if isinstance(v, tuple) else v for key, v in args.items()} or args
        )
        flexible, _ = FLEXIBLE[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]]
        wide = timm.create_model(name, **args, **flexible).eval()
        wide.load_state_dict(theirs.state_dict())
        height, width = 8 * ours.size_divisor, 12 * ours.size_divisor
        pixels = torch.randn(1, 3, height, width)
        with torch.no_grad():
            same(ours(pixels).feature_maps[0], last_level(wide, pixels))


class TestDefaults:
    def test_what_is_given_stands_and_nothing_is_written(self, tmp_path: Path) -> None:
        assert not build("vit_tiny_patch16_224", model_args={"depth": 2, "dynamic_img_size": False}).accepts(320, 512)
        backbone = build("test_vit")
        assert backbone.accepts(320, 512)
        backbone.save_pretrained(tmp_path)
        assert not json.loads((tmp_path / "config.json").read_text()).get("model_args")
        assert AutoBackbone.from_pretrained(tmp_path).accepts(320, 512)

    def test_a_size_that_is_no_whole_patches_is_built_as_timm_does(self) -> None:
        backbone = build("vit_tiny_patch16_224", model_args={"img_size": (100, 70), "depth": 2})
        assert backbone.output_shapes(100, 70) == {"blocks.1": (192, 6, 4)}
        assert not backbone.accepts(96, 64)

    @pytest.mark.parametrize("name", ["vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384"])
    def test_patches_that_do_not_divide_the_native_size_are_cut_as_timm_does(self, name: str) -> None:
        with torch.device("meta"):
            backbone = build(name, model_args={"depth": 2})
            assert backbone.output_shapes(384, 384) == {"blocks.1": (1152, 27, 27)}
            assert build(name, model_args={"depth": 2}, image_size=(378, 518)).accepts(378, 518)
        text = r"The nearest size that runs is 384x384\. from_pretrained\(…, image_size=\(378, 518\)\) builds it for that size\.$"
        with pytest.raises(ValueError, match=text):
            backbone.output_shapes(378, 518)

    def test_padding_runs_what_the_patches_do_not_divide(self) -> None:
        backbone = perturb(build("test_vit", size_policy="pad"), scale=0.02)
        pixels = torch.randn(1, 3, 70, 95)
        with torch.no_grad():
            level = backbone(pixels).feature_maps[0]
            backbone.config.size_policy = None
            padded = backbone(F.pad(pixels, (0, 1, 0, 10))).feature_maps[0]
        same(level, padded[..., :5, :6])

    def test_copies_measure_anew(self) -> None:
        backbone = build("test_vit")
        assert backbone.accepts(64, 96)
        for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            assert twin.output_shapes(64, 96) == {"blocks.5": (64, 4, 6)}


class TestErrors:
    def test_they_name_what_runs(self) -> None:
        backbone = build("vit_tiny_patch16_224", model_args={"depth": 2})
        text = (
            r"timm's vit_tiny_patch16_224 does not run on images of 100x100\. The nearest size that runs is 96x96\. "
            r"size_policy='pad' runs 100x100 itself, padded to a multiple of 16\.$"
        )
        for call in (lambda: backbone.output_shapes(100, 100), lambda: backbone(torch.zeros(1, 3, 100, 100))):
            with pytest.raises(ValueError, match=text):
                call()
        assert backbone.accepts(*backbone.nearest_size(100, 100))

    def test_what_is_built_for_its_size_says_that_it_can_be_built_for_another(self) -> None:
        backbone = build("vit_tiny_patch16_224", model_args={"depth": 2, "dynamic_img_size": False})
        text = r"The nearest size that runs is 224x224\. from_pretrained\(…, image_size=\(96, 128\)\) builds it for that size\.$"
        with pytest.raises(ValueError, match=text):
            backbone.output_shapes(96, 128)

    def test_a_shortest_side_is_found(self) -> None:
        with torch.device("meta"):
            backbone = build("inception_v3", out_indices=[2])
        near = backbone.nearest_size(3, 70)
        assert near[1] == 70
        assert backbone.accepts(*near)
        assert not backbone.accepts(near[0] - 1, 70)

    def test_a_cell_spread_over_a_table_does_not_count_as_running(self) -> None:
        backbone = build("pit_ti_224")
        assert not backbone.accepts(16, 16)
        with pytest.raises(ValueError, match="does not run on images of 16x16"):
            backbone(torch.zeros(1, 3, 16, 16))

    def test_gemma_says_what_it_needs(self) -> None:
        with torch.device("meta"):
            backbone = build("gemma4_vit_167m_enc")
        assert not backbone.accepts(320, 512)
        assert backbone.nearest_size(320, 512) == (336, 528)
        assert backbone.nearest_size(310, 490) == (288, 480)
        assert FPN(backbone, strides=(16, 32)).nearest_size(310, 490) == (288, 480)


RESIZED = ("visformer_tiny", "pit_ti_224", "test_vit", "test_resnet", "test_vit_relpos")


class TestImageSize:
    @pytest.mark.parametrize("name", RESIZED)
    def test_weights_of_the_native_size_are_read(self, name: str, tmp_path: Path) -> None:
        theirs = write_folder(name, tmp_path)
        size = (96, 128)
        backbone = AutoBackbone.from_pretrained(tmp_path, image_size=size)
        pixels = torch.randn(1, 3, *size)
        args = {} if name == "test_resnet" else {"img_size": size}
        wide = timm.create_model(name, **args).eval()
        state = theirs.state_dict()
        for key, there in wide.state_dict().items():
            if key.startswith("pos_embed") and there.shape != state[key].shape:
                state[key] = expected_table(state[key], there.shape)
            elif there.shape != state[key].shape:
                pytest.fail(f"{key} has another shape")
        wide.load_state_dict(state)
        with torch.no_grad():
            close(backbone(pixels).feature_maps[0], last_level(wide, pixels), tol=1e-5)
        assert backbone.config.image_size is None
        assert (backbone.config.model_args or {}).get("img_size") == (list(size) if args else None)
        backbone.save_pretrained(tmp_path / "again")
        again = AutoBackbone.from_pretrained(tmp_path / "again")
        with torch.no_grad():
            same(again(pixels).feature_maps[0], backbone(pixels).feature_maps[0])

    @pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # torch, of timm's resampling of bias tables
    @pytest.mark.filterwarnings("ignore:torch.searchsorted")
    def test_a_configuration_takes_it_too(self, tmp_path: Path) -> None:
        write_folder("test_coatnet", tmp_path)
        config = AutoConfig.for_model("timm_backbone", backbone="test_coatnet", image_size=96)
        assert config.image_size == (96, 96)
        config.save_pretrained(tmp_path / "wish")
        assert TimmBackboneConfig.from_pretrained(tmp_path / "wish").image_size == (96, 96)
        assert AutoBackbone.from_pretrained(tmp_path, config=config).accepts(96, 96)
        plain = TimmBackboneConfig(backbone="test_coatnet")
        assert AutoBackbone.from_pretrained(tmp_path, config=plain, image_size=(96, 128)).accepts(96, 128)
        assert plain.image_size is None
        with pytest.raises(ValueError, match=r"image_size=\(1, 2, 3\) must be \(height, width\) in pixels"):
            TimmBackboneConfig(backbone="test_coatnet", image_size=(1, 2, 3))

    def test_with_padding_the_network_is_built_for_the_padded_size(self) -> None:
        backbone = build("test_coatnet", image_size=(70, 95), size_policy="pad")
        assert backbone.config.model_args == {"img_size": [96, 96]}
        assert backbone(torch.zeros(1, 3, 70, 95)).feature_maps[0].shape[-2:] == (3, 3)

    def test_what_cannot_be_built_is_refused_with_what_can(self) -> None:
        with torch.device("meta"):
            with pytest.raises(
                ValueError,
                match=r"timm's convit_tiny cannot be built for images of 320x512\. The nearest size that runs is 512x512",
            ):
                build("convit_tiny", image_size=(320, 512))
            assert build("convit_tiny", image_size=(512, 512)).accepts(512, 512)

    def test_weights_that_nobody_resamples_are_refused(self, tmp_path: Path) -> None:
        write_folder("levit_128s", tmp_path)
        with pytest.raises(
            ValueError,
            match=r"The weights of timm's levit_128s cannot be used for images of \[320, 512\]: its attention biases",
        ):
            AutoBackbone.from_pretrained(tmp_path, image_size=(320, 512))


def expected_table(table: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A position table resampled: tokens after a class token (test_vit), or planes."""
    if table.ndim == 4:
        return F.interpolate(table, size=shape[2:], mode="bicubic", antialias=True)
    prefix = table.shape[1] - int((table.shape[1]) ** 0.5) ** 2
    side = int((table.shape[1] - prefix) ** 0.5)
    planes = table[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(6, 8), mode="bicubic", antialias=True)
    return torch.cat([table[:, :prefix], planes.flatten(2).transpose(1, 2)], dim=1)
