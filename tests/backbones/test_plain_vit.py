"""What plain vision transformers share: tokens, positions of any size, recipes, and blocks by number as DINO's users know them."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from oracle import close, perturb, same, save_with_transformers

import vertebra
from vertebra import AutoBackbone, Dinov2Backbone, Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, ViTConfig
from vertebra.backbones.patches import Resize
from vertebra.backbones.recipes import recipe

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
VIT = {**TINY, "intermediate_size": 24}
PREFIX = {"ViT": 1, "DeiT": 2, "Dinov2": 1, "Dinov2WithRegisters": 4, "DINOv3ViT": 3}
MORE = {
    "Dinov2WithRegisters": {"num_register_tokens": 3},
    "DINOv3ViT": {"num_register_tokens": 2, "intermediate_size": 24},
}


def build(family: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(vertebra, f"{family}Config")(**{**TINY, **MORE.get(family, {}), **kwargs})
    return perturb(getattr(vertebra, f"{family}Backbone")(config)).eval()


def tiny(**kwargs: Any) -> Any:
    return build("Dinov2", **kwargs)


class TestTokens:
    @pytest.mark.parametrize("family", PREFIX)
    def test_every_family_returns_them_on_request(self, family: str) -> None:
        backbone, x = build(family, out_indices=[0, 2]), torch.randn(2, 3, 37, 51)
        with torch.no_grad():
            plain, output = backbone(x), backbone(x, output_tokens=True, output_hidden_states=True)
        assert plain.tokens is None
        same(output.feature_maps, plain.feature_maps)
        norm = backbone.get_submodule(backbone.norm_path)
        for index, tokens, feature_map in zip((0, 2), output.tokens, output.feature_maps, strict=True):
            state = norm(output.hidden_states[index])
            assert tokens.shape == (2, PREFIX[family], 16)
            close(tokens, state[:, : PREFIX[family]], tol=1e-6)
            close(feature_map.flatten(2).mT, state[:, PREFIX[family] :], tol=1e-6)

    @pytest.mark.parametrize("family", PREFIX)
    def test_the_configuration_can_ask_for_them(self, family: str, tmp_path: Any) -> None:
        backbone = build(family, output_tokens=True)
        backbone.save_pretrained(tmp_path)
        again, x = AutoBackbone.from_pretrained(tmp_path), torch.randn(1, 3, 32, 32)
        assert list(again(x)) == ["feature_maps", "tokens"]
        assert list(again(x, output_tokens=False)) == ["feature_maps"]
        assert len(again(x, return_dict=False)) == 2

    @pytest.mark.parametrize("family", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
    @pytest.mark.parametrize("normed", [True, False])
    def test_maps_as_tokens_and_without_norm_equal_transformers(self, family: str, normed: bool, tmp_path: Any) -> None:
        kwargs = {
            **TINY,
            **MORE.get(family, {}),
            "out_indices": [1, 3],
            "reshape_hidden_states": False,
            "apply_layernorm": normed,
        }
        config = getattr(transformers, f"{family}Config")(**kwargs)
        theirs = save_with_transformers(getattr(transformers, f"{family}Backbone")(config), tmp_path)
        ours, info = AutoBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["unexpected_keys"]) == set(info["explained"])
        x = torch.randn(2, 3, 37, 51)
        with torch.no_grad():
            close(ours(x).feature_maps, theirs(x).feature_maps)
        unused = not normed and family != "DINOv3ViT"
        assert ("layernorm.weight" in info["unexpected_keys"]) == unused
        assert all(parameter.grad is None for parameter in ours.parameters())
        sum(m.square().sum() for m in ours(x).feature_maps).backward()
        assert all(parameter.grad is not None for parameter in ours.parameters())

    def test_padding_to_oblong_patches_is_cut_off(self) -> None:
        backbone = tiny(patch_size=[4, 8], image_size=[32, 32], size_policy="pad", out_indices=[3])
        x = torch.randn(1, 3, 9, 13)
        (feature_map,) = backbone(x).feature_maps
        backbone.config.reshape_hidden_states = False
        (tokens,) = backbone(x).feature_maps
        assert feature_map.shape == (1, 16, 3, 2)
        same(tokens[:, 1:].mT.unflatten(2, (3, 2)), feature_map)


class TestPositions:
    @pytest.mark.parametrize("antialias", [False, True])
    @pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("size", [(7, 5), (16, 37), (50, 74), (3, 90), (1, 1), (6, 5)])
    def test_as_torch_resizes(self, size: tuple[int, int], mode: str, antialias: bool) -> None:
        table = torch.randn(6, 5, 8)
        expected = F.interpolate(
            table.permute(2, 0, 1)[None], size, mode=mode, align_corners=False, antialias=antialias
        )
        close(Resize(mode, antialias)(table, *size).permute(2, 0, 1), expected[0], tol=1e-6)

    def test_it_keeps_the_dtype_and_computes_in_float32(self) -> None:
        table = torch.randn(6, 5, 8).bfloat16()
        found = Resize()(table, 16, 9)
        assert found.dtype == torch.bfloat16
        same(found, Resize()(table.float(), 16, 9).bfloat16())

    def test_what_depends_on_sizes_is_computed_once_and_trained_tables_are_seen(self) -> None:
        backbone, x = tiny(), torch.randn(1, 3, 37, 51)
        with torch.no_grad():
            before = backbone(x).feature_maps[0]
            kept = list(backbone.embeddings.resize.tables._kept.values())
            backbone.embeddings.position_embeddings.data.mul_(2.0)  # past torch's counters, as some optimizers write
            after = backbone(x).feature_maps[0]
            assert all(a is b for a, b in zip(kept, backbone.embeddings.resize.tables._kept.values(), strict=True))
        assert [tuple(table.shape) for table in kept] == [(4, 4), (6, 4)]
        assert (before - after).abs().max() > 1e-3

    def test_a_trained_size_that_is_not_square(self) -> None:
        backbone = tiny(image_size=[40, 24])
        table = backbone.embeddings.position_embeddings
        assert table.shape == (1, 1 + 5 * 3, 16)
        first, cells = backbone.embeddings.positions(5, 3)
        same(torch.cat([first, cells])[None], table)

    def test_images_smaller_than_a_patch(self) -> None:
        text = r"An image of 7x40 pixels holds no whole patch, which are 8x8. The nearest size that runs is 8x40."
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            Dinov2Model(Dinov2Config(**TINY))(torch.zeros(1, 3, 7, 40))


class TestIntermediateLayers:
    def test_the_last_blocks_and_chosen_ones(self) -> None:
        for family, prefix in PREFIX.items():
            backbone, x = build(family, prune=False), torch.randn(2, 3, 37, 51)
            norm = backbone.get_submodule(backbone.norm_path)
            with torch.no_grad():
                states = backbone(x, output_hidden_states=True).hidden_states
                last = backbone.get_intermediate_layers(x, n=2)
                close(last, tuple(norm(state)[:, prefix:] for state in states[2:]), tol=1e-6)
                pairs = backbone.get_intermediate_layers(x, n=[0, 2], reshape=True, return_class_token=True, norm=False)
            for (patches, token), state in zip(pairs, (states[1], states[3]), strict=True):
                close(patches, state[:, prefix:].mT.unflatten(2, (4, 6)), tol=1e-6)
                close(token, state[:, 0], tol=1e-6)

    def test_models_have_it_too(self) -> None:
        torch.manual_seed(0)
        model, x = perturb(Dinov2Model(Dinov2Config(**TINY))).eval(), torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            (last,) = model.get_intermediate_layers(x)
            close(last, model(x).last_hidden_state[:, 1:], tol=1e-6)

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ({"n": 4}, "n=4 must be how many of the last of 3 blocks, or a list of blocks from 0 to 2."),
            ({"n": [1, 3]}, "n=[1, 3] must be how many of the last of 3 blocks, or a list of blocks from 0 to 2."),
            ({"n": 0}, "n=0 must be how many of the last of 3 blocks, or a list of blocks from 0 to 2."),
            (
                {"n": [2]},
                "n=[2] asks for block 2 of 3, and this pruned backbone has blocks 0 to 1. Build it with prune=False, or with "
                "out_indices up to 3.",
            ),
            (
                {"n": [0]},
                "norm=True needs the final norm, which this model was built without; pass norm=False.",
            ),
        ],
    )
    def test_what_there_is_not(self, call: dict[str, Any], text: str) -> None:
        backbone = tiny(out_indices=[2], apply_layernorm=False)
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            backbone.get_intermediate_layers(torch.zeros(1, 3, 32, 32), **call)


class TestRecipes:
    @pytest.mark.parametrize(
        ("config", "layers", "blocks"),
        [
            (Dinov2Config, 12, [2, 5, 8, 11]),
            (Dinov2Config, 24, [4, 11, 17, 23]),
            (Dinov2WithRegistersConfig, 40, [9, 19, 29, 39]),
            (vertebra.DINOv3ViTConfig, 32, [7, 15, 23, 31]),
            (ViTConfig, 24, [5, 11, 17, 23]),
        ],
    )
    def test_dense(self, config: Any, layers: int, blocks: list[int]) -> None:
        made = config(num_hidden_layers=layers, out_indices="dense")
        assert made.out_features == [f"stage{block + 1}" for block in blocks]
        assert made.selection_is_chosen
        assert config.from_dict(made.to_dict()).out_indices == made.out_indices

    def test_by_name_when_loading_and_narrowing(self, tmp_path: Any) -> None:
        config = Dinov2Config(**{**TINY, "num_hidden_layers": 12, "hidden_size": 8}, out_indices=[12])
        Dinov2Backbone(config).save_pretrained(tmp_path)
        backbone = AutoBackbone.from_pretrained(tmp_path, out_indices="dense")
        assert backbone.out_indices == [3, 6, 9, 12]
        whole = AutoBackbone.from_pretrained(tmp_path, prune=False)
        whole.out_indices = "dense"
        assert whole.out_features == backbone.out_features

    def test_unknown_ones(self) -> None:
        text = "out_indices='dence' is no recipe. Did you mean 'dense'? Recipes are dense; otherwise give a list of indices such as"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
            Dinov2Config(out_indices="dence")
        text = (
            "out_indices='dense' is not known for 'dinov2' with 3 layers, only for 12, 24, 32, 40 layers. Give a list of indices "
            "such as out_indices=[-1]."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            tiny(out_indices="dense")
        with pytest.raises(
            ValueError, match=r"^out_indices='dense' is not known for 'swin' with 12 layers, only for the families "
        ):
            recipe("dense", "swin", 12)


class TestConfigurations:
    def test_heads_share_the_channels(self) -> None:
        text = "hidden_size=18 channels cannot be shared equally by num_attention_heads=4."
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            ViTConfig(hidden_size=18, num_attention_heads=4)

    @pytest.mark.parametrize("family", PREFIX)
    def test_files_of_transformers(self, family: str, tmp_path: Any) -> None:
        getattr(transformers, f"{family}Config")(image_size=(64, 48), num_labels=5).save_pretrained(tmp_path)
        config = vertebra.AutoConfig.from_pretrained(tmp_path)
        assert (config.image_size, config.num_labels, config.hidden_size) == (
            [64, 48],
            5,
            384 if family == "DINOv3ViT" else 768,
        )
        with torch.device("meta"):
            backbone = AutoBackbone.from_config(config)
        assert backbone.stage_names == ["stem", *(f"stage{number}" for number in range(1, 13))]
