"""The processor that a timm checkpoint's `pretrained_cfg` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Resampling

from vertebra.config import CONFIG_NAME
from vertebra.hub import CheckpointFiles
from vertebra.image_processing import transforms
from vertebra.image_processing.backends import PIL_BACKEND
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.pil_resize import pil_resize
from vertebra.image_processing.pil_transforms import to_levels
from vertebra.image_processing.processor_files import PART, find_timm_config, processor_type
from vertebra.image_processing.settings import REQUIREMENTS
from vertebra.image_processing.sizes import height_and_width, output_size, refuse_huge
from vertebra.preprocessor_files import find_settings


class TimmWrapperImageProcessor(BaseImageProcessor):
    """timm's evaluation transform, from its `pretrained_cfg` or from flat settings.

    `size` is what the model sees. The image is resized to `size / crop_pct`, then cut to `size`. `crop_mode` says how:
    `"center"` scales the shorter edge and loses the ends of the longer one, `"squash"` stretches, `"border"` scales the
    longer edge and fills up with the mean colour. Integer images are 0..255, floating point images 0..1.

    timm resizes with PIL. On the CPU the tensor kernel has 16-bit weights and PIL's has 22-bit ones, so bilinear and
    bicubic shrinking of 8-bit images is within one grey level of timm (two in one value of a million), not equal. What
    could differ by more (an edge grows, a tall image loses much height, another filter) goes through PIL and is equal.
    On a GPU the kernel does not round between its two passes, and noise differs by more. `backend="pil"` is equal to
    timm throughout, and slower; floating point images are cut to 255 grey levels there, as in transformers' wrapper.

    Args:
        pretrained_cfg: timm's dict (or `PretrainedCfg`): `input_size`, `interpolation`, `mean`, `std`, `crop_pct`,
            `crop_mode`; what it lacks has timm's default.
        **settings: The same as flat settings, which win: `size`, `resample`, `image_mean`, `image_std`, `crop_pct`,
            `crop_mode`, `architecture`, and those of every processor.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value that is not allowed, or an `input_size` that is not `(channels, height, width)`.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    crop_pct: float = 0.875
    crop_mode: str = "center"
    resample = Resampling.BICUBIC
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)
    architecture: str | None = None

    _requirements: ClassVar[Mapping[str, Sequence[str]]] = {**REQUIREMENTS, "do_center_crop": ("size",)}

    def __init__(self, pretrained_cfg: Any = None, **settings: Any) -> None:
        super().__init__(**{**settings_of(pretrained_cfg or {}), **settings})

    @classmethod
    def _read_files(cls, files: CheckpointFiles) -> dict[str, Any]:
        stored = find_settings(files, PART)
        if stored is not None and processor_type(stored)[0] == cls.__name__:
            return stored
        config = find_timm_config(files)
        if config is None:
            raise FileNotFoundError(
                f"{files} is no timm checkpoint: its {CONFIG_NAME!r} is missing or has no 'pretrained_cfg'. Give the "
                f"settings in code, TimmWrapperImageProcessor(size=224, crop_pct=0.875, …)."
            )
        return {"pretrained_cfg": config["pretrained_cfg"], "architecture": config.get("architecture")}

    def resize_and_crop(
        self,
        images: torch.Tensor,
        *,
        do_resize: bool | None,
        size: Mapping[str, int],
        resample: Resampling,
        do_center_crop: bool | None = None,
        crop_size: Mapping[str, int] | None = None,
        crop_pct: float = 0.875,
        crop_mode: str = "center",
        image_mean: float | Sequence[float] = 0.0,
        do_rescale: bool | None = None,
        **other: Any,
    ) -> torch.Tensor:
        """Bring `(n, c, h, w)` images to `size`, as `crop_mode` says; `crop_size` is not used."""
        if do_rescale and images.is_floating_point():
            _check_scaled(images)
            images = to_levels(images) if self.backend == PIL_BACKEND else images
        target = height_and_width(size, "size")
        if do_resize:
            height, width = scaled_size(images.shape[-2], images.shape[-1], target, crop_pct, crop_mode)
            agree = images.dtype != torch.uint8 or _tensors_agree(images, height, width, resample)
            resize = transforms.resize if agree and self.backend != PIL_BACKEND else pil_resize
            images = resize(images, (height, width), resample)
        if not do_center_crop:
            return images
        fill: Sequence[float] = (0,)
        if crop_mode == "border":
            mean = image_mean if isinstance(image_mean, Sequence) else [image_mean]
            fill = mean if images.is_floating_point() else [round(255 * value) for value in mean]
        return transforms.center_crop(images, target, fill, round_offset=True)

    def rescale_and_normalize(
        self,
        images: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
    ) -> torch.Tensor:
        """Divide integers by 255, then normalise, in timm's order of operations; floats are taken as 0..1."""
        if do_rescale and not images.is_floating_point():
            images = images.to(torch.float32).div_(1 / rescale_factor)
        return transforms.rescale_and_normalize(images, False, None, do_normalize, image_mean, image_std)


def settings_of(pretrained_cfg: Any) -> dict[str, Any]:
    """Return the flat settings that a `pretrained_cfg` states; keys that are absent or empty are left out.

    Raises:
        TypeError: it is neither a mapping nor timm's `PretrainedCfg`.
        ValueError: `input_size` is not `(channels, height, width)`.
    """
    cfg = asdict(pretrained_cfg) if is_dataclass(pretrained_cfg) else pretrained_cfg  # type: ignore[arg-type]
    if not isinstance(cfg, Mapping):
        raise TypeError(f"pretrained_cfg={cfg!r} is a {type(cfg).__name__}; give timm's dict, model.pretrained_cfg.")
    names = {
        "interpolation": "resample",
        "mean": "image_mean",
        "std": "image_std",
        "crop_pct": "crop_pct",
        "crop_mode": "crop_mode",
        "architecture": "architecture",
    }
    settings = {ours: cfg[theirs] for theirs, ours in names.items() if cfg.get(theirs)}
    input_size = cfg.get("input_size")
    if input_size is not None:
        if len(input_size) != 3:
            raise ValueError(f"pretrained_cfg['input_size']={input_size!r} must be (channels, height, width).")
        if input_size[0] != 3:
            settings["num_channels"] = input_size[0]
        settings["size"] = list(input_size[1:])
    return settings


def scaled_size(height: int, width: int, target: tuple[int, int], crop_pct: float, crop_mode: str) -> tuple[int, int]:
    """Return the `(height, width)` to which timm resizes an image before it is cut to `target`."""
    scaled = (math.floor(target[0] / crop_pct), math.floor(target[1] / crop_pct))
    if crop_mode == "squash":
        return scaled
    if crop_mode == "center" and scaled[0] == scaled[1]:
        return output_size(height, width, {"shortest_edge": scaled[0]})
    ratios = (height / scaled[0], width / scaled[1])
    ratio = min(ratios) if crop_mode == "center" else max(ratios)
    new_height, new_width = max(1, round(height / ratio)), max(1, round(width / ratio))
    refuse_huge(height, width, new_height, new_width)
    return new_height, new_width


def _tensors_agree(images: torch.Tensor, height: int, width: int, resample: Resampling) -> bool:
    """Whether the tensor kernel is within a grey level of PIL: both shrink, and both go row by row first."""
    less_height, less_width = images.shape[-2] - height, images.shape[-1] - width
    # Pillow 13 starts with the columns when more than twice as many rows as columns go; rounding between the passes
    # then makes up to 20 grey levels of difference in noise.
    rows_first = less_height <= 0 or less_height <= 2 * less_width
    shrinks = less_height >= 0 and less_width >= 0
    return shrinks and rows_first and resample in (Resampling.BILINEAR, Resampling.BICUBIC)


def _check_scaled(images: torch.Tensor) -> None:
    low, high = (float(bound) for bound in images.aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"Floating point images must lie in 0..1 here, these lie in {low:.4g}..{high:.4g}; pass uint8 images for "
            f"0..255, or do_rescale=False for values that are final."
        )
