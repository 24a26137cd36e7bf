"""Masks compared at points instead of pixels: maps read at points, and points drawn where a mask is uncertain.

Points are `(x, y)` from 0 (left, upper edge) to 1 (right, lower edge), so the same points fit maps of any size. PointRend
(Kirillov et al. 2020) draws them this way, Mask2Former (Cheng et al. 2022) trains on them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.heads.matcher import full_precision


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points, bilinearly; beyond the outermost cells' centres they fade to 0.

    Args:
        maps: `(n, c, h, w)`.
        points: `(n, p, 2)`, `(x, y)` from 0 to 1.

    Returns:
        `(n, c, p)` in float32 at least.
    """
    maps = full_precision(maps)
    grid = (2.0 * points - 1.0).to(maps.dtype).unsqueeze(2)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)


def random_points(count: int, points: int, like: Tensor) -> Tensor:
    """Draw `(count, points, 2)` points uniformly, on the device of `like`, in float32 or, where `like` is that, in float64."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.rand(count, points, 2, dtype=dtype, device=like.device)


@torch.no_grad()
def uncertain_points(logits: Tensor, points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Draw points for each mask, most of them where its logit is nearest to 0.

    Args:
        logits: `(n, h, w)` scores before sigmoid.
        points: How many to return for each mask.
        oversample_ratio: So many times as many are drawn uniformly, of which the most uncertain are taken.
        importance_ratio: Fraction of `points` that is chosen so; the rest is drawn uniformly.

    Returns:
        `(n, points, 2)`, the most uncertain first, in no particular order among themselves.
    """
    count, chosen = len(logits), int(importance_ratio * points)
    drawn = random_points(count, int(points * oversample_ratio), logits)
    scores = sample_points(logits.unsqueeze(1), drawn).squeeze(1).abs()
    nearest = scores.topk(chosen, dim=1, largest=False, sorted=False).indices
    taken = drawn.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))
    if chosen == points:
        return taken
    return torch.cat([taken, random_points(count, points - chosen, logits)], dim=1)
