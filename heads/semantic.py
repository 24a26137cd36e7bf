"""What the models share that give every pixel a class: the forward, the loss, and the checks of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.layers import one_size
from vertebra.heads.base import ComposedModel
from vertebra.heads.outputs import SemanticSegmenterOutput
from vertebra.heads.resampling import Ratio, Size, stretch


class SemanticSegmenter(ComposedModel):
    """Base of models that give every pixel a class.

    A subclass sets, in its constructor, `self.backbone` and `self.decode_head`, a module that takes the list of feature maps
    and returns `(b, num_labels, h, w)` scores; `loss_ignore_index` is a key of its configuration.
    """

    backbone: Backbone
    decode_head: nn.Module
    logits_stride: Ratio | None = None
    """Stride of the decode head's scores, which are enlarged by just as much; None enlarges them to the images' size."""

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Give every pixel a score for each class.

        Args:
            pixel_values: `(b, c, h, w)` images, normalised as the image processor does.
            output_attentions: Also return the backbone's attention weights, where it has attention.
            output_hidden_states: Also return the backbone's hidden states.
            labels: `(b, h, w)` class of every pixel, whole numbers in `0 … num_labels - 1` or `config.loss_ignore_index`. With
                them the output holds the loss.
            return_dict: False returns a plain tuple of what is not None.

        Returns:
            Logits `(b, num_labels, h, w)` of the images' size, and what was asked for.

        Raises:
            ValueError: labels of another shape or dtype, or a class that does not exist; names the image. Classes are not
                checked inside compiled and exported graphs.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        if labels is not None:
            labels = check_labels(labels, pixel_values, self.config.num_labels, self.ignore_index)
        attentions = attentions and self.backbone.has_attentions
        pixel_values = one_size(pixel_values)
        encoded: Any = self.backbone(pixel_values, hidden, attentions, return_dict=True)
        logits = self.enlarge(self.decode_head(encoded.feature_maps), pixel_values)
        output = SemanticSegmenterOutput(
            loss=None if labels is None else self.loss(logits, labels, encoded.feature_maps),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if as_dict else output.to_tuple()

    @property
    def ignore_index(self) -> int:
        """Label of pixels that have no part in the loss."""
        return int(self.config.loss_ignore_index)  # type: ignore[attr-defined]

    def enlarge(self, logits: Tensor, pixel_values: Tensor) -> Tensor:
        """Bring scores to the size of the images."""
        size: Size = (pixel_values.shape[-2], pixel_values.shape[-1])
        if self.logits_stride is None:
            return F.interpolate(logits, size, mode="bilinear")
        return stretch(logits, self.logits_stride, size)

    def loss(self, logits: Tensor, labels: Tensor, feature_maps: Sequence[Tensor]) -> Tensor:
        """The loss of `(b, n, h, w)` logits; models with auxiliary heads add theirs."""
        return semantic_loss(logits, labels, self.ignore_index)


def semantic_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross entropy over all pixels that are not ignored, in float32 at least; 0 where all are.

    Args:
        logits: `(b, n, h, w)` scores; of another size than the labels they are interpolated bilinearly.
        labels: `(b, h, w)` classes, int64.
        ignore_index: Label of the pixels left out.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def check_labels(labels: Tensor, images: Tensor, num_labels: int, ignore_index: int = 255) -> Tensor:
    """Check a label map for every image, and return it as int64.

    Args:
        labels: `(b, h, w)` classes.
        images: `(b, c, h, w)`, of which the shape alone matters.
        num_labels: How many classes there are.
        ignore_index: Label of pixels that have no class.

    Raises:
        ValueError: another shape or dtype, a class that does not exist (names the image; not checked while a graph is
            captured), or fewer than two classes.
    """
    if num_labels < 2:
        raise ValueError(
            f"num_labels={num_labels}: pixels are told apart by classes, and this takes two at least. An object and its background "
            f"are num_labels=2, with labels 1 and 0."
        )
    expected = (images.shape[0], *images.shape[-2:])
    if tuple(labels.shape) != expected:
        extra = " Take labels.squeeze(1)." if tuple(labels.shape) == (expected[0], 1, *expected[1:]) else ""
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be {expected}, one class for every pixel of pixel_values "
            f"{tuple(images.shape)}.{extra} The image processor makes both alike: processor(images, segmentation_maps=maps)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels of dtype {labels.dtype} must be whole numbers, torch.int64: labels.long().")
    labels = labels.long()
    if not torch.compiler.is_compiling():
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_labels))
        if wrong.any():
            image = int(wrong.flatten(1).any(1).nonzero()[0])
            values = sorted(set(labels[image][wrong[image]].tolist()))
            raise ValueError(
                f"labels of image {image} have the value {values[0]}{' and others' if values[1:] else ''}, "
                f"{int(wrong[image].sum())} pixels in all; classes are 0 to {num_labels - 1}, and {ignore_index} "
                f"(loss_ignore_index) is ignored. Set num_labels, or reduce the labels (do_reduce_labels=True) where 0 stands for "
                f"no class."
            )
    return labels
