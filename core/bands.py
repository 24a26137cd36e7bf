"""Another number of image channels than a checkpoint was made for: the one rule for filters, means and deviations.

New channel `j` of `n` takes what channel `j % m` of the `m` old ones has (of RGB: red, green, blue, red, …). Filters are
scaled by `m / n`, so that an image whose channels are all alike keeps its response; a single new channel takes the sum of
the old filters, and the mean of their means and deviations. These are the numbers timm gives for RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vertebra.model import PreTrainedModel

RGB = 3
Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputLayers:
    """The tensors of a checkpoint whose shapes follow the number of image channels.

    Args:
        old: Channels of the checkpoint.
        new: Channels of the model.
        names: The model's names of the tensors; axis 1 of each runs over the channels.
        flat_last: As in `adapt_filters`.
    """

    old: int = 0
    new: int = 0
    names: list[str] = field(default_factory=list)
    flat_last: bool = False

    def adapt(self, weight: Tensor) -> Tensor:
        """The filters of a checkpoint as the model takes them; see `adapt_filters`."""
        return adapt_filters(weight, self.old, self.new, self.flat_last)


def adapt_filters(weight: Tensor, old: int, new: int, flat_last: bool = False) -> Tensor:
    """Return filters over `new` image channels, made from filters over `old` ones by the rule of this module.

    Args:
        weight: `(out, old, h, w)` of a convolution; `(out, k * old, h, w)` where a stem stacks the channels of `k` pixels
            (pixel by pixel); `(out, old * k)` of a linear layer on flattened patches (channel by channel).
        old: Image channels it reads.
        new: Image channels it is to read.
        flat_last: Whether flattened patches are pixel by pixel instead, `(out, k * old)`.

    Returns:
        The same with `new` for `old`, of the same dtype; computed in float32 at least.
    """
    if old == new:
        return weight
    outer = weight.ndim == 2 and not flat_last
    axis, pixels = (1, (old, -1)) if outer else (2, (-1, old))
    exact = weight if weight.element_size() > 4 else weight.float()
    filters = exact.reshape(weight.shape[0], *pixels, *weight.shape[2:])
    if new == 1:
        filters = filters.sum(axis, keepdim=True)
    else:
        filters = filters.index_select(axis, torch.tensor(sources(old, new), device=weight.device)) * (old / new)
    return filters.flatten(1, 2).to(weight.dtype)


def adapt_values(values: Sequence[float], new: int) -> tuple[float, ...]:
    """Return one value for each of `new` channels (means, deviations), made by the rule of this module."""
    if new == 1:
        return (sum(values) / len(values),)
    return tuple(values[source] for source in sources(len(values), new))


def sources(old: int, new: int) -> list[int]:
    """Which of `old` channels each of `new` ones copies."""
    return [channel % old for channel in range(new)]


def input_layers(model: PreTrainedModel, found: Mapping[str, Shape]) -> InputLayers:
    """Find the tensors that differ from the model's in nothing but the number of image channels.

    The model is described once more with the checkpoint's number of channels: what has the checkpoint's shape then, and not
    before, reads the image. No family lists its input layers.

    Args:
        model: Model of `n` channels, on any device.
        found: Shapes in the checkpoint, under the model's names.

    Raises:
        ValueError: fewer channels are asked for than the checkpoint has, and it is not RGB: which to drop cannot be known.
    """
    new = model.input_channels
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differing = {name: shape for name, shape in found.items() if name in here and here[name] != shape}
    if new is None:
        return InputLayers()
    for old in dict.fromkeys(filter(None, (_channels(shape, here[name], new) for name, shape in differing.items()))):
        there = model.shapes_with(old)
        names = [name for name, shape in differing.items() if there.get(name) == shape]
        if names and 1 < new < old and old != RGB:
            raise ValueError(
                f"The checkpoint reads {old} channels and num_channels={new} are asked for: which of its {old} are meant cannot be "
                f"known. Load it with num_channels={old}, and pass images whose missing channels hold their means (0 after "
                f"normalising); or pass a checkpoint of {new} channels."
            )
        if names:
            return InputLayers(old, new, names, model.flat_channels_last)
    return InputLayers()


def _channels(there: Shape, here: Shape, new: int) -> int | None:
    """How many image channels a tensor of the checkpoint would have, if its axis 1 ran over them."""
    if len(there) != len(here) or len(here) < 2 or there[:1] + there[2:] != here[:1] + here[2:] or here[1] % new:
        return None
    return there[1] * new // here[1] if there[1] * new % here[1] == 0 else None
