"""The configuration of a linear probe."""

from __future__ import annotations

from typing import Any

from vertebra.heads.config import ComposedConfig


class LinearProbeConfig(ComposedConfig):
    """Configuration of one linear layer over the maps a backbone gives; `ComposedConfig` describes the keys of the backbone.

    The probe reads whatever is selected, one map or many: the last stage where nothing is.

    Args:
        freeze_backbone: Whether the backbone stays as it is, norms and dropout included.
        loss_ignore_index: Label of pixels that have no part in the loss.
    """

    model_type = "vertebra_linear_probe"
    default_backbone = {"model_type": "resnet"}

    freeze_backbone: bool = True
    loss_ignore_index: int = 255

    def validate(self) -> None:
        """Check that no neck is asked for. Raises ValueError."""
        super().validate()
        if self.neck not in ("auto", None):
            raise ValueError(
                f"neck={self.neck!r} changes nothing for {type(self).__name__}, which reads the maps that are selected. A neck is "
                f"built first: Model(config, backbone=pyramid(name, neck={self.neck!r}))."
            )

    @property
    def needed_strides(self) -> None:
        """Any maps will do."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; that the whole backbone is frozen stands there once."""
        content = super().to_dict()
        below = content.get("backbone_config")
        if self.freeze_backbone and isinstance(below, dict) and "vertebra" in below:
            own = {name: value for name, value in below.pop("vertebra").items() if name != "freeze"}
            if own.keys() != {"format"}:
                below["vertebra"] = own
        return content
