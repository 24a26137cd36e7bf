"""The base class of all image processors: the settings and the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from PIL.Image import Resampling

from vertebra.bands import RGB
from vertebra.batch_feature import BatchFeature
from vertebra.image_processing import transforms
from vertebra.image_processing.backends import BACKENDS, DEFAULT_BACKEND, load_backend
from vertebra.image_processing.inputs import CHANNELS_LAST, ImageInput, read_images
from vertebra.image_processing.mixin import ImageProcessingMixin
from vertebra.image_processing.settings import (
    REQUIREMENTS,
    channel_count,
    check_together,
    for_channels,
    read_setting,
)
from vertebra.image_processing.sizes import height_and_width, output_size
from vertebra.image_processing.threads import MUCH_WORK, each
from vertebra.preprocessor import refuse_unknown, setting_names

logger = logging.getLogger(__name__)

_EIGHT_BITS = (torch.uint8, torch.int8, torch.bool)
_SCALING = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_STEPS = ("rescale_and_normalize", "pad")
_LATER = frozenset(
    ("rescale_factor", "do_normalize", "image_std", "do_pad", "pad_size", "disable_grouping", "return_tensors")
)
"""Settings of the steps that follow resizing and cropping."""
Self = TypeVar("Self", bound="BaseImageProcessor")

__all__ = ["BaseImageProcessor", "ImageProcessingMixin"]


class BaseImageProcessor(ImageProcessingMixin):
    """Images in, `pixel_values` out: convert to RGB, resize, centre crop, rescale, normalise, pad, each one optional.

    A subclass states its defaults as class attributes, and may add settings of its own the same way; it may override
    any step. Every setting can be given to the constructor, to `from_pretrained` and to a call; None is the default.

    `num_channels` other than 3 is for images of other bands, and for models of as many input channels: arrays and tensors of
    that many channels are read (`(h, w, n)` or `(n, h, w)`), no picture is made RGB, and `image_mean` and `image_std` of RGB
    become values for `n` channels by the rule of `vertebra.bands` (band `j` has those of red, green, blue number `j % 3`; a
    single band their means).
    """

    default_to_square: bool = True
    do_convert_rgb: bool | None = None
    num_channels: int | None = None
    do_resize: bool | None = None
    size: Any = None
    resample: Any = None
    do_center_crop: bool | None = None
    crop_size: Any = None
    do_rescale: bool | None = None
    rescale_factor: float = 1 / 255
    do_normalize: bool | None = None
    image_mean: Any = None
    image_std: Any = None
    do_pad: bool | None = None
    pad_size: Any = None
    data_format: str | None = None
    input_data_format: str | None = None
    device: str | None = None
    return_tensors: str | None = None
    disable_grouping: bool | None = None
    backend: str = DEFAULT_BACKEND

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    resizes_bytes: ClassVar[bool] = True
    """Whether 8-bit images are resized as such, which takes one thread each, so that several images are resized at once."""
    _requirements: ClassVar[Mapping[str, Sequence[str]]] = REQUIREMENTS

    def __init__(self, **settings: Any) -> None:
        names = setting_names(type(self))
        refuse_unknown(f"{type(self).__name__}()", settings, names)
        for name in names:
            value = settings.get(name)
            setattr(self, name, deepcopy(getattr(type(self), name, None)) if value is None else value)
        self._match_channels()

    def _match_channels(self) -> None:
        """Give each of `num_channels` its mean and deviation."""
        for name, value in for_channels(vars(self)).items():
            if value is not getattr(self, name):
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, read_setting(name, value, self.default_to_square))

    def __call__(self, images: ImageInput, **overrides: Any) -> BatchFeature:
        """Call `preprocess`."""
        return self.preprocess(images, **overrides)

    def preprocess(self, images: ImageInput, **overrides: Any) -> BatchFeature:
        """Turn images into `pixel_values`.

        Args:
            images: A PIL image, an array or tensor (`(h, w, c)`, `(c, h, w)` or `(h, w)`), a batch of these in one
                array, a path, or a list of these. Values are 0..255; scaled floats need `do_rescale=False`, 16-bit
                arrays `rescale_factor=1 / 65535`.
            **overrides: Any setting, for this call only. Often used: `return_tensors` (`"pt"`, `"np"`, or None for a
                list of tensors), `device` to work on, `input_data_format` of arrays, `data_format` of the result.

        Returns:
            `BatchFeature` with `pixel_values`: `(n, c, h, w)`, or `(n, h, w, c)` for `data_format="channels_last"`;
            float32, but for images that are not normalised and are of another dtype or not rescaled.

        Raises:
            TypeError: an unknown setting, or an item that is not an image.
            ValueError: a setting or an image that cannot be used (integers beyond 255 without a `rescale_factor` for
                them included), or sizes that differ where one array is asked for.
        """
        processor, settings = self._for_call(overrides)
        return processor._in_format(processor._preprocess(processor._read(images, settings), **settings), settings)

    def _for_call(self: Self, overrides: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The processor that works on a call, itself or a copy with another backend, and the settings of the call."""
        settings = self._settings(overrides)
        if (settings["backend"], settings["num_channels"]) == (self.backend, self.num_channels):
            return self, settings
        other = copy(self)
        other.backend, other.num_channels = settings["backend"], settings["num_channels"]
        return other, settings

    def _read(self, images: ImageInput, settings: Mapping[str, Any]) -> list[torch.Tensor]:
        """All images as `(c, h, w)` tensors, with the number of channels that the settings need."""
        channels = settings["num_channels"]
        bands = channels not in (None, 3)
        if channels is None and settings["do_normalize"]:
            channels = channel_count(settings["image_mean"], settings["image_std"])
        tensors = read_images(
            images,
            convert_rgb=False if bands else settings["do_convert_rgb"],
            channels=channels,
            input_data_format=settings["input_data_format"],
            device=settings["device"],
            tensor_to_rgb=load_backend(self.backend).tensor_to_rgb,
        )
        if settings["do_rescale"]:
            _check_levels(tensors, settings["rescale_factor"])
        return tensors

    def _in_format(self, batch: BatchFeature, settings: Mapping[str, Any]) -> BatchFeature:
        if settings["data_format"] == CHANNELS_LAST:
            batch["pixel_values"] = _channels_last(batch["pixel_values"])
        return batch

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        names = setting_names(type(self))
        refuse_unknown(f"{type(self).__name__}.preprocess()", overrides, names)
        given = {name: value for name, value in overrides.items() if value is not None}
        square = given.get("default_to_square", self.default_to_square)
        settings = {name: getattr(self, name, None) for name in names}
        settings.update({name: read_setting(name, value, square) for name, value in given.items()})
        settings = for_channels(settings)
        check_together(settings, self._requirements)
        return settings

    def _preprocess(self, images: list[torch.Tensor], **settings: Any) -> BatchFeature:
        """Run the steps on `(c, h, w)` images. A subclass with other steps overrides this; it gets every setting."""
        pixels = self._finished(self._resized(images, settings), settings)
        tensor_type = settings.get("return_tensors")
        return BatchFeature({"pixel_values": pixels if tensor_type else list(pixels)}, tensor_type)

    def _resized(self, images: list[torch.Tensor], settings: Mapping[str, Any]) -> transforms.Images:
        """The images at their final size, in the memory layout that the resize left them in."""
        geometry = {name: value for name, value in settings.items() if name not in _LATER}

        def cut(batch: torch.Tensor) -> torch.Tensor:
            return self.resize_and_crop(batch, **geometry)

        grouping = settings.get("disable_grouping")
        # On a CPU a stack only costs the copy: the resize kernels do one image after the other anyway (measured).
        if any(image.device.type != "cpu" for image in images) if grouping is None else not grouping:
            return transforms.map_batches(cut, images, group=True)
        alone = [image for image in images if image.dtype == torch.uint8 and len(image) == RGB]
        work = sum(image.shape[-2] * image.shape[-1] for image in alone)
        threads = None if self.resizes_bytes and len(alone) == len(images) and work >= MUCH_WORK else 1
        return each(lambda image: cut(image[None])[0], images, threads)

    def _finished(self, images: transforms.Images, settings: Mapping[str, Any]) -> transforms.Images:
        """Rescale, normalise and pad resized images."""
        rescales, factor, normalizes, mean, std = (settings[name] for name in _SCALING)
        do_pad, pad_size = settings.get("do_pad"), settings.get("pad_size")
        if normalizes and self._in_one_pass(images):
            _check_scaled(type(self).__name__, images, factor if rescales else None)
            size = transforms.padded_size(images, _pad_size(pad_size)) if do_pad else None
            return transforms.normalized_batch(images, mean, std, factor if rescales else None, size)

        def scale(batch: torch.Tensor) -> torch.Tensor:
            return self.rescale_and_normalize(batch, bool(rescales), factor, bool(normalizes), mean, std).contiguous()

        scaled = transforms.map_batches(scale, images, group=settings.get("disable_grouping") is not True)
        return self.pad(scaled, pad_size) if do_pad else scaled

    def _in_one_pass(self, images: transforms.Images) -> bool:
        """Whether images can be normalised straight into their batch: nobody has steps of his own, and all are of one kind."""
        own = all(getattr(type(self), step) is getattr(BaseImageProcessor, step) for step in _STEPS)
        alike = len({image.shape[0] for image in images}) == 1 and all(image.device.type == "cpu" for image in images)
        return own and alike and self.backend == DEFAULT_BACKEND

    def resize_and_crop(
        self,
        images: torch.Tensor,
        *,
        do_resize: bool | None,
        size: Mapping[str, int],
        resample: Resampling,
        do_center_crop: bool | None = None,
        crop_size: Mapping[str, int] | None = None,
        **other: Any,
    ) -> torch.Tensor:
        """Bring `(n, c, h, w)` images to their final size. `other` holds the remaining settings, for subclasses."""
        images = self.resize(images, size, resample) if do_resize else images
        return self.center_crop(images, crop_size) if do_center_crop and crop_size is not None else images

    def resize(self, image: torch.Tensor, size: Mapping[str, int], resample: Resampling) -> torch.Tensor:
        """Resize `(n, c, h, w)` images to what `size` asks for; see `sizes.output_size`."""
        height, width = output_size(image.shape[-2], image.shape[-1], size)
        resize = load_backend(self.backend).resize
        if self.num_channels == 4:  # a fifth channel, so that no backend takes the fourth for the alpha of the others
            return resize(torch.cat([image, image[..., :1, :, :]], dim=-3), (height, width), resample)[..., :4, :, :]
        return resize(image, (height, width), resample)

    def center_crop(self, image: torch.Tensor, size: Mapping[str, int]) -> torch.Tensor:
        """Cut the central `{height, width}` out of `(n, c, h, w)` images; smaller ones are padded with zeros."""
        return load_backend(self.backend).center_crop(image, height_and_width(size, "crop_size"))

    def rescale_and_normalize(
        self,
        images: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
    ) -> torch.Tensor:
        """Multiply `(n, c, h, w)` images by `rescale_factor`, subtract the mean, divide by the standard deviation."""
        _check_scaled(type(self).__name__, [images], rescale_factor if do_rescale else None)
        return load_backend(self.backend).rescale_and_normalize(
            images, do_rescale, rescale_factor, do_normalize, image_mean, image_std
        )

    def pad(self, images: transforms.Images, pad_size: Mapping[str, int] | None = None) -> list[torch.Tensor]:
        """Pad `(c, h, w)` images with zeros at the bottom and right to `pad_size`, or to the largest of the batch."""
        return transforms.pad(images, _pad_size(pad_size))

    def _type_name(self) -> str:
        return type(self).__name__ + BACKENDS[self.backend].suffix

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values; the backend is part of the class name."""
        return {
            name: value for name, value in super().to_dict().items() if name not in ("backend", "default_to_square")
        }


def _pad_size(size: Mapping[str, int] | None) -> tuple[int, int] | None:
    return None if size is None else height_and_width(size, "pad_size")


def _channels_last(images: Any) -> Any:
    """`(…, c, h, w)` to `(…, h, w, c)`, of a tensor, an array or each of a list."""
    if isinstance(images, list):
        return [_channels_last(image) for image in images]
    if isinstance(images, torch.Tensor):
        return images.movedim(-3, -1).contiguous()
    return images.swapaxes(-3, -2).swapaxes(-2, -1).copy()


def _check_levels(images: Sequence[torch.Tensor], factor: float) -> None:
    """Refuse integers that 8 bits do not hold where the factor is one for 8 bits: they would end far beyond white."""
    for index, image in enumerate(images):
        if image.dtype in _EIGHT_BITS or image.is_floating_point() or factor < 1 / 256:
            continue
        highest = int(image.to(torch.int64).max())
        if highest > 255:
            raise ValueError(
                f"Image {index} has whole numbers up to {highest}, but rescale_factor={factor:.4g} "
                f"is for 0..255. For 16 bits pass rescale_factor=1 / 65535, or scale the array to 0..255."
            )


def _check_scaled(processor: str, images: transforms.Images, factor: float | None) -> None:
    """Warn of floats that seem to be scaled already, and are multiplied by `factor` (None: they are not) all the same."""
    floats = [] if factor is None else [image for image in images if image.is_floating_point()]
    if factor is not None and floats and all(float(image.amax()) <= 1 for image in floats):
        _warn_scaled(processor, factor)


@lru_cache(maxsize=64)
def _warn_scaled(processor: str, factor: float) -> None:
    logger.warning(
        "%s got floating point images within 0..1 and multiplies them by rescale_factor=%.4g all the same, as its "
        "settings say; pass do_rescale=False for images that are scaled already.",
        processor,
        factor,
    )
