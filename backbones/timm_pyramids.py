"""timm's names of networks whose maps become smaller from stage to stage, as data."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from vertebra.backbones.timm_family import BIASES, QKV, Table, act, alike, need, split

# Swin


def _swin(model: Any) -> dict[str, Any]:
    blocks = [block for layer in model.layers for block in layer.blocks]
    embed, first = model.patch_embed, blocks[0]
    height, width = alike([block.window_size for block in blocks], "windows")
    need(height == width, f"its windows are {height}x{width} cells, no squares")
    return {
        "image_size": list(embed.img_size) if embed.img_size else 224,
        "patch_size": list(embed.patch_size),
        "embed_dim": model.embed_dim if isinstance(model.embed_dim, int) else model.embed_dim[0],
        "depths": [len(layer.blocks) for layer in model.layers],
        "num_heads": [layer.blocks[0].attn.num_heads for layer in model.layers],
        "window_size": height,
        "mlp_ratio": first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        "qkv_bias": first.attn.qkv.bias is not None,
        "hidden_act": act(first.mlp.act),
        "layer_norm_eps": first.norm1.eps,
        "always_shift": bool(first.always_partition),
    }


SWIN_NAMES = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    # timm merges cells where a stage begins, this family where one ends
    *((rf"^layers\.{stage}\.downsample\.", f"encoder.layers.{stage - 1}.downsample.") for stage in range(1, 9)),
    (r"^layers\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
    (r"^head\.fc\.", "classifier."),
)
SWIN = Table(("SwinTransformer",), _swin, SWIN_NAMES, (QKV,))


# Swin V2


def _swinv2(model: Any) -> dict[str, Any]:
    layers, embed = model.layers, model.patch_embed
    first = layers[0].blocks[0]
    need(
        all(one == two for one, two in (layer.blocks[0].window_size for layer in layers)), "its windows are no squares"
    )
    return {
        "image_size": list(embed.img_size),
        "patch_size": list(embed.patch_size),
        "embed_dim": model.embed_dim,
        "depths": [len(layer.blocks) for layer in layers],
        "num_heads": [layer.blocks[0].attn.num_heads for layer in layers],
        "window_size": max(layer.blocks[0].window_size[0] for layer in layers),
        "pretrained_window_sizes": [layer.blocks[0].attn.pretrained_window_size[0] for layer in layers],
        "mlp_ratio": first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        "qkv_bias": first.attn.q_bias is not None,
        "hidden_act": act(first.mlp.act),
        "layer_norm_eps": first.norm1.eps,
    }


SWIN_V2 = Table(
    ("SwinTransformerV2",),
    _swinv2,
    ((r"\.cpb_mlp\.", ".continuous_position_bias_mlp."), *BIASES, *SWIN_NAMES),
    (QKV,),
)


# ResNet


def _resnet(model: Any) -> dict[str, Any]:
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    blocks = [block for stage in stages for block in stage]
    kind = alike([type(block).__name__ for block in blocks], "blocks")
    need(kind in ("BasicBlock", "Bottleneck"), f"its blocks are {kind}")
    need(isinstance(model.conv1, nn.Conv2d), "its stem has several convolutions")
    need(isinstance(model.maxpool, nn.MaxPool2d), "its stem does not end with a plain max pooling")
    need(isinstance(model.bn1, nn.BatchNorm2d), f"its norms are {type(model.bn1).__name__}")
    need(all(block.se is None for block in blocks), "its blocks weigh channels by squeeze and excitation or the like")
    need(all(block.conv2.groups == 1 for block in blocks), "its 3x3 convolutions have groups")
    need(all(len(block.downsample or "12") == 2 for block in blocks), "its shortcuts are no plain convolutions")
    wide = kind == "Bottleneck" and any(4 * block.conv2.out_channels != block.conv3.out_channels for block in blocks)
    need(not wide, "its 3x3 convolutions have more than a quarter of a block's channels")
    need(all(isinstance(block.aa, nn.Identity) for block in blocks), "it blurs before it strides")
    need(
        all(norm.eps == 1e-5 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)),
        "its norms have another epsilon",
    )
    last = "conv3" if kind == "Bottleneck" else "conv2"
    return {
        "embedding_size": model.conv1.out_channels,
        "hidden_sizes": [getattr(stage[-1], last).out_channels for stage in stages],
        "depths": [len(stage) for stage in stages],
        "layer_type": "bottleneck" if kind == "Bottleneck" else "basic",
        "hidden_act": act(model.act1),
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


RESNET = Table(
    ("ResNet",),
    _resnet,
    (
        (r"^conv1\.", "embedder.embedder.convolution."),
        (r"^bn1\.", "embedder.embedder.normalization."),
        *((rf"^layer{stage + 1}\.(\d+)\.", rf"encoder.stages.{stage}.layers.\1.") for stage in range(4)),
        *((rf"\.conv{number + 1}\.", f".layer.{number}.convolution.") for number in range(3)),
        *((rf"\.bn{number + 1}\.", f".layer.{number}.normalization.") for number in range(3)),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"^fc\.", "classifier.1."),
    ),
)


# ConvNeXt


def _convnext(model: Any, response_norm: bool = False) -> dict[str, Any]:
    blocks = [block for stage in model.stages for block in stage.blocks]
    first, stem = blocks[0], model.stem[0]
    has = not isinstance(getattr(first.mlp, "grn", nn.Identity()), nn.Identity)
    need(has == response_norm, "it has global response norms" if has else "it has no global response norms")
    need(isinstance(stem, nn.Conv2d) and stem.kernel_size == stem.stride, "the patches of its stem overlap")
    need(isinstance(first.norm, nn.LayerNorm), f"its norms are {type(first.norm).__name__}")
    need(isinstance(getattr(model.head, "pre_logits", nn.Identity()), nn.Identity), "its head has a hidden layer")
    need(first.conv_dw.kernel_size == (7, 7), f"its depthwise convolutions are {first.conv_dw.kernel_size}")
    need(
        all(norm.eps == 1e-6 for name, norm in model.named_modules() if _normed(name, norm)),
        "its norms have another epsilon",
    )
    need(isinstance(model.norm_pre, nn.Identity), "it pools what is normed, instead of norming what is pooled")
    keys: dict[str, Any] = {
        "patch_size": list(stem.stride),
        "hidden_sizes": [stage.blocks[0].conv_dw.out_channels for stage in model.stages],
        "depths": [len(stage.blocks) for stage in model.stages],
        "hidden_act": act(first.mlp.act),
    }
    if isinstance(model.head.norm, nn.LayerNorm):
        keys["layer_norm_eps"] = model.head.norm.eps
    return keys if response_norm else {**keys, "layer_scale_init_value": 0.0 if first.gamma is None else 1e-6}


def _normed(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and not name.startswith("head.")


CONVNEXT_NAMES = (
    (r"^stem\.0\.", "embeddings.patch_embeddings."),
    (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d+)\.blocks\.", r"encoder.stages.\1.layers."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.norm\.(?=\w+$)", ".layernorm."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"\.mlp\.grn\.", ".grn."),
    (r"\.gamma$", ".layer_scale_parameter"),
    (r"^head\.layernorm\.", "layernorm."),
    (r"^head\.fc\.", "classifier."),
)
CONVNEXT = Table(("ConvNeXt",), _convnext, CONVNEXT_NAMES)
CONVNEXT_V2 = Table(("ConvNeXt",), partial(_convnext, response_norm=True), CONVNEXT_NAMES)


def _dinov3_convnext(model: Any) -> dict[str, Any]:
    keys = _convnext(model)
    need(isinstance(model.head.fc, nn.Identity), "it has a head, and this family has no classifier")
    need(keys.pop("patch_size") == [4, 4], "the patches of its stem are not 4x4")
    need(keys["layer_norm_eps"] == 1e-6, "its final norm has another epsilon")
    need(keys["layer_scale_init_value"] > 0, "its blocks have no layer scale")
    return keys


DINOV3_CONVNEXT = Table(
    ("ConvNeXt",),
    _dinov3_convnext,
    (
        (r"^stem\.", "stages.0.downsample_layers."),
        (r"\.downsample\.", ".downsample_layers."),
        (r"\.blocks\.", ".layers."),
        (r"\.conv_dw\.", ".depthwise_conv."),
        (r"\.norm\.(?=\w+$)", ".layer_norm."),
        (r"\.mlp\.fc(\d)\.", r".pointwise_conv\1."),
        (r"^head\.layer_norm\.", "layer_norm."),
    ),
)


# PVT v2 and Hiera


def _pvt_v2(model: Any) -> dict[str, Any]:
    stages = list(model.stages)
    firsts = [stage.blocks[0] for stage in stages]
    embeds = [model.patch_embed.proj, *(stage.downsample.proj for stage in stages[1:])]
    pooled = alike([block.attn.pool is not None for block in firsts], "kinds of attention")
    return {
        "depths": [len(stage.blocks) for stage in stages],
        "sr_ratios": [1 if pooled or block.attn.sr is None else block.attn.sr.stride[0] for block in firsts],
        "hidden_sizes": [embed.out_channels for embed in embeds],
        "patch_sizes": [embed.kernel_size[0] for embed in embeds],
        "strides": [embed.stride[0] for embed in embeds],
        "num_attention_heads": [block.attn.num_heads for block in firsts],
        "mlp_ratios": [block.mlp.fc1.out_features / block.mlp.fc1.in_features for block in firsts],
        "num_encoder_blocks": len(stages),
        "hidden_act": act(firsts[0].mlp.act),
        "layer_norm_eps": firsts[0].norm1.eps,
        "qkv_bias": firsts[0].attn.q.bias is not None,
        "linear_attention": pooled,
    }


PVT_V2 = Table(
    ("PyramidVisionTransformerV2",),
    _pvt_v2,
    (
        (r"^patch_embed\.", "encoder.layers.0.patch_embedding."),
        (r"^stages\.(\d+)\.downsample\.", r"encoder.layers.\1.patch_embedding."),
        (r"^stages\.", "encoder.layers."),
        (r"\.norm([12])\.", r".layer_norm_\1."),
        (r"\.norm\.", ".layer_norm."),
        (r"\.attn\.q\.", ".attention.query."),
        (r"\.attn\.sr\.", ".attention.spatial_reduction."),
        (r"\.attn\.", ".attention."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"\.dwconv\.", ".dwconv.dwconv."),
        (r"^head\.", "classifier."),
    ),
    (split(".kv.", ".key.", ".value."),),
)


def _hiera(model: Any) -> dict[str, Any]:
    proj, blocks = model.patch_embed.proj, model.blocks
    need(
        model.pos_embed_win is None and model.pos_embed is not None,
        "its positions are a table for windows and one for the map",
    )
    need(isinstance(blocks[0].ls1, nn.Identity), "its layers have layer scale")
    ends = [blocks[end] for end in model.stage_ends]
    widths = [block.attn.dim_out for block in ends]
    steps = [wide / narrow for narrow, wide in pairwise(widths)]
    return {
        "embed_dim": widths[0],
        "image_size": [side * step for side, step in zip(model.tokens_spatial_shape, model.patch_stride, strict=True)],
        "patch_size": list(proj.kernel_size),
        "patch_stride": list(proj.stride),
        "patch_padding": list(proj.padding),
        "mlp_ratio": blocks[0].mlp.fc1.out_features / blocks[0].mlp.fc1.in_features,
        "depths": [end - before for before, end in zip([-1, *model.stage_ends], model.stage_ends, strict=False)],
        "num_heads": [block.attn.heads for block in ends],
        "embed_dim_multiplier": alike(steps, "steps between widths"),
        "num_query_pool": model.q_pool,
        "query_stride": list(model.q_stride),
        "masked_unit_size": list(model.mask_unit_size),
        "masked_unit_attention": [block.attn.use_mask_unit_attn for block in ends],
        "hidden_act": act(blocks[0].mlp.act),
        "layer_norm_eps": blocks[0].norm1.eps,
    }


def _hiera_places(model: Any) -> list[tuple[str, str]]:
    """The layers of all stages, which timm counts in one row."""
    starts = [0, *(end + 1 for end in model.stage_ends)]
    return [
        (rf"^blocks\.{start + number}\.", f"encoder.stages.{stage}.layers.{number}.")
        for stage, (start, after) in enumerate(pairwise(starts))
        for number in range(after - start)
    ]


HIERA = Table(
    ("Hiera",),
    _hiera,
    (
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"^head\.norm\.", "pooler.layernorm."),
        (r"^head\.fc\.", "classifier."),
    ),
    places=_hiera_places,
)
