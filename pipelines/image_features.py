"""Images to features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.images import ImagePipeline


class ImageFeatureExtractionPipeline(ImagePipeline):
    """The features of an image, as tensors with a batch of one.

    Of a backbone: `{stage: (1, c, h, w)}`, the levels apart. Of a model without a head: its last state, `(1, n, c)` tokens or
    `(1, c, h, w)`. `return_tensors=False` gives nested lists instead.
    """

    task = "image-feature-extraction"

    def prepare(
        self,
        item: Any,
        *,
        allow_urls: bool = False,
        timeout: float | None = None,
        image_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> Sequence[Piece]:
        """Prepare an image.

        Args:
            item: A path, a PIL image, an array or tensor, the bytes of a file, or an address.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.
            image_processor_kwargs: Settings of the image processor for this call, such as `size`.
        """
        return [Piece(self.pixels(self.opened(item, allow_urls, timeout), **(image_processor_kwargs or {})))]

    def answer(self, rows: Sequence[Row], *, pool: bool = False, return_tensors: bool = True) -> Any:
        """Give the features.

        Args:
            rows: What the model said.
            pool: The pooled state instead.
            return_tensors: False for nested lists.

        Raises:
            ValueError: `pool`, and the model has no pooled state.
        """
        output = rows[0].output
        features: Any
        if pool:
            if output.get("pooler_output") is None:
                raise ValueError(
                    f"pool=True, but {type(self.model).__name__} has no pooled state; average its maps yourself."
                )
            features = output["pooler_output"]
        elif isinstance(self.model, Backbone):
            features = dict(zip(self.model.out_features, output["feature_maps"], strict=True))
        else:
            features = output[0]
        return _apart(features) if return_tensors else _listed(features)


def _apart(features: Any) -> Any:
    """Tensors that keep no other image's memory alive."""
    if isinstance(features, dict):
        return {name: _apart(value) for name, value in features.items()}
    whole = features.untyped_storage().nbytes() == features.nbytes
    return features if whole else features.clone()


def _listed(features: dict[str, Tensor] | Tensor) -> Any:
    if isinstance(features, dict):
        return {name: value.tolist() for name, value in features.items()}
    return features.tolist()
