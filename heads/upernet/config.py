"""The configuration of UperNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.heads.config import ComposedConfig


class UperNetConfig(ComposedConfig):
    """Configuration of UperNet over a backbone; `ComposedConfig` describes the keys of the backbone.

    Args:
        hidden_size: Channels of the decode head.
        initializer_range: Standard deviation of the initial weights of both heads.
        pool_scales: Sides of the grids to which the last map is pooled.
        use_auxiliary_head: Whether a small head on the third map is trained as well.
        auxiliary_loss_weight: What its loss counts.
        auxiliary_in_channels: Channels of the third map, which the backbone states: None, or that very number.
        auxiliary_channels: Channels of the auxiliary head.
        auxiliary_num_convs: Its convolutions.
        auxiliary_concat_input: Whether one more convolution reads the map beside what those make of it.
        loss_ignore_index: Label of pixels that have no part in the loss.
    """

    model_type = "upernet"
    default_backbone = {"model_type": "resnet"}

    hidden_size: int = 512
    initializer_range: float = 0.02
    pool_scales: Sequence[int] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_in_channels: int | None = None
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    loss_ignore_index: int = 255

    @property
    def least_maps(self) -> int:  # type: ignore[override]  # depends on a key here
        """Three with the auxiliary head, which reads the third."""
        return 3 if self.use_auxiliary_head else 1

    def validate(self) -> None:
        """Check numbers and scales. Raises ValueError."""
        super().validate()
        least = {"hidden_size": 1, "auxiliary_channels": 1, "auxiliary_num_convs": 0}
        for name, lowest in least.items():
            if not isinstance(value := getattr(self, name), int) or value < lowest:
                raise ValueError(f"{name}={value!r} must be a whole number of {lowest} at least.")
        if any(not isinstance(scale, int) or scale < 1 for scale in self.pool_scales):
            raise ValueError(
                f"pool_scales={self.pool_scales!r} must be whole numbers of 1 at least, such as (1, 2, 3, 6)."
            )

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        if overrides.get("backbone") is not None or overrides.get("backbone_config") is not None:
            content.pop("auxiliary_in_channels", None)  # it describes the backbone that is replaced
        return super()._merge(content, overrides)
