"""The bridge to segmentation-models-pytorch: any backbone as an encoder that its models take by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.auto.backbone import AutoBackbone
from vertebra.auto.pyramid import pyramid
from vertebra.backbones.base import Backbone
from vertebra.backbones.config import SELECTION
from vertebra.config import PreTrainedConfig, Source
from vertebra.errors import listing
from vertebra.stages import plain_stride, stride_text

RGB = 3
PLAIN = 32
"""The stride at which smp leaves an encoder as it is."""
TAKEN = ("tu-", "timm-", "vgg", "mit_b")
"""Beginnings of names that smp's models treat in a way of their own."""


def register_smp_encoder(
    name: str,
    backbone: Source | PreTrainedConfig | Callable[..., Backbone],
    *,
    neck: str | None = None,
    channels: int = 256,
    **kwargs: Any,
) -> None:
    """Make a backbone an encoder of segmentation-models-pytorch.

        register_smp_encoder("swin", "microsoft/swin-tiny-patch4-window7-224")
        model = segmentation_models_pytorch.Unet("swin", encoder_weights=None, classes=21)

    Each model builds a backbone of its own, under `model.encoder.body`. Its weights come from here, so `encoder_weights` is always
    None. `in_channels`, `encoder_depth` and `encoder_output_stride` of the models reach the backbone.

    The encoder returns the image and one map for each of the strides 2, 4, …, 32. A backbone that has all but stride 2 (Swin,
    ConvNeXt, native ResNets) leaves that one empty, without channels, as smp's own do; all its models take it so, but FPN with
    `encoder_depth` below 5. Backbones with other strides, flat transformers among them, get a neck by `pyramid`'s rule. smp's DPT
    takes timm's transformers alone.

    Args:
        name: What the models call it. smp's own names are refused; one's own may be registered anew.
        backbone: What `AutoBackbone.from_pretrained` takes, a configuration (built with random weights), or a function that
            returns a built backbone with those maps; it gets `num_channels` and `output_stride` where a model wants other
            than 3 and 32.
        neck: `"auto"` or a neck's name: every map, that of stride 2 too, comes from a neck. None only where it is needed.
        channels: Channels of each map where there is a neck.
        **kwargs: For the backbone: `use_pretrained_backbone=False`, `freeze="stage1"`, `size_policy="pad"`, ….

    Raises:
        TypeError: a backbone that is built already, or a selection of stages among the keywords.
        ValueError: a name that smp has, or one that it treats in a way of its own.
        ImportError: segmentation-models-pytorch is not installed.
    """
    try:
        from segmentation_models_pytorch.encoders import encoders
    except ImportError as error:
        raise ImportError(
            "register_smp_encoder needs segmentation-models-pytorch: pip install segmentation-models-pytorch"
        ) from error
    if isinstance(backbone, nn.Module):
        raise TypeError(
            f"Every model needs a backbone of its own, and this {type(backbone).__name__} is built: pass its name, its .config, or "
            f"a function that builds it, register_smp_encoder({name!r}, lambda: …)."
        )
    if chosen := sorted(kwargs.keys() & {*SELECTION}):
        raise TypeError(f"{listing(chosen)} cannot be given: the stages are chosen by the strides that smp asks for.")
    if name.startswith(TAKEN):
        raise ValueError(
            f"name={name!r} begins like {listing(TAKEN)}, which smp's models treat in a way of their own. Choose another, such as "
            f"{'vertebra-' + name!r}."
        )
    if name in encoders and not isinstance(encoders[name]["pretrained_settings"], NoWeights):
        raise ValueError(f"name={name!r} is one of smp's own encoders. Choose another, such as {'vertebra-' + name!r}.")
    if callable(backbone):
        build: Callable[..., Backbone] = functools.partial(_of_function, backbone, **kwargs)
    else:
        build = functools.partial(_of_source, backbone, neck=neck, channels=channels, **kwargs)
    encoders[name] = {
        "encoder": functools.partial(SmpEncoder, build),
        "pretrained_settings": NoWeights(),
        "params": {},
    }


class SmpEncoder(nn.Module):
    """`(b, c, h, w)` images to a list: the image, and a map for each stride from 2 on; made by smp from a registered name.

    `body` is the backbone. `out_channels` begins with the channels of the image.

    Args:
        build: Builds the backbone; takes `depth`, and `num_channels` and `output_stride` where they are not 3 and 32.
        depth: Number of maps.
        output_stride: Largest stride of maps.

    Raises:
        ValueError: the backbone has not the maps; says which and what makes them.
    """

    def __init__(self, build: Callable[..., Backbone], depth: int = 5, output_stride: int = PLAIN) -> None:
        super().__init__()
        dilating = {"output_stride": output_stride} if output_stride != PLAIN else {}
        self._build = functools.partial(build, depth=depth, **dilating)
        self._strides = [min(2**level, output_stride) for level in range(1, depth + 1)]
        self.body = self._checked(self._build())

    def _checked(self, body: Backbone) -> Backbone:
        """The backbone with the maps wanted selected, of those it returns."""
        wanted = [*map(str, self._strides)]
        have = [stride_text(stage.stride) for stage in body.output_stages]
        count = next((len(each) for each in (wanted, wanted[1:]) if each and have[: len(each)] == each), None)
        if count is None:
            raise ValueError(
                f"An encoder of {len(wanted)} maps needs strides {listing(wanted)} (2 may be left out); this "
                f"{type(body).__name__} returns {listing(have) or 'none'}. A neck makes them, such as "
                f"register_smp_encoder(name, lambda: pyramid(backbone, strides=(2, 4, 8, 16, 32)))."
            )
        if count < len(have):
            body.out_features = body.out_features[:count]
        return body.train()  # as all of a model of smp is when it is built

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:
        """Build the backbone anew where a model has images of other channels. smp calls it once, after the constructor.

        Raises:
            ValueError: the backbone was registered with other channels than the model has, and than 3.
        """
        own = self.body.config.num_channels
        if own not in (RGB, in_channels):
            raise ValueError(
                f"The backbone has num_channels={own}, the model in_channels={in_channels}. Pass in_channels={own}."
            )
        if own != in_channels:
            self.body = self._checked(self._build(num_channels=in_channels))

    def make_dilated(self, output_stride: int) -> None:
        """Nothing: the backbone was built with this output stride. smp calls it where it is not 32."""

    def __getstate__(self) -> dict[str, Any]:
        # what built the backbone has done its work, and may be a lambda, which cannot be pickled
        return {name: value for name, value in self.__dict__.items() if name != "_build"}

    @property
    def out_channels(self) -> list[int]:
        """Channels of what `forward` returns: the image, the empty map of stride 2 where there is none, the maps."""
        missing = [0] * (len(self._strides) - len(self.body.channels))
        return [self.body.config.num_channels, *missing, *self.body.channels]

    @property
    def output_stride(self) -> int:
        """Stride of the coarsest map."""
        return int(self._strides[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images to `[image, map of stride 2, 4, …]`. Raises ValueError as the backbone does."""
        batch, _, height, width = x.shape
        maps = list(self.body(x, return_dict=True).feature_maps)
        if len(maps) < len(self._strides):
            maps.insert(0, x.new_empty(batch, 0, -(-height // 2), -(-width // 2)))
        return [x, *maps]


class NoWeights(dict[str, Any]):
    """The pretrained weights that smp finds for an encoder of ours: none, and it says why when asked for some."""

    def __contains__(self, weights: object) -> bool:
        raise ValueError(
            f"encoder_weights={weights!r} is not for this encoder: its weights come from register_smp_encoder(name, backbone). "
            f"Pass encoder_weights=None."
        )


def _of_function(function: Callable[..., Backbone], depth: int, **kwargs: Any) -> Backbone:
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as error:
        given = listing(f"{key}={value!r}" for key, value in kwargs.items())
        raise TypeError(
            f"The function registered as an encoder is called with {given}, which it does not take ({error}). "
            f"Write lambda **changes: pyramid(backbone, strides=(2, 4, 8, 16, 32), **changes)."
        ) from error
    return function(**kwargs)


def _of_source(
    source: Any, depth: int, neck: str | None, channels: int, output_stride: int | None = None, **kwargs: Any
) -> Backbone:
    """A backbone with the stages that smp asks for, or a neck over it."""
    strides: list[Any] = [2**level for level in range(1, depth + 1)]
    if neck is None:
        with torch.device("meta"):
            sketch = _load(source, {**kwargs, "use_pretrained_backbone": False})
        deepest = {plain_stride(stage.stride): stage.name for stage in sketch.stages[sketch.first_map :]}
        if all(stride in deepest for stride in strides[1:]):
            names = [deepest[stride] for stride in strides if stride in deepest]
            dilating = {} if output_stride is None else {"output_stride": output_stride}
            return _load(source, {**kwargs, **dilating, "out_features": names})
        strides = [stride for stride in strides if stride != 2 or stride in deepest]
    if output_stride is not None:
        raise ValueError(
            f"encoder_output_stride={output_stride} dilates the last stages of a backbone, and here a neck makes strides "
            f"{listing(strides)}. Register a backbone that has them itself, without neck=…, or use a model that takes stride 32."
        )
    return pyramid(source, strides, channels, neck or "auto", **kwargs)


def _load(source: Any, kwargs: Mapping[str, Any]) -> Any:
    if not isinstance(source, PreTrainedConfig):
        return AutoBackbone.from_pretrained(source, **kwargs)
    known = {key: value for key, value in kwargs.items() if key != "use_pretrained_backbone" or hasattr(source, key)}
    config, rest = type(source).from_dict(source.to_dict(), return_unused_kwargs=True, **known)
    return AutoBackbone.from_config(config, **rest)
