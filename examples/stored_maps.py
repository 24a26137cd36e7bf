"""A backbone that computes nothing: its maps come out of a feature store. Necks and heads are built and trained over it."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from vertebra import Backbone, BackboneConfigMixin, BackboneOutput, FeatureStore


class StoredConfig(BackboneConfigMixin):
    """The levels of a store."""

    model_type = "stored"
    num_channels: int = 3
    levels: tuple[str, ...] = ()
    stage_names = property(lambda self: list(self.levels))


class StoredMaps(Backbone):
    """The levels of a store as the stages of a backbone, whose maps are those of the batch that was put into `maps`.

    Args:
        store: Its maps must have cells, not be pooled to one vector an image.

    Attributes:
        maps: Level to `(b, c, h, w)`, as a `DataLoader` over `store.dataset()` gives them.
    """

    config_class = StoredConfig
    has_attentions = False

    def __init__(self, store: FeatureStore) -> None:
        stages = [replace(stage, index=index) for index, stage in enumerate(store.levels.values())]
        super().__init__(StoredConfig(levels=tuple(store.levels), out_features=list(store.levels)), stages)
        self.maps: dict[str, Tensor] = {}
        self.post_init()

    def forward_features(self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool) -> Any:
        """Hand the maps on, in the dtype of the pixels, which say no more than how many images there are and how large."""
        shapes = self.output_shapes(*pixel_values.shape[-2:])
        for name, shape in shapes.items():
            if self.maps[name].shape != (len(pixel_values), *shape):
                raise ValueError(
                    f"{name} is {tuple(self.maps[name].shape)}, not that of {tuple(pixel_values.shape)} pixels."
                )
        return BackboneOutput(feature_maps=tuple(self.maps[name].to(pixel_values) for name in shapes))
