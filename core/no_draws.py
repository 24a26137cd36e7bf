"""Building on the meta device without drawing initial values, which nothing would come of."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWN = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_, torch.Tensor.clamp_}
"""What initial weights are drawn with; on the meta device it takes most of the time of a build."""


class NoDraws(TorchFunctionMode):
    """Skips drawing initial values for tensors of the meta device, which hold none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor as it is where it would be filled in place; run everything else."""
        if func in DRAWN and args[0].is_meta and not torch.is_grad_enabled():
            return args[0]
        return func(*args, **(kwargs or {}))
