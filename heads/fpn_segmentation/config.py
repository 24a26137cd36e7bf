"""The configuration of the semantic branch of panoptic feature pyramid networks."""

from __future__ import annotations

from vertebra.heads.config import ComposedConfig


class FPNSegmentationConfig(ComposedConfig):
    """Configuration of semantic segmentation from a feature pyramid; `ComposedConfig` describes the keys of the backbone.

    A backbone that is no neck gets one: with `neck="auto"` a feature pyramid network, where its strides allow it. `neck=None` takes
    its maps as they are.

    Args:
        pyramid_channels: Channels of the pyramid's maps.
        hidden_size: Channels of the head.
        loss_ignore_index: Label of pixels that have no part in the loss.
    """

    model_type = "vertebra_fpn_segmentation"
    default_backbone = {"model_type": "resnet"}

    pyramid_channels: int = 256
    hidden_size: int = 128
    loss_ignore_index: int = 255

    @property
    def neck_channels(self) -> int:  # type: ignore[override]  # a key here
        """Channels of the maps of a neck."""
        return self.pyramid_channels

    def validate(self) -> None:
        """Check the widths. Raises ValueError."""
        super().validate()
        for name in ("pyramid_channels", "hidden_size"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of 1 at least.")
