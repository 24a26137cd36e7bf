"""Image sizes: which run, what becomes of the others under a size policy, and the nearest size to one that does not run."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from vertebra.stages import Stage

Size = tuple[int, int]


class SizeError(ValueError):
    """Images of a size do not run; the text names the nearest size that does."""


class SizePolicy:
    """What a backbone says of image sizes, from its stages, its configuration and `map_sizes`."""

    config: Any
    stages: tuple[Stage, ...]

    @property
    @abstractmethod
    def selected(self) -> tuple[int, ...]:
        """Indices of the selected stages, counted from the start."""

    @property
    @abstractmethod
    def last_stage(self) -> int:
        """Index of the last stage that is computed; -1 when none is selected."""

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one; the default rounds up at every stage.

        Raises:
            ValueError: the architecture cannot run at this size; says why. `output_shapes` adds the nearest size that runs.
        """
        stages = self.stages[: self.last_stage + 1]
        return [(math.ceil(height / stage.stride[0]), math.ceil(width / stage.stride[1])) for stage in stages]

    @property
    def native_size(self) -> Size:
        """The image size the architecture is made for: `config.image_size`, or 224x224 where it does not say."""
        size = getattr(self.config, "image_size", 224)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def size_divisor(self) -> int:
        """Sizes that are multiples of it are divided by every computed stage without a remainder."""
        strides = [hop for stage in self.stages[: self.last_stage + 1] for hop in stage.stride]
        return math.lcm(*(hop.numerator for hop in strides)) if strides else 1

    def size_steps(self) -> list[Size]:
        """What sides that run may have to be multiples of, `(height, width)` each; `nearest_size` looks among these."""
        hops = [stage.stride for stage in self.stages[: self.last_stage + 1]]
        whole = [self.size_divisor * times for times in (1, 2, 4, 8)]
        return [
            *((hop[0].numerator, hop[1].numerator) for hop in hops),
            *zip(whole, whole, strict=True),
            self.native_size,
        ]

    def accepts(self, height: int, width: int) -> bool:
        """Whether images of this size run under the size policy."""
        try:
            self.returned_sizes(height, width)
        except ValueError:
            return False
        return True

    def nearest_size(self, height: int, width: int) -> Size:
        """The image size nearest to `height` and `width` that runs under the size policy: the size itself where it does.

        Nearest is the smallest change in pixels, |height - height'| + |width - width'|; of equal changes the larger size,
        since enlarging loses nothing. Both sides become multiples of a stride, of the strides' least common multiple (also 2,
        4 and 8 times) or of the native size; then each side alone comes as near as it runs: to a finer multiple, or to
        the shortest side. For what runs at other sizes yet (multiples of 3 strides, say), there may be a nearer one.

        Raises:
            ValueError: the size has no pixels, or not even the native size runs under the policy.
        """
        self._check_pixels_exist(height, width)
        found = nearest((height, width), self.native_size, self.size_steps(), self.accepts)
        if found is None:
            raise ValueError(
                f"No image size near {height}x{width} runs with size_policy={self.config.size_policy!r}, nor does the native "
                f"size {'x'.join(map(str, self.native_size))}; leave size_policy out."
            )
        return found

    def refuse_size(self, height: int, width: int, why: Exception | str, near: Size | None = None) -> SizeError:
        """The error for images that do not run: why, the nearest size that does, and whether padding helps.

        Args:
            height: Of the images, in pixels.
            width: Of the images, in pixels.
            why: What keeps them from running.
            near: The nearest size that runs; `nearest_size` when None.
        """
        rows, columns = near or self.nearest_size(height, width)
        text = f"{str(why).removesuffix('.')}. The nearest size that runs is {rows}x{columns}."
        divisor = self.size_divisor
        padded = (math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor)
        if self.config.size_policy is None and padded != (height, width) and self.accepts(*padded):
            text += f" size_policy='pad' runs {height}x{width} itself, padded to a multiple of {divisor}."
        return SizeError(text)

    def output_shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Stage name to `(channels, height, width)` of each selected map, without running.

        Raises:
            ValueError: images of this size do not run; names the nearest size that does.
        """
        self._fitted(height, width)  # what the policy itself refuses has the nearest size in its words
        try:
            sizes = self.returned_sizes(height, width)
        except ValueError as error:
            raise self.refuse_size(height, width, error) from error
        return {self.stages[index].name: (self.stages[index].channels, *sizes[index]) for index in self.selected}

    def returned_sizes(self, height: int, width: int) -> list[Size]:
        """Size at which the map of every stage up to the last selected one is returned: `map_sizes` under the size policy.

        Raises:
            ValueError: the architecture cannot run at this size.
        """
        sizes = self.map_sizes(*self._fitted(height, width))
        if self.config.size_policy != "pad":
            return sizes
        return [self._covering(stage, height, width, size) for stage, size in zip(self.stages, sizes, strict=False)]

    def _fitted(self, height: int, width: int) -> Size:
        """The size at which the network runs for an image of `height` and `width` under the size policy."""
        divisor = self.size_divisor
        self._check_pixels_exist(height, width)
        if self.config.size_policy == "pad":
            return -(-height // divisor) * divisor, -(-width // divisor) * divisor
        if self.config.size_policy == "floor":
            if min(height, width) < divisor:
                raise ValueError(
                    f"An image of {height}x{width} is smaller than one cell of the last stage, and size_policy='floor' would "
                    f"leave nothing of it. The smallest size is {divisor}x{divisor}; size_policy='pad' takes any. The nearest "
                    f"size that runs is {max(height, divisor)}x{max(width, divisor)}."
                )
            return height // divisor * divisor, width // divisor * divisor
        return height, width

    @staticmethod
    def _check_pixels_exist(height: int, width: int) -> None:
        if min(height, width) < 1:
            raise ValueError(
                f"An image of {height}x{width} has no pixels; sizes are height and width in pixels, from 1x1."
            )

    @staticmethod
    def _covering(stage: Stage, height: int, width: int, size: Size) -> Size:
        """The part of a padded map that covers the image itself."""
        down, right = stage.stride  # in whole numbers, which a compiled graph can follow as well
        rows = -(-height * down.denominator // down.numerator)
        columns = -(-width * right.denominator // right.numerator)
        return min(size[0], rows), min(size[1], columns)


class WholeCells(SizePolicy):
    """Sizes of a backbone that pads nothing: the rest of an image that makes no whole cell is left out."""

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one, rounded down at every stage.

        Raises:
            ValueError: an image smaller than one cell of the last selected stage.
        """
        stages = self.stages[: self.last_stage + 1]
        sizes = [(height // stage.stride[0].numerator, width // stage.stride[1].numerator) for stage in stages]
        if sizes and 0 in sizes[-1]:
            raise ValueError(_no_cell(height, width, stages[-1]))
        return sizes

    def check_cells(self, height: int, width: int, last: int) -> None:
        """Refuse images that are smaller than one cell of the stage `last`, before anything runs.

        Raises:
            ValueError: names the nearest size that runs.
        """
        stage = self.stages[last]
        if last >= 0 and (height < stage.stride[0].numerator or width < stage.stride[1].numerator):
            near = (max(height, stage.stride[0].numerator), max(width, stage.stride[1].numerator))
            raise self.refuse_size(height, width, _no_cell(height, width, stage), near)


def _no_cell(height: int, width: int, stage: Stage) -> str:
    down, right = stage.stride
    return f"An image of {height}x{width} is smaller than one cell of {stage.name!r}, which is {down}x{right} pixels."


def nearest(size: Size, native: Size, steps: Iterable[Size], runs: Callable[[int, int], bool]) -> Size | None:
    """Find the size nearest to `size` that runs, where only trying tells; None where not even `native` does.

    Nearest is the smallest change in pixels, |height - height'| + |width - width'|; of equal changes the larger size. Both
    sides are rounded to the finest step at which that runs, and to `native` where none does; then each alone is brought
    nearer, to a finer step or, where it need be no multiple, to the limit, by halving. Where nothing but the native size
    runs that way, squares are tried too.

    Args:
        size: `(height, width)` that was asked for.
        native: `(height, width)` that runs.
        steps: What sides may have to be multiples of, `(height, width)` each.
        runs: Whether images of `(height, width)` run. It is called about a dozen times, with few sizes that do run.
    """
    if runs(*size):
        return size
    steps = sorted(set(steps))
    found = next((tried for tried in dict.fromkeys(_rounded(size, step) for step in steps) if runs(*tried)), None)
    if found is None:
        if not runs(*native):
            return None
        found = min([native, *_squares(size, native, steps, runs)], key=lambda tried: distance(size, tried))
        if found[0] == found[1] and found != native:
            return found
    height = _nearer(size[0], found[0], [step[0] for step in steps], lambda side: runs(side, found[1]))
    return height, _nearer(size[1], found[1], [step[1] for step in steps], lambda side: runs(height, side))


def distance(size: Size, tried: Size) -> tuple[int, int]:
    """How far `tried` is from `size`, to sort by: the change in pixels, then the larger first."""
    return abs(size[0] - tried[0]) + abs(size[1] - tried[1]), -sum(tried)


def _rounded(size: Size, step: Size) -> Size:
    """The nearest multiples of a step, at least one; halves are rounded up."""
    rows, columns = (max(1, (2 * side + each) // (2 * each)) * each for side, each in zip(size, step, strict=True))
    return rows, columns


def _squares(size: Size, native: Size, steps: list[Size], runs: Callable[[int, int], bool]) -> list[Size]:
    """The nearest square that runs, where any but the native one does."""
    if not runs(2 * max(native), 2 * max(native)):
        return []
    sides = {side // each * each + more for side in size for step in steps for each in step for more in (0, each)}
    squares = sorted(((side, side) for side in sides - {0}), key=lambda square: distance(size, square))
    return [square for square in squares if runs(*square)][:1]


def _nearer(side: int, found: int, steps: list[int], runs: Callable[[int], bool]) -> int:
    """The length nearest to `side` that runs, from one that was found, the other side being as it is."""
    if side == found:
        return found
    toward = 1 if side > found else -1
    if runs(found + toward):  # no multiple but a limit
        outside, inside = side, found + toward
        if inside == side or runs(side):
            return side
        while abs(inside - outside) > 1:
            middle = (inside + outside) // 2
            inside, outside = (middle, outside) if runs(middle) else (inside, middle)
        return inside
    for step in sorted(set(steps), reverse=True):
        finer, _ = _rounded((side, side), (step, step))
        if (abs(finer - side), -finer) < (abs(found - side), -found):
            if not runs(finer):
                break
            found = finer
    return found
