"""DINOv3's processor, which rescales before it resizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Resampling

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing.backends import DEFAULT_BACKEND, PIL_BACKEND
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.pil_resize import pil_resize
from vertebra.image_processing.sizes import output_size

_OWN = "vertebra"


class DINOv3ViTImageProcessor(BaseImageProcessor):
    """Rescale 0..255 to 0..1, stretch to 224 x 224 pixels (bilinear), normalise with ImageNet's mean and deviation.

    The pixels that are resized are floats then, so nothing is rounded to grey levels. transformers has this class for its
    torchvision backend only; here the PIL backend resizes the same floats with PIL's filters, whose weights are more exact
    (by about 3e-5 of 0..1). Its files have the plain class name, which transformers knows, and the backend under
    `"vertebra"`. `size` and cropping as in `ViTImageProcessor`.

    DINOv3: https://arxiv.org/abs/2508.10104; checkpoints such as facebook/dinov3-vits16-pretrain-lvd1689m.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Resampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)

    resizes_bytes: ClassVar[bool] = False

    def _preprocess(self, images: list[torch.Tensor], **settings: Any) -> BatchFeature:
        first = settings["rescale_factor"] if settings["do_rescale"] else None
        return super()._preprocess(images, **{**settings, "do_rescale": False, "first_factor": first})

    def resize_and_crop(
        self, images: torch.Tensor, *, first_factor: float | None = None, **geometry: Any
    ) -> torch.Tensor:
        """Multiply `(n, c, h, w)` images by `first_factor` (None: not at all), then bring them to their final size."""
        if first_factor is not None:
            images = self.rescale_and_normalize(images, True, first_factor, False, None, None)
        return super().resize_and_crop(images, **geometry)

    def resize(self, image: torch.Tensor, size: Mapping[str, int], resample: Resampling) -> torch.Tensor:
        """Resize `(n, c, h, w)` images to what `size` asks for, floats as floats in both backends."""
        if self.backend == PIL_BACKEND and image.is_floating_point():
            return pil_resize(image, output_size(image.shape[-2], image.shape[-1], size), resample)
        return super().resize(image, size, resample)

    def _type_name(self) -> str:
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, with a backend that is not the usual one under `"vertebra"`."""
        own = {} if self.backend == DEFAULT_BACKEND else {_OWN: {"backend": self.backend}}
        return {**super().to_dict(), **own}

    @classmethod
    def _read_stored(
        cls, settings: Mapping[str, Any], overrides: dict[str, Any], known: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        stored, overrides = super()._read_stored(settings, overrides, known)
        own = dict(stored.pop(_OWN, None) or {})
        if "backend" in own:
            stored.setdefault("backend", own["backend"])
        return stored, overrides
