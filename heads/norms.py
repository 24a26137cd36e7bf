"""Batch norm that says what to do where a batch is too small for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.linear import runs_plainly


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over `(b, c, h, w)` maps.

    In training it needs two values a channel: the mean of a single value is the value, and nothing of the map would be left.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Norm the maps.

        Raises:
            ValueError: in training, maps of a single cell of a single image.
        """
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            raise ValueError(
                f"Batch norm cannot train on one image whose map has a single cell (shape {tuple(input.shape)}): pyramid pooling "
                f"to 1x1 makes such maps, and so do small images. Use batches of two images or more (DataLoader(…, "
                f"drop_last=True) leaves out a last single one), leave the scale 1 out of pool_scales, or keep the statistics: "
                f"call .eval() on the batch norms after model.train()."
            )
        return super().forward(input)

    def overwrite(self, x: Tensor) -> Tensor:
        """Norm maps that nobody else needs: in their own memory where no gradients are kept."""
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None or var is None or not runs_plainly(x, mean, var, self.weight, self.bias):
            normed: Tensor = self(x)
            return normed
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)
