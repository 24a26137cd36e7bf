"""Panoptic segmentation: each pixel belongs to one segment, which has a class; things are counted, stuff is fused."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vertebra.image_processing.post_inputs import Prediction, Size, TargetSizes, check_fraction, predictions
from vertebra.image_processing.strongest import strongest


def panoptic_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] | None = None,
    target_sizes: TargetSizes | None = None,
    compat: bool = False,
    grid: Size | None = None,
) -> list[dict[str, Any]]:
    """Give each pixel of each image its segment; see `MaskFormerImageProcessor.post_process_panoptic_segmentation`."""
    threshold = check_fraction("threshold", threshold)
    mask_threshold = check_fraction("mask_threshold", mask_threshold)
    overlap = check_fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
    fused = frozenset(label_ids_to_fuse or ())
    results = []
    for found in predictions(outputs, target_sizes, compat=compat, grid=grid):
        kept, scores, labels = _objects(found, threshold)
        if not len(kept):
            results.append({"segmentation": _empty(found, compat), "segments_info": []})
            continue
        winner, reached = strongest(found.masks, found.size, scores, mask_threshold, partial(_probabilities, kept))
        won = torch.bincount(winner.flatten(), minlength=len(kept))
        exists = [share > overlap for share in (won / reached).nan_to_num(0, 0, 0).tolist()]
        ids, segments = _segments(exists, labels.tolist(), scores.tolist(), fused, compat)
        segmentation = ids.to(winner.device).index_select(0, winner.flatten()).view(winner.shape)
        results.append({"segmentation": segmentation, "segments_info": segments})
    return results


def _objects(found: Prediction, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The queries whose best class is an object with a probability above `threshold`, their probabilities and classes."""
    scores, labels = found.classes.max(-1)
    kept = torch.nonzero((labels != found.classes.shape[-1] - 1) & (scores > threshold)).flatten()
    return kept, scores[kept], labels[kept]


def _probabilities(kept: Tensor, rows: Tensor) -> Tensor:
    return rows[kept].sigmoid_()


def _empty(found: Prediction, compat: bool) -> Tensor:
    """The map of an image without objects; transformers has another background there than anywhere else, and floats."""
    if compat:
        return torch.full(found.size, -1, dtype=torch.float32)
    return torch.zeros(found.size, dtype=torch.int32, device=found.masks.device)


def _segments(
    exists: list[bool], labels: list[int], scores: list[float], fused: Collection[int], compat: bool
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The segment of each query, int32 `(k,)`, 0 where it has none, and the list of segments.

    Queries of a class in `fused` are one segment, listed once with the best of their scores. In transformers they are listed each
    time, and the next segment is counted from theirs, so that its id is taken already (issue 23461 there).
    """
    ids = torch.zeros(len(exists), dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    by_label: dict[int, dict[str, Any]] = {}
    last = 0
    for query, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if not exists[query]:
            continue
        known = by_label.get(label)
        if known is None:
            last += 1
        elif compat:
            last = known["id"]
        ids[query] = last if known is None else known["id"]
        score = round(score, 6)
        if known is not None and not compat:
            known["score"] = max(known["score"], score)
            continue
        segment = {"id": int(ids[query]), "label_id": label, "was_fused": label in fused, "score": score}
        segments.append(segment)
        if label in fused:
            by_label.setdefault(label, segment)
    return ids, segments
