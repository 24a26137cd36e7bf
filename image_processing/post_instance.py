"""Instance segmentation: objects with a mask, a class and a score each.

Masks are decided at the resolution of the logits and grow by nearest pixels. So all that masks are compared for happens there,
weighted by how many pixels each cell becomes, and only what is returned is ever at the target size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vertebra.image_processing.coco import encode_rle, runs_as_transformers
from vertebra.image_processing.post_inputs import Prediction, Size, TargetSizes, check_fraction, predictions
from vertebra.image_processing.upsampling import Nearest

_TOGETHER = 16
"""Masks that are averaged together."""


@dataclass(frozen=True)
class Candidate:
    """What may be an object: its mask `(h, w)`, bool, its class and its score."""

    mask: Tensor
    label: int
    score: float


def instance_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    target_sizes: TargetSizes | None = None,
    return_coco_annotation: bool = False,
    return_binary_maps: bool = False,
    compat: bool = False,
    grid: Size | None = None,
) -> list[dict[str, Any]]:
    """Find the objects of each image; see `MaskFormerImageProcessor.post_process_instance_segmentation`."""
    if return_coco_annotation and return_binary_maps:
        raise ValueError(
            "return_coco_annotation=True and return_binary_maps=True exclude each other; pass one of them."
        )
    threshold = check_fraction("threshold", threshold)
    level = _logit(check_fraction("mask_threshold", mask_threshold))
    overlap = check_fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
    if compat:
        level = overlap = 0.0
    results = []
    for found in predictions(outputs, target_sizes, compat=compat, grid=grid):
        height, width = found.masks.shape[-2:]
        nearest = Nearest((height, width), found.size, found.masks.device)
        candidates = [one for one in _candidates(found, threshold, level) if nearest.area(one.mask)]
        owner = torch.full((height, width), -1, dtype=torch.int64, device=found.masks.device)
        kept = _share(owner, candidates, _turns(candidates, compat), overlap, nearest)
        segments = [
            {"id": index, "label_id": one.label, "was_fused": False, "score": round(one.score, 6)}
            for index, one in enumerate(candidates[index] for index in kept)
        ]
        ids = torch.full((len(candidates) + 1,), -1, dtype=torch.int32, device=owner.device)  # the last is no one's
        ids[kept] = torch.arange(len(kept), dtype=torch.int32, device=owner.device)
        masks = (nearest.enlarge(candidates[index].mask) for index in kept)
        form = "coco" if return_coco_annotation else "binary" if return_binary_maps else "ids"
        segmentation = _as_transformers if compat else _in_form
        results.append(
            {"segmentation": segmentation(form, nearest.enlarge(ids[owner]), masks), "segments_info": segments}
        )
    return results


def _turns(candidates: Sequence[Candidate], compat: bool) -> list[int]:
    """The order in which candidates take their pixels: the highest score first; in transformers the last of the list."""
    turns = range(len(candidates))
    return list(reversed(turns)) if compat else sorted(turns, key=lambda index: -candidates[index].score)


def _share(
    owner: Tensor, candidates: Sequence[Candidate], turns: Iterable[int], overlap: float, nearest: Nearest
) -> list[int]:
    """Give each cell of `owner` `(h, w)` to the first candidate that covers it, and return the candidates kept, in their order.

    A candidate is dropped, and owns nothing, if less than `overlap` of its area at the target size is left to it.
    """
    kept = []
    for index in turns:
        mask = candidates[index].mask
        visible = mask & (owner < 0)
        if nearest.area(visible) / nearest.area(mask) >= overlap:
            owner.masked_fill_(visible, index)
            kept.append(index)
    return sorted(kept)


def _in_form(form: str, ids: Tensor, masks: Iterator[Tensor]) -> Any:
    if form == "coco":
        return [encode_rle(mask) for mask in masks]
    if form == "binary":
        stack = list(masks)
        return torch.stack(stack) if stack else ids.new_zeros((0, *ids.shape), dtype=torch.bool)
    return ids


def _as_transformers(form: str, ids: Tensor, masks: Iterator[Tensor]) -> Any:
    """As `_in_form`, but in float32; no object gives a map of ids instead of no binary maps; COCO's runs are not COCO's."""
    if form == "coco":
        return runs_as_transformers(ids)
    stack = [mask.float() for mask in masks] if form == "binary" else []
    return torch.stack(stack) if stack else ids.float()


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))


def _candidates(found: Prediction, threshold: float, level: float) -> Iterator[Candidate]:
    """The best pairs of a query and a class, as many as there are queries, whose score reaches `threshold`.

    A pair's score is the class's probability times the mask's mean probability where its logits are above `level`.
    """
    probabilities = found.classes[:, :-1]
    scores, pairs = probabilities.flatten().topk(len(probabilities), sorted=False)
    queries, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    promising = torch.unique(queries[scores >= threshold * (1 - 1e-6)])  # no mean is above 1
    quality = torch.zeros_like(found.classes[:, 0], dtype=found.masks.dtype)
    for chosen in promising.split(_TOGETHER):
        inside = (found.masks[chosen] > level).to(found.masks.dtype).flatten(1)
        probability = found.masks[chosen].sigmoid().flatten(1)
        quality[chosen] = (probability * inside).sum(1) / (inside.sum(1) + 1e-6)
    scores = scores * quality[queries]
    for query, label, score in zip(queries.tolist(), labels.tolist(), scores.tolist(), strict=True):
        if score >= threshold:
            yield Candidate(found.masks[query] > level, label, score)
