"""compare: two sources or versions of one backbone side by side, and the first module in which they part."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.auto.backbone import AutoBackbone
from vertebra.auto.vision import AutoImageProcessor
from vertebra.backbones.base import Backbone, Size
from vertebra.errors import listing
from vertebra.inspection.recording import Record, pair_records, record
from vertebra.stages import Stage, stride_text

Source = Backbone | str | os.PathLike[str]
Images = Tensor | Sequence[str | os.PathLike[str]]
SHOWN = 5
NOISY = 2


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from another.

    Args:
        error: Largest absolute difference; None where the shapes differ.
        relative: That over the largest absolute value of the first; None where the shapes differ.
        cosine: Cosine of the angle between both, all values taken as one vector; None where the shapes differ.
        shapes: Shape of the first and of the second.
    """

    error: float | None
    relative: float | None
    cosine: float | None
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def within(self, tolerance: float) -> bool:
        """Whether the shapes agree and the relative error is at most `tolerance`; never for values that are not finite."""
        return self.relative is not None and self.relative <= tolerance

    def __str__(self) -> str:
        if self.error is None or self.relative is None or self.cosine is None:
            return "shapes {} and {}".format(*("x".join(map(str, shape)) for shape in self.shapes))
        return f"error {self.error:.3g}, relative {self.relative:.3g}, cosine {self.cosine:.9f}"


@dataclass(frozen=True)
class LevelDifference:
    """A selected level of both backbones.

    Args:
        a: Name of the stage in the first.
        b: Name of the stage in the second.
        difference: How far their maps are apart.
    """

    a: str
    b: str
    difference: Difference


@dataclass(frozen=True)
class ModuleDifference:
    """A module of both backbones.

    Args:
        a: Its name in the first; `name#2` for what its second call gave.
        b: Its name in the second.
        kind: Class of the first.
        difference: How far what they gave is apart.
    """

    a: str
    b: str
    kind: str
    difference: Difference

    def __str__(self) -> str:
        other = "" if self.a == self.b else f" / {self.b}"
        return f"{self.a}{other} ({self.kind}): {self.difference}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. True where all levels agree; prints as a table.

    Args:
        a: Name of the first.
        b: Name of the second.
        pixels: Shape of the pixel values both got.
        tolerance: Largest relative error at which values count as equal.
        levels: One row per selected level.
        by_name: Whether modules were matched by their names; otherwise by order, shape and value.
        matched: How many modules were matched.
        first: The first module, in the order of execution, whose outputs differ by more than the tolerance; None where there
            is none.
        worst: The modules that differ most, the worst first.
    """

    a: str
    b: str
    pixels: tuple[int, ...]
    tolerance: float
    levels: tuple[LevelDifference, ...]
    by_name: bool
    matched: int
    first: ModuleDifference | None
    worst: tuple[ModuleDifference, ...]

    @property
    def ok(self) -> bool:
        """Whether all levels agree within the tolerance."""
        return all(level.difference.within(self.tolerance) for level in self.levels)

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON holds them: what is infinite or not a number is None."""
        content: dict[str, Any] = _finite({"ok": self.ok, **asdict(self)})
        return content

    def __str__(self) -> str:
        verdict = f"equal within {self.tolerance:g}" if self.ok else f"DIFFERENT by more than {self.tolerance:g}"
        lines = [f"{self.a} and {self.b} on pixels {'x'.join(map(str, self.pixels))}: {verdict}"]
        names = [level.a if level.a == level.b else f"{level.a} / {level.b}" for level in self.levels]
        width = max(map(len, names), default=0)
        lines += [f"  {name:<{width}}  {level.difference}" for name, level in zip(names, self.levels, strict=True)]
        how = "by name" if self.by_name else "by order, shape and value"
        lines.append(f"modules   {self.matched} matched {how}")
        lines.append(f"first     {self.first or 'none differs'}")
        if self.first is not None:
            lines += [f"{'worst' if index == 0 else '':<9} {module}" for index, module in enumerate(self.worst)]
        return "\n".join(lines)


def compare(
    a: Source,
    b: Source,
    images: Images | None = None,
    *,
    size: Size | None = None,
    tolerance: float = 1e-5,
    a_options: Mapping[str, Any] | None = None,
    b_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Comparison:
    """Run two backbones on the same pixels and say how far their maps are apart, and where they part.

    Levels are matched in the order of selection. Modules are matched by their names where both have the same ones; a module's
    output counts even where an in-place operation changes it later. Between networks of other names, outputs of modules are
    matched that have the same shape and agree, in the order of execution; the first that differs is then the first module of
    `a` after the last one that agrees.

    Args:
        a: A backbone in evaluation mode, or a name or folder for `AutoBackbone`; errors are relative to its values.
        b: The other one.
        images: `(b, c, h, w)` pixel values, or image files, which `a`'s image processor prepares for both; noise with a fixed
            seed when None.
        size: `(height, width)` of the noise, or that image files are brought to; `a`'s own when None.
        tolerance: Largest relative error (largest difference over largest value) at which values count as equal.
        a_options: How `a` is loaded where it is given by name, e.g. `{"revision": "v2", "dtype": "bfloat16"}`.
        b_options: The same for `b`.
        **options: The same for both, e.g. `out_strides=(8, 16, 32)`.

    Raises:
        ValueError: the selections do not match in number, channels and strides, a backbone is in training mode, or the images
            do not run.
        OSError: there is no such checkpoint or image.
    """
    if not tolerance >= 0:
        raise ValueError(
            f"tolerance={tolerance} must be a number of at least 0; 1e-5 is usual for float32, 2e-2 for bfloat16."
        )
    first = _load(a, "a", {**options, **(a_options or {})})
    second = _load(b, "b", {**options, **(b_options or {})})
    _check_levels(first, second)
    pixels = _pixels(first, images, size, {**options, **(a_options or {})})
    maps, ran = record(first, pixels)
    other_maps, other_ran = record(second, pixels)
    levels = tuple(
        LevelDifference(stage.name, other.name, measure(level, other_level))
        for stage, other, level, other_level in zip(
            first.output_stages, second.output_stages, maps, other_maps, strict=True
        )
    )
    by_name, pairs = pair_records(ran, other_ran, lambda x, y: measure(x, y).within(tolerance), tolerance)
    modules = [_module(one, two) for one, two in pairs]
    differing = [module for module in modules if not module.difference.within(tolerance)]
    if not by_name and all(level.difference.within(tolerance) for level in levels):
        differing = []  # what has no counterpart inside is built differently, and leads to the same
    return Comparison(
        a=_name(a, first),
        b=_name(b, second),
        pixels=tuple(pixels.shape),
        tolerance=tolerance,
        levels=levels,
        by_name=by_name,
        matched=len(modules),
        first=differing[0] if differing else None,
        worst=tuple(sorted(differing, key=_badness, reverse=True)[:SHOWN]),
    )


def measure(a: Tensor, b: Tensor) -> Difference:
    """How far `b` is from `a`, in float64."""
    shapes = (tuple(a.shape), tuple(b.shape))
    if a.shape != b.shape:
        return Difference(None, None, None, shapes)
    one, two = a.detach().double().flatten().cpu(), b.detach().double().flatten().cpu()
    if not one.numel() or torch.equal(one, two):
        return Difference(0.0, 0.0, 1.0, shapes)
    error, scale = (one - two).abs().max().item(), one.abs().max().item()
    lengths = one.norm().item() * two.norm().item()
    relative = error / scale if scale else float("inf")
    return Difference(error, relative, (one @ two).item() / lengths if lengths else 0.0, shapes)


def _module(one: Record, two: Record) -> ModuleDifference:
    found = [measure(x, y) for x, y in zip(one.outputs, two.outputs, strict=False)]
    return ModuleDifference(one.name, two.name, one.kind, max(found, key=_size))


def _size(difference: Difference) -> float:
    relative = difference.relative
    return float("inf") if relative is None or relative != relative else relative


def _badness(module: ModuleDifference) -> float:
    return _size(module.difference)


def _load(source: Source, argument: str, options: Mapping[str, Any]) -> Backbone:
    if not isinstance(source, Backbone):
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(
                f"{argument} is a {type(source).__name__}; compare takes a Backbone, or a name or folder for AutoBackbone. A "
                f"plain timm model is TimmBackbone(TimmBackboneConfig(name)) with its state dict loaded."
            )
        loaded: Backbone = AutoBackbone.from_pretrained(source, **options)
        return loaded
    if source.training:
        raise ValueError(
            f"{argument} is in training mode, in which outputs depend on the batch; call {argument}.eval() first."
        )
    return source


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(source: Source, backbone: Backbone) -> str:
    if not isinstance(source, Backbone):
        return str(source)
    return str(backbone.name_or_path or getattr(backbone.config, "backbone", None) or type(backbone).__name__)


def _check_levels(a: Backbone, b: Backbone) -> None:
    def told(stages: Iterable[Stage]) -> str:
        return (
            listing(f"{stage.name} ({stage.channels}, stride {stride_text(stage.stride)})" for stage in stages)
            or "nothing"
        )

    pairs = zip(a.output_stages, b.output_stages, strict=False)
    alike = all(one.channels == two.channels and one.stride == two.stride for one, two in pairs)
    if not alike or len(a.output_stages) != len(b.output_stages) or not a.output_stages:
        raise ValueError(
            f"The selections do not match: a has {told(a.output_stages)}; b has {told(b.output_stages)}. Levels are matched in "
            f"order and need equal channels and strides; select the same ones, e.g. out_strides=(8, 16, 32) for both."
        )
    if a.config.num_channels != b.config.num_channels:
        raise ValueError(f"a takes images of {a.config.num_channels} channels and b of {b.config.num_channels}.")


def _pixels(a: Backbone, images: Images | None, size: Size | None, options: Mapping[str, Any]) -> Tensor:
    if isinstance(images, Tensor):
        if size is not None:
            raise ValueError("size says how large noise or image files become; a tensor of pixel values has its size.")
        return images
    if images is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(NOISY, a.config.num_channels, *(size or a.native_size), generator=generator)
    files = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    if not files:
        raise ValueError("images is an empty list; give image files or pixel values, or leave it out for noise.")
    missing = [str(path) for path in files if not Path(path).expanduser().is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]!r} is not an existing image file.")
    if not a.name_or_path:
        raise ValueError(
            "a was built in code, so no image processor belongs to it; give pixel values: "
            "processor(images, return_tensors='pt').pixel_values."
        )
    where = {
        name: value for name, value in options.items() if name in ("revision", "local_files_only", "token", "cache_dir")
    }
    processor = AutoImageProcessor.from_pretrained(a.name_or_path, **where)
    settings: dict[str, Any] = {}
    if size is not None:
        settings = {"do_resize": True, "size": {"height": size[0], "width": size[1]}}
        settings |= {"crop_size": settings["size"]} if processor.crop_size is not None else {}
    pixels: Tensor = processor([str(path) for path in files], return_tensors="pt", **settings)["pixel_values"]
    return pixels
