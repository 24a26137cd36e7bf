"""timm's architectures: building them, finding and reading their weights, and what their own tables say wrongly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vertebra.backbones.dilation import WITHOUT
from vertebra.backbones.timm_sizes import NO_META_RUN as NO_META_RUN
from vertebra.backbones.timm_sizes import cuts_patches, flexible_args
from vertebra.environment import import_timm
from vertebra.errors import listing
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.no_draws import NoDraws
from vertebra.resolve import has_architecture, split_tag, unknown_architecture
from vertebra.stages import Stage, pair
from vertebra.weights import WeightFiles

STEM_STRIDE = {"TResNet": {0: 4}}
"""Strides by class and level that timm's `feature_info` states wrongly: a space-to-depth stem jumps 4 pixels, not 2."""
RGB_ONLY = {"csatv2": "its stem is a cosine transform of three channels, with constants of RGB images"}
"""Modules of timm whose architectures do not run with another number of channels, with the reason."""
FLAT_CHANNELS_LAST = ("NaFlexVit",)
"""Classes whose linear layer on flattened patches takes them pixel by pixel; all others go channel by channel."""

NO_DILATION = {
    r"^(swin|davit|maxx_vit|nest|gcvit|hiera|mvitv2|twins|crossvit|coat|pvt|levit|pit|tiny_vit|volo|visformer|efficientformer)": (
        "it merges cells between its stages, and its attention is trained on maps of those sizes."
    ),
    r"^(vision_transformer|beit|cait|convit|deit|eva|mlp_mixer|naflexvit|tnt|xcit|convmixer|\w+_vit)": (
        "its stride comes from cutting the image into patches, not from strided layers between its stages."
    ),
    r"^(hrnet|dla|densenet|vovnet|inception|nasnet|pnasnet)": (
        "its branches join maps of several strides, or pool between its layers."
    ),
}
"""Why families have no dilated form, by the beginning of timm's module name."""
NO_DILATED_FORM = "timm wrote it for its own strides alone."

EXCEPTIONS = {
    "PoolingVisionTransformer": {
        "cells": "patches overlap and the image is not padded, so the first map is one cell short"
    },
    "HighResolutionNet": {
        "gradients": "its last stage exchanges all resolutions, also those a single level does not read"
    },
    "CrossVit": {"gradients": "its branches exchange class tokens, also where only one branch's maps are read"},
    "CoaT": {"gradients": "its parallel blocks norm all scales, also those a single level does not read"},
}
"""Claims of the contract by class that cannot hold, with the reason (measured over all 97 classes of timm 1.0.31)."""
UNMEASURED = "timm does not say; backbone.measure_offsets() measures it where padding does not depend on the image"
"""Why the stages of a timm architecture have no offset at first."""
UNUSED_BY_LEVELS = {"EfficientViM": ("weights",), "EfficientViMDistilled": ("weights", "weights_dist")}
"""Parameters by class that no level uses and that pruning would cut to another shape."""

WRAPPER_SPELLINGS = (
    (r"^(_backbone|timm_model)\.", ""),  # transformers' timm_backbone and timm_wrapper
    (r"^(model|body)\.", ""),  # timm's features_only wrappers
    (r"^([^.]+?)_([^.]+)(?=\.)", r"\1.\2"),  # the same, with the first two levels joined: stages_0.…, stem_conv1.…
    (
        r"^([^.]+)\.([^._]+)_([^.]+)(?=\.)",
        r"\1_\2.\3",
    ),  # where the first level has an underscore itself: patch_embed_conv1.…
)


def build(name: str | None, *, in_chans: int = 3, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a timm architecture with random weights, on the current default device.

    Where other image sizes can run without any change to the parameters (`timm_sizes.FLEXIBLE`), they do.

    Args:
        name: Architecture, with or without a tag.
        in_chans: Channels of the input.
        args: Further arguments of timm's constructor (`num_classes`, `output_stride`, `img_size`, …); None values are left out.

    Raises:
        ValueError: timm does not have the architecture, or does not take the arguments; says why.
    """
    timm = import_timm()

    if name is None:
        raise ValueError("No timm architecture is named; write TimmBackboneConfig('resnet50').")
    if not has_architecture(name):
        raise unknown_architecture(name)
    given = {key: value for key, value in (args or {}).items() if value is not None}
    if in_chans != 3 and (reason := RGB_ONLY.get(module_of(name))):
        raise ValueError(f"timm's {name} is made for images of 3 channels, not {in_chans}: {reason}.")
    flexible = flexible_args(module_of(name), given)
    try:
        with NoDraws() if torch.get_default_device().type == "meta" else nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=False, in_chans=in_chans, **flexible, **given)
            if flexible and cuts_patches(model, given.get("img_size") or native_size(model)):
                model = timm.create_model(name, pretrained=False, in_chans=in_chans, **given)
        return model
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        if "Invalid pretrained tag" in str(error):
            tags = listing(timm.list_pretrained(f"{split_tag(name)[0]}.*")) or "none"
            raise ValueError(
                f"timm's {split_tag(name)[0]} has no weights {split_tag(name)[1]!r}. It has {tags}."
            ) from error
        if "output_stride" in given:
            raise undilated(name, given["output_stride"]) from error
        if given:
            raise ValueError(f"timm's {name} cannot be built with {given}: {error or 'it refuses a value'}") from error
        raise


def build_configured(config: Any) -> nn.Module:
    """Build the architecture a `TimmBackboneConfig` names, as `build` does."""
    return build(config.backbone, in_chans=config.num_channels, args=config.timm_args)


def undilated(name: str, output_stride: int) -> ValueError:
    """The error for an architecture whose strides cannot become dilation."""
    family = module_of(name)
    why = next((reason for words, reason in NO_DILATION.items() if re.search(words, family)), NO_DILATED_FORM)
    return ValueError(
        f"timm's {name} cannot be built with output_stride={output_stride}: its family ({family}) does not dilate to that: {why} "
        f"{WITHOUT}"
    )


def prune(model: Any, indices: Sequence[int]) -> None:
    """Remove from a timm model, in place, what none of the levels `indices` needs."""
    if not indices:
        for table in (model._modules, model._parameters, model._buffers):
            table.clear()
        return
    model.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
    for name in UNUSED_BY_LEVELS.get(type(model).__name__, ()):
        del model._parameters[name]


def module_of(name: str) -> str:
    """Name of the file of timm that defines an architecture, e.g. `"vision_transformer"`."""
    timm = import_timm()

    return str(timm.models.model_entrypoint(split_tag(name)[0]).__module__.rpartition(".")[2])


def describe_levels(model: nn.Module) -> list[Stage]:
    """The levels of a timm model that nothing was pruned from, as stages.

    Offsets are None: timm does not state where cells lie; `TimmBackbone.measure_offsets` finds out.
    """
    info: Any = model.feature_info
    levels = info.get_dicts() if hasattr(info, "get_dicts") else list(info)
    corrected = STEM_STRIDE.get(type(model).__name__, {})
    names = _unique([str(level["module"]) for level in levels])
    return [
        Stage(
            names[index],
            index,
            int(level["num_chs"]),
            pair(corrected.get(index, _hop(model, index, level))),
            offset_note=UNMEASURED,
        )
        for index, level in enumerate(levels)
    ]


def _hop(model: Any, index: int, level: Mapping[str, Any]) -> Fraction:
    """Timm's reduction; CrossViT's second branch sees a resized image, so its hop is patch size times that scale."""
    if type(model).__name__ != "CrossVit":
        return Fraction(level["reduction"])
    branch = index // (len(model.feature_info) // model.num_branches)
    patch = model.patch_embed[branch].patch_size[0]
    return Fraction(patch * model.img_size[0], model.img_size_scaled[branch][0])


def _unique(names: list[str]) -> list[str]:
    """Names that occur more than once get their index appended."""
    return [f"{name}@{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def native_size(model: Any) -> tuple[int, int] | None:
    """The image size the architecture is made for, where timm knows it."""
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = built or (size[1:] if size else None)
    return (int(size[0]), int(size[1])) if size else None


def default_cfg(name: str) -> dict[str, Any]:
    """Timm's `pretrained_cfg` of an architecture (its default tag when the name has none).

    Raises:
        ValueError: timm does not have it.
    """
    timm = import_timm()

    if not has_architecture(name):
        raise unknown_architecture(name)
    cfg = timm.get_pretrained_cfg(name)
    return dict(cfg.to_dict()) if cfg else {}


def imagenet_labels(content: Mapping[str, Any], classes: int | None) -> list[str] | None:
    """Names of the ImageNet classes of a timm checkpoint, from timm's own tables; None for other data sets."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes, **content})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(classes or info.num_classes())]


def pretrained_files(name: str, options: HubOptions) -> CheckpointFiles:
    """Where the pretrained weights of an architecture are: its hub repository, or for a few a plain URL.

    Raises:
        ValueError: there are no weights; lists the tags that exist.
    """
    timm = import_timm()

    cfg = default_cfg(name)
    if cfg.get("hf_hub_id"):
        return CheckpointFiles.open(cfg["hf_hub_id"], options)
    if cfg.get("url"):
        return CheckpointFiles(cfg["url"], options)
    tags = listing(timm.list_pretrained(f"{split_tag(name)[0]}.*")) or "none for this architecture"
    raise ValueError(
        f"timm has no pretrained weights called {name!r}. It has {tags}; "
        f"use_pretrained_backbone=False builds it with random weights."
    )


def download(url: str, options: HubOptions) -> Path:
    """Fetch a weight file that timm lists by URL, to torch's own cache.

    Raises:
        OSError: it cannot be fetched, or the hash in its name differs.
    """
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not target.is_file():
        if options.local_files_only:
            raise FileNotFoundError(f"{url} is not in torch's cache, and local_files_only=True.")
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", target.name)
        try:
            torch.hub.download_url_to_file(url, str(target), digest.group(1) if digest else None, progress=True)
        except RuntimeError as error:
            raise OSError(f"{url}: {error}") from error
    return target


def filtered(
    tensors: Mapping[str, torch.Tensor], name: str, *, in_chans: int, args: Mapping[str, Any], cfg: Mapping[str, Any]
) -> WeightFiles:
    """The weights as timm's own loader reads them: old layouts renamed, tables and the first convolution resized.

    Needed only where names or shapes differ from the model's; it builds the whole model with real tensors.
    """
    timm = import_timm()

    given = {key: value for key, value in args.items() if value is not None}
    with torch.device("cpu"):
        fresh = timm.create_model(name, pretrained=False, in_chans=in_chans, **given).state_dict()
    absent = (
        fresh.keys() - tensors.keys() if tensors.keys() <= fresh.keys() else set()
    )  # a pruned file in timm's own names
    tensors = {**tensors, **{key: fresh[key] for key in absent}}
    overlay = {**default_cfg(name), **cfg, "state_dict": dict(tensors), "custom_load": False, "source": ""}
    heads = overlay.get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        if f"{head}.weight" in tensors:  # the file knows how many classes it has
            overlay["num_classes"] = given["num_classes"] = tensors[f"{head}.weight"].shape[0]
    with torch.device("cpu"):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=in_chans, **given)
    return WeightFiles.of({key: tensor for key, tensor in model.state_dict().items() if key not in absent})
