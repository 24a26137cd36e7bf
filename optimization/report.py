"""What became of `optimize()`: which engine, how fast, how far from the plain model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Optimization:
    """How an optimized model computes. Printing it gives a line.

    Args:
        backend: The engine; `"eager"` where none that could be used was faster than the model itself.
        dtype: What it computes in.
        shape: `(b, c, h, w)` of the images it was tried on.
        error: Largest difference from the plain model on random images, of the largest value of each output.
        seconds: Of a forward of these images, by each engine that was measured and by `"eager"`; empty where none was.
        refused: Engines that were not used, each with the reason.
        remembered: Whether the engine was chosen by an earlier measurement.
        part: What it computes: the `"model"`, or its `"backbone"` alone, where the rest is faster as it is.
    """

    backend: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    error: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    remembered: bool = False
    part: str = "model"

    def __str__(self) -> str:
        sides = "x".join(map(str, self.shape))
        dtype = str(self.dtype).removeprefix("torch.")
        times = ", ".join(
            f"{name} {seconds * 1e3:.1f} ms" for name, seconds in sorted(self.seconds.items(), key=lambda item: item[1])
        )
        what = self.backend if self.part == "model" else f"{self.backend} for the {self.part}"
        parts = [f"{what} in {dtype} for images of {sides}"]
        if self.backend != "eager":
            parts.append(f"differs from the plain model by {self.error:.1e} of the largest value")
        if self.remembered:
            parts.append("chosen by an earlier measurement")
        if times:
            parts.append(times)
        return "; ".join(parts)
