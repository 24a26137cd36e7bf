"""The plain bridge: a module that returns a dictionary of maps, for whatever takes nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.errors import did_you_mean, listing
from vertebra.stages import Stage, plain_stride

KEYS: dict[str, Callable[[Stage], Any]] = {
    "name": lambda stage: stage.name,
    "stride": lambda stage: plain_stride(stage.stride),
    "index": lambda stage: stage.index,
}


def to_dict(backbone: Backbone, keys: str = "name") -> MapDict:
    """Wrap a backbone in a module that returns its selected maps as a dictionary, in stage order.

    Args:
        backbone: A built backbone. It becomes the module's `body`; nothing is copied.
        keys: What the maps are called: the `"name"` of the stage, its `"stride"` in pixels (8; a `Fraction` or a pair where it
            is no whole number), or its `"index"` among all stages, as in `out_indices`.

    Raises:
        TypeError: it is not a built backbone.
        ValueError: `keys` is none of the three, or two of the maps would have the same key.
    """
    return MapDict(backbone, keys)


class MapDict(nn.Module):
    """`(b, c, h, w)` images to an ordered dictionary of `(b, c, h, w)` maps; made by `to_dict`.

    `body` is the backbone, so the names of all weights begin with `body.`.
    """

    def __init__(self, backbone: Backbone, keys: str = "name") -> None:
        super().__init__()
        check_built(backbone, "to_dict")
        if keys not in KEYS:
            raise ValueError(
                f"keys={keys!r} is not known.{did_you_mean(str(keys), KEYS)} It is one of {listing(KEYS)}."
            )
        self.kind = keys
        self.body = backbone
        self.training = backbone.training
        self.names()

    def names(self) -> list[Any]:
        """The key of each selected map. Raises ValueError where two are the same."""
        found = [KEYS[self.kind](stage) for stage in self.body.output_stages]
        if len(set(found)) < len(found):
            repeated = next(key for key in found if found.count(key) > 1)
            stages = [name for name, key in zip(self.body.out_features, found, strict=True) if key == repeated]
            raise ValueError(
                f"keys={self.kind!r} gives {listing(stages)} the same key {repeated}. Select one of them, as in "
                f"backbone.out_features = [{stages[-1]!r}], or use keys='name'."
            )
        return found

    def forward(self, x: Tensor) -> OrderedDict[Any, Tensor]:
        """Images to maps. Raises ValueError as the backbone does."""
        return OrderedDict(zip(self.names(), self.body(x, return_dict=True).feature_maps, strict=True))


def check_built(backbone: Any, function: str) -> None:
    """Raise a TypeError where something else than a built backbone came."""
    if not isinstance(backbone, Backbone):
        given = type(backbone).__name__ if isinstance(backbone, nn.Module) else repr(backbone)
        raise TypeError(
            f"{function} takes a built backbone of vertebra, got {given}. AutoBackbone.from_pretrained(name) builds one, and "
            f"{function}(pyramid(name)) has maps of one width."
        )
