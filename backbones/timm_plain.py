"""timm's names of plain vision transformers, as data."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import nn

from vertebra.backbones.timm_family import BIASES, QKV, Joint, Table, act, alike, need, split

# Plain vision transformers


def _plain(model: Any) -> dict[str, Any]:
    """What the keys of all plain vision transformers of timm's `VisionTransformer` share."""
    blocks, embed = model.blocks, model.patch_embed
    first = blocks[0]
    need(all(type(block).__name__ == "Block" for block in blocks), f"its layers are {type(first).__name__}")
    need(type(embed).__name__ == "PatchEmbed" and embed.proj.bias is not None, "its patches are embedded otherwise")
    need(model.cls_token is not None, "it has no class token")
    need(model.pos_embed is not None, "it has no learned positions")
    need(isinstance(first.norm1, nn.LayerNorm), f"its norms are {type(first.norm1).__name__}")
    need(isinstance(model.norm_pre, nn.Identity), "it norms the embedded tokens before its layers")
    need(isinstance(model.norm, nn.LayerNorm), "it has no final norm")
    return {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads,
        "image_size": list(embed.img_size) if embed.img_size else 224,
        "patch_size": list(embed.patch_size),
        "qkv_bias": first.attn.qkv.bias is not None,
        "layer_norm_eps": alike([norm.eps for norm in (first.norm1, first.norm2, model.norm)], "epsilons"),
    }


def _scaled(model: Any) -> bool:
    return not isinstance(model.blocks[0].ls1, nn.Identity)


def _vit(model: Any) -> dict[str, Any]:
    first = model.blocks[0]
    _class_token(model)
    keys = _plain(model)
    need(not _scaled(model), "its layers have layer scale")
    need(model.reg_token is None, "it has registers")
    need(type(first.mlp).__name__ == "Mlp", f"its perceptrons are {type(first.mlp).__name__}")
    return {**keys, "intermediate_size": first.mlp.fc1.out_features, "hidden_act": act(first.mlp.act)}


def _class_token(model: Any) -> None:
    headless = isinstance(model.head, nn.Identity)
    need(
        headless or model.global_pool == "token",
        f"its head sees global_pool={model.global_pool!r}, not the class token",
    )
    need(not model.no_embed_class, "its class token has no position")


def _dinov2(model: Any, registers: bool = False, gated: bool = False) -> dict[str, Any]:
    first = model.blocks[0]
    keys, kind = _plain(model), type(first.mlp).__name__
    need(_scaled(model), "its layers have no layer scale")
    need((model.reg_token is not None) == registers, "it has registers" if not registers else "it has no registers")
    need(model.no_embed_class == registers, "its class token has another position")
    need(
        isinstance(model.head, nn.Identity),
        "its head sees one token, and this family's the mean of the patches as well",
    )
    need(kind == ("GluMlp" if gated else "Mlp"), f"its perceptrons are {kind}")
    hidden = first.mlp.fc1.out_features
    ratio = hidden / model.embed_dim if not gated else _gated_ratio(hidden // 2, model.embed_dim)
    need(not gated or (act(first.mlp.act) == "silu" and not first.mlp.gate_last), "its perceptrons are gated otherwise")
    more = {"num_register_tokens": model.reg_token.shape[1]} if registers else {}
    return {
        **keys,
        "mlp_ratio": ratio,
        "hidden_act": "gelu" if gated else act(first.mlp.act),
        "use_swiglu_ffn": gated,
        "layerscale_value": 1e-5,
        "use_mask_token": False,
        **more,
    }


def _gated_ratio(hidden: int, width: int) -> float:
    """DINOv2's ratio of a gated perceptron: two thirds of it are built, rounded up to a multiple of 8."""
    found = next(
        (ratio for ratio in (4, hidden * 1.5 / width) if -(-int(int(width * ratio) * 2 / 3) // 8) * 8 == hidden), None
    )
    need(found is not None, f"its perceptrons have {hidden} gated channels")
    return found or 4


VIT_NAMES = (
    (r"^(cls_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.attention."),
    (r"^norm\.", "layernorm."),
    (r"^head\.", "classifier."),
)
VIT = Table(
    ("VisionTransformer",),
    _vit,
    (
        *VIT_NAMES,
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    (QKV,),
)
DINOV2_NAMES = (*VIT_NAMES, (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"))
GATED_NAMES = ((r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out."))
DINOV2 = Table(("VisionTransformer",), _dinov2, DINOV2_NAMES, (QKV,))
DINOV2_GATED = replace(DINOV2, configure=partial(_dinov2, gated=True), renames=(*DINOV2_NAMES, *GATED_NAMES))
CLASS, POSITIONS = "embeddings.cls_token", "embeddings.position_embeddings"
REGISTERS = Joint(  # timm adds the class token's position to the token itself
    (CLASS, POSITIONS),
    (CLASS, POSITIONS),
    lambda token, positions: (token, F.pad(positions, (0, 0, 1, 0))),
    lambda token, positions: (token + positions[:, :1], positions[:, 1:]),
)
DINOV2_WITH_REGISTERS = Table(
    ("VisionTransformer",),
    partial(_dinov2, registers=True),
    ((r"^reg_token$", "embeddings.register_tokens"), *DINOV2_NAMES),
    (QKV, REGISTERS),
)
DINOV2_WITH_REGISTERS_GATED = replace(
    DINOV2_WITH_REGISTERS,
    configure=partial(_dinov2, registers=True, gated=True),
    renames=(*DINOV2_WITH_REGISTERS.renames, *GATED_NAMES),
)


# DeiT, DINOv3, BEiT


def _deit(model: Any) -> dict[str, Any]:
    first = model.blocks[0]
    need(not _scaled(model), "its layers have layer scale")
    need(not model.no_embed_class, "its tokens have no positions")
    return {**_plain(model), "intermediate_size": first.mlp.fc1.out_features, "hidden_act": act(first.mlp.act)}


DEIT = Table(
    ("VisionTransformerDistilled",),
    _deit,
    (
        (r"^dist_token$", "embeddings.distillation_token"),
        (r"^head\.", "cls_classifier."),
        (r"^head_dist\.", "distillation_classifier."),
        *VIT.renames,
    ),
    (QKV,),
)


def _dinov3(model: Any) -> dict[str, Any]:
    first, rope = model.blocks[0], model.rope
    attention, kind = first.attn, type(first.mlp).__name__
    need(type(rope).__name__ == "RotaryEmbeddingDinoV3", "its positions are no rotations of DINOv3's kind")
    need(rope.normalize_coords == "separate" and rope.rotate_half and not rope.grid_offset, "its rotations are others")
    need(rope.temperature is not None and model.pos_embed is None, "its positions are others")
    need(attention.qkv is not None and attention.gate is None, "its attention has other projections")
    need(isinstance(attention.q_norm, nn.Identity), "its queries are normed")
    need(isinstance(model.norm, nn.LayerNorm) and isinstance(model.norm_pre, nn.Identity), "its norms are elsewhere")
    need(isinstance(model.head, nn.Identity), "it has a head, and this family has no classifier")
    need(model.reg_token is not None and first.gamma_1 is not None, "it has no registers, or no layer scale")
    need(kind in ("Mlp", "SwiGLU"), f"its perceptrons are {kind}")
    separate = attention.q_bias is not None
    return {
        "patch_size": list(model.patch_embed.patch_size),
        "image_size": list(model.patch_embed.img_size),
        "hidden_size": model.embed_dim,
        "intermediate_size": first.mlp.fc2.in_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": attention.num_heads,
        "hidden_act": act(first.mlp.act),
        "layer_norm_eps": alike([norm.eps for norm in (first.norm1, first.norm2, model.norm)], "epsilons"),
        "rope_theta": rope.temperature,
        "query_bias": separate or attention.qkv.bias is not None,
        "key_bias": attention.qkv.bias is not None,
        "value_bias": separate or attention.qkv.bias is not None,
        "use_gated_mlp": kind == "SwiGLU",
        "num_register_tokens": model.reg_token.shape[1],
    }


DINOV3 = Table(
    ("Eva",),
    _dinov3,
    (
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^blocks\.", "layer."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
        (r"\.attn\.", ".attention."),
        (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
        (r"\.mlp\.fc1(_x)?\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    ),
    (split(".qkv.", ".q_proj.", ".k_proj.", ".v_proj."),),
)


def _beit(model: Any) -> dict[str, Any]:
    first, kind = model.blocks[0], type(model.blocks[0].mlp).__name__
    need(kind == "Mlp", f"its perceptrons are {kind}")
    mean = model.global_pool == "avg"
    norm = model.fc_norm if mean else model.norm
    need(mean or isinstance(model.head, nn.Identity), "its head sees the class token after a norm")
    return {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": first.attn.num_heads,
        "intermediate_size": first.mlp.fc1.out_features,
        "hidden_act": act(first.mlp.act),
        "layer_norm_eps": alike([norm.eps for norm in (first.norm1, first.norm2, norm)], "epsilons"),
        "image_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "use_absolute_position_embeddings": model.pos_embed is not None,
        "use_relative_position_bias": first.attn.relative_position_bias_table is not None,
        "use_shared_relative_position_bias": model.rel_pos_bias is not None,
        "layer_scale_init_value": 0.0 if first.gamma_1 is None else 0.1,
        "use_mean_pooling": mean,
    }


BEIT = Table(
    ("Beit",),
    _beit,
    (
        (r"\.gamma_([12])$", r".lambda_\1"),
        (r"\.attn\.relative_position", ".attn.relative_position_bias.relative_position"),
        *BIASES,
        (r"^fc_norm\.", "pooler.layernorm."),
        *VIT.renames,
    ),
    (QKV,),
)
