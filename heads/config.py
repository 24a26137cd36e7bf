"""What the configurations of all composed models share: which backbone, and which maps of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from vertebra.auto.compose import KEYS, SELECTION, check_keys, read_backbone, resolve_backbone, without_weights
from vertebra.auto.pyramid import check_neck
from vertebra.config import PreTrainedConfig
from vertebra.hub import HubOptions


class ComposedConfig(PreTrainedConfig, kw_only=True):
    """Base of configurations that hold a backbone.

    Constructing one never touches the network; building the model does, where it says so.

    Args:
        backbone_config: Configuration of the backbone or its dictionary; `default_backbone` when nothing names another.
        backbone: Instead of it, a folder, a hub id or a timm architecture.
        use_pretrained_backbone: Whether building the model loads the weights of `backbone`. Never used by `from_pretrained`.
        use_timm_backbone: `backbone` is a timm architecture and nothing else.
        backbone_kwargs: Keys laid over the configuration of `backbone`, e.g. `{"out_indices": (1, 2, 3, 4)}`.
        neck: Name of what makes strides that the backbone lacks, as in `vertebra.pyramid`; None takes the maps as they are.

    Raises:
        ValueError: keys that exclude each other, or a neck that is not known.
        TypeError: keys that cannot name anything, such as a built backbone.
    """

    default_backbone: ClassVar[Mapping[str, Any]]
    """The backbone when nothing names one, as a dictionary with its `model_type`."""
    backbone_spelling: ClassVar[Mapping[str, str]] = {}
    """`model_type` of a backbone to the one under which this model's files spell it."""
    least_maps: ClassVar[int] = 1
    """How many maps the model needs at least."""
    neck_channels: ClassVar[int] = 256
    """Channels of the maps of a neck."""

    backbone_config: Mapping[str, Any] | PreTrainedConfig | None = None
    backbone: str | None = None
    use_pretrained_backbone: bool = False
    use_timm_backbone: bool = False
    backbone_kwargs: Mapping[str, Any] | None = None
    neck: str | None = "auto"

    @property
    def needed_strides(self) -> tuple[Any, ...] | None:
        """Strides the model needs, one map each; None where it takes any maps."""
        return (4, 8, 16, 32)

    def _settle(self, given: dict[str, Any]) -> None:
        if self.backbone is None and self.backbone_config is None:
            # what the default selects is the model's own affair, so that another neck or stride is not in its way
            self.backbone_config = dict(self.default_backbone)
        if self.backbone_config is not None and self.backbone is None:
            self.backbone_config = read_backbone(self.backbone_config, type(self).__name__, self.backbone_spelling)
        super()._settle(given)

    def validate(self) -> None:
        """Check that the keys name one backbone, and a neck. Raises ValueError or TypeError."""
        super().validate()
        check_keys(self)
        if isinstance(self.backbone, os.PathLike):
            self.backbone = os.fspath(self.backbone)
        check_neck(self.neck)
        if isinstance(self.neck, type):
            raise TypeError(
                f"neck={self.neck.__name__} of {type(self).__name__} must be a name, which a file can hold. A neck of one's own is "
                f"built first: Model(config, backbone=pyramid(name, strides, neck={self.neck.__name__}))."
            )

    def resolve(self, options: HubOptions | None = None) -> None:
        """Put the configuration of the backbone, with random weights, in the place of the keys that name it."""
        self.settle_backbone(without_weights(resolve_backbone(self, options)))

    def settle_backbone(self, backbone_config: Any) -> None:
        """Hold this configuration of a backbone, and none of the keys that name one."""
        self.backbone_config = backbone_config
        for name in KEYS:
            setattr(self, name, getattr(type(self), name))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; `neck` stands under the key `vertebra`, where it is not the default.

        A selection of the backbone that nobody chose stays out, since it would count as chosen when it is read.
        """
        content = super().to_dict()
        if isinstance(self.backbone_config, PreTrainedConfig) and not self.backbone_config.selection_is_chosen:
            content["backbone_config"] = {k: v for k, v in content["backbone_config"].items() if k not in SELECTION}
        neck = content.pop("neck")
        if neck != "auto":
            content["vertebra"] = {"format": 1, "neck": neck}
        return content

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        own = dict(content.pop("vertebra", None) or {})
        own.pop("format", None)
        if overrides.get("backbone") is not None or overrides.get("backbone_config") is not None:
            content = {name: value for name, value in content.items() if name not in (*KEYS, "backbone_config")}
        elif content.get("backbone_config") is not None:  # files of transformers may say what its builder ignores
            content = {name: value for name, value in content.items() if name not in KEYS}
        return {**content, **own, **overrides}

    @classmethod
    def from_backbone_config(cls, backbone_config: PreTrainedConfig, **kwargs: Any) -> Any:
        """The configuration of this model over the backbone that `backbone_config` describes, with `kwargs` as further keys."""
        return cls(backbone_config=copy.deepcopy(backbone_config), **kwargs)
