"""A stage of a backbone as a value, and Hugging Face's rules for selecting stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from vertebra.errors import did_you_mean, listing

Stride = int | Fraction | tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Stage:
    """One level of a backbone: what its feature map is called, how wide it is and where its cells lie on the image.

    Coordinates are continuous and in pixels of the input: pixel `i` covers `[i, i + 1)`, its centre is `i + 0.5`. Cell `j`
    along an axis is centred at `offset + j * stride`.

    Args:
        name: Stage name, e.g. `"stage1"` (native) or `"layer1"` (timm).
        index: Position among all stages of the backbone, the stem included where the family has one.
        channels: Channels of the feature map.
        stride: Hop between neighbouring cells in pixels, `(vertical, horizontal)`.
        offset: Centre of the first cell, `(vertical, horizontal)`; None where it is not known or depends on the image size.
        offset_note: Why it is not known, for the error of those who need it.
    """

    name: str
    index: int
    channels: int
    stride: tuple[Fraction, Fraction]
    offset: tuple[Fraction, Fraction] | None = None
    offset_note: str = field(default="", compare=False, repr=False)

    def cell_to_pixel(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Return the pixel coordinates `(y, x)` of a cell's centre. Numbers, NumPy arrays and tensors work alike."""
        (top, left), (down, right) = self._offset(), self.stride
        return row * float(down) + float(top), column * float(right) + float(left)

    def pixel_to_cell(self, y: Any, x: Any) -> tuple[Any, Any]:
        """Return the (fractional) cell coordinates `(row, column)` of a pixel position: the inverse of `cell_to_pixel`."""
        (top, left), (down, right) = self._offset(), self.stride
        return (y - float(top)) / float(down), (x - float(left)) / float(right)

    def resampled(self, name: str, index: int, channels: int, stride: tuple[Fraction, Fraction]) -> Stage:
        """The stage of this map resampled to cells of `stride`: both begin at the same edge of the image."""
        offset = None
        if self.offset is not None:
            offset = (
                self.offset[0] + (stride[0] - self.stride[0]) / 2,
                self.offset[1] + (stride[1] - self.stride[1]) / 2,
            )
        return Stage(name, index, channels, stride, offset, self.offset_note)

    def _offset(self) -> tuple[Fraction, Fraction]:
        if self.offset is None:
            raise ValueError(
                f"The position of the first cell of stage {self.name!r} is not known "
                f"({self.offset_note or 'its padding may depend on the image size'}), so cells cannot be mapped to pixels "
                f"exactly. Its stride is {plain_stride(self.stride)}."
            )
        return self.offset


def plain_stride(stride: tuple[Fraction, Fraction]) -> Stride:
    """The stride as people write it: 8 where both axes agree on a whole number, a Fraction or a pair otherwise."""
    if stride[0] != stride[1]:
        return stride
    return int(stride[0]) if stride[0].denominator == 1 else stride[0]


def stride_text(stride: tuple[Fraction, Fraction]) -> str:
    """A stride for people: `8`, or `4x8` where the axes differ."""
    return str(stride[0]) if stride[0] == stride[1] else f"{stride[0]}x{stride[1]}"


def pair(value: float | Fraction | Iterable[Any]) -> tuple[Fraction, Fraction]:
    """Make a `(vertical, horizontal)` pair of exact numbers from one number or two."""
    vertical, horizontal = value if isinstance(value, Iterable) else (value, value)
    return _exact(vertical), _exact(horizontal)


def exact_strides(strides: Any) -> list[tuple[Fraction, Fraction]]:
    """Check strides that are asked for and return them as `(vertical, horizontal)` pairs.

    Raises:
        ValueError: no list of strides, something that is no stride, or strides that are not positive and ascending.
    """
    given = [] if isinstance(strides, (str, Real)) or not isinstance(strides, Iterable) else list(strides)
    if not given:
        raise ValueError(f"strides={strides!r} must be a list or tuple of strides in pixels, such as (4, 8, 16, 32).")
    asked = []
    for stride in given:
        try:
            if isinstance(stride, str):
                raise TypeError("text is no number")
            asked.append(pair(stride))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"strides={given} holds {stride!r}, which is no stride: a number of pixels such as 8, 3.5 or "
                f"Fraction(14, 3), or (vertical, horizontal)."
            ) from error
    if asked != sorted(set(asked)) or min(min(stride) for stride in asked) <= 0:
        raise ValueError(
            f"strides={[stride_text(stride) for stride in asked]} must be positive, ascending and without repeats."
        )
    return asked


def _exact(value: Any) -> Fraction:
    """A stride as a fraction; a float, as JSON holds it, stands for the simple fraction nearest to it."""
    return Fraction(value).limit_denominator(10**6) if isinstance(value, float) else Fraction(value)


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie, as layers are applied: exact for padded, overlapping and unpadded windows."""

    stride: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    offset: tuple[Fraction, Fraction] = (Fraction(1, 2), Fraction(1, 2))

    def window(self, kernel: Any, stride: Any, padding: Any = 0) -> Grid:
        """Apply a convolution, pooling or merge of `kernel`, `stride` and `padding` cells (a number or a pair each)."""
        steps = list(zip(pair(kernel), pair(stride), pair(padding), strict=True))
        shift = [((size - 1) / 2 - pad) * hop for (size, _, pad), hop in zip(steps, self.stride, strict=True)]
        return Grid(
            stride=(self.stride[0] * steps[0][1], self.stride[1] * steps[1][1]),
            offset=(self.offset[0] + shift[0], self.offset[1] + shift[1]),
        )

    def stage(self, name: str, index: int, channels: int) -> Stage:
        """The stage whose map has these cells."""
        return Stage(name, index, channels, self.stride, self.offset)


def select_stages(
    stage_names: Sequence[str],
    out_features: Sequence[str] | None = None,
    out_indices: Iterable[int] | None = None,
) -> tuple[list[str], list[int]]:
    """Resolve a selection of stages to `(names, indices)` by Hugging Face's rules.

    Either may be given and the other follows; with neither the last stage is selected. Negative indices count from the
    end and are kept as given. An empty selection is allowed.

    Raises:
        ValueError: names or indices that do not exist, repeat, are out of order, or do not agree with each other.
    """
    names = list(stage_names)
    exists = f"The stages are {listing(f'{index}: {name}' for index, name in enumerate(names))}."
    if out_features is not None:
        if isinstance(out_features, str) or not isinstance(out_features, Sequence):
            raise ValueError(f"out_features={out_features!r} must be a list of stage names. {exists}")
        out_features = list(out_features)
        for name in out_features:
            if name not in names:
                raise ValueError(
                    f"out_features={out_features} names {name!r}, which is no stage.{did_you_mean(name, names)} {exists}"
                )
        _check_order("out_features", out_features, [names.index(name) for name in out_features], exists)
    if out_indices is not None:
        if isinstance(out_indices, str) or not isinstance(out_indices, Iterable):
            raise ValueError(f"out_indices={out_indices!r} must be a list or tuple of whole numbers. {exists}")
        out_indices = [index if isinstance(index, bool) else _whole(index) for index in out_indices]
        for index in out_indices:
            if not isinstance(index, int) or isinstance(index, bool) or not -len(names) <= index < len(names):
                raise ValueError(
                    f"out_indices={out_indices} holds {index!r}; allowed are {-len(names)} to {len(names) - 1}. {exists}"
                )
        _check_order("out_indices", out_indices, [index % len(names) for index in out_indices], exists)
    if out_features is None and out_indices is None:
        return [names[-1]], [len(names) - 1]
    if out_indices is None:
        return list(out_features or []), [names.index(name) for name in out_features or []]
    selected = [names[index] for index in out_indices]
    if out_features is not None and out_features != selected:
        raise ValueError(
            f"out_features={out_features} and out_indices={out_indices} select different stages "
            f"(the indices are {selected}); give only one of them. {exists}"
        )
    return selected, list(out_indices)


def _whole(index: Any) -> Any:
    """A whole number of any library as an int; anything else as it is, to be refused."""
    return int(index) if isinstance(index, Integral) else index


def _check_order(argument: str, given: Sequence[object], positions: list[int], exists: str) -> None:
    if len(set(positions)) != len(positions):
        raise ValueError(f"{argument}={list(given)} selects a stage twice. {exists}")
    if positions != sorted(positions):
        ordered = [item for _, item in sorted(zip(positions, given, strict=True), key=lambda entry: entry[0])]
        raise ValueError(
            f"{argument}={list(given)} is not in stage order; feature maps always come in stage order, "
            f"so write {argument}={ordered}. {exists}"
        )


def select_by_stride(stages: Sequence[Stage], out_strides: Iterable[Any]) -> list[int]:
    """Return the index of the deepest stage of each stride.

    Raises:
        ValueError: a stride that no stage has, or strides that are not ascending; lists the strides that exist.
    """
    if isinstance(out_strides, str):
        raise ValueError(f"out_strides={out_strides!r} must be a list or tuple of strides, such as (8, 16, 32).")
    wanted = [pair(stride) for stride in ((out_strides,) if isinstance(out_strides, Real) else out_strides)]
    exists = f"The strides are {listing(f'{stage.name}: {stride_text(stage.stride)}' for stage in stages)}."
    deepest = {stage.stride: stage.index for stage in stages}
    for stride in wanted:
        if stride not in deepest:
            raise ValueError(f"out_strides asks for stride {stride_text(stride)}, which no stage has. {exists}")
    indices = [deepest[stride] for stride in wanted]
    _check_order("out_strides", [plain_stride(stride) for stride in wanted], indices, exists)
    return indices
