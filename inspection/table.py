"""The table of facts about backbones: its rows, and the file they are kept in. Standard library only."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vertebra.files import atomic_path
from vertebra.stages import Stride

FORMAT = 1
SHIPPED = Path(__file__).with_name("traits.json.gz")
REBUILD = "vertebra find --rebuild"


@dataclass(frozen=True)
class Weights:
    """One set of pretrained weights of an architecture.

    Args:
        tag: timm's tag; empty where an architecture has one unnamed set.
        licence: As its publisher spells it, lower case (`"apache-2.0"`); None where nobody says.
        input_size: `(height, width)` it was trained for.
        classes: Classes of its classifier; 0 without one.
        where: Its repository on the hub, or a URL.
    """

    tag: str
    licence: str | None
    input_size: tuple[int, int] | None
    classes: int | None
    where: str | None


@dataclass(frozen=True)
class Traits:
    """What a backbone is, found by building and running it without weights; what inspection cannot tell is None.

    Args:
        name: What `AutoBackbone.from_pretrained` or `AutoConfig.for_model` calls it.
        library: `"timm"` or `"vertebra"`.
        class_name: Class of the network.
        family: Module that defines it.
        stages: Names of the stages that can be selected.
        channels: Of each stage's map.
        strides: Of each stage, in pixels: a whole number, a Fraction, or a pair `(vertical, horizontal)`.
        parameters: Of the backbone with all stages; classifier, final norm and whatever follows the last stage are not in it.
        flops: Floating point operations of that backbone for one image of the native size (or the nearest that runs); a
            multiply-add counts as two, so it is twice what most papers print. Products and convolutions count, as in
            torch's own counter.
        native_size: `(height, width)` it is made for.
        sizes: `"any"`; `"multiple"`: any multiple of `size_divisor`, and with `size_policy="pad"` any size;
            `"restricted"`: some other sizes; `"fixed"`: the native size alone.
        size_divisor: Least common multiple of the strides.
        size_argument: Argument of the constructor that makes it run at other sizes, where it needs one.
        norms: Kinds of norm layers: `"batch"`, `"group"`, `"instance"`, `"layer"`, `"response"`, `"rms"`, `"other"`.
        attention: Kinds of products of activations with each other, by how their cost grows with the number of pixels:
            `"global"`: with its square; `"windowed"`: in proportion, more windows of the same size; `"linear"`: in proportion
            otherwise (kernels, channels, pooled keys). Empty where there are none.
        positions: What tells positions apart: `"absolute"` (a table is added to the tokens), `"relative"` (something is added
            to attention scores before the softmax), `"rotary"` (a table is multiplied in). Convolutions are not listed.
        prefix_tokens: Tokens that stand before those of the image: class, distillation and register tokens.
        patch_size: Side of the squares that the first layer cuts the image into; None where its windows overlap.
        dilation: Largest strides (8, 16) that its stages can be dilated to.
        weights: Pretrained weights that exist.
    """

    name: str
    library: str
    class_name: str
    family: str
    stages: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[Stride, ...]
    parameters: int
    flops: int | None
    native_size: tuple[int, int]
    sizes: str | None
    size_divisor: int
    size_argument: str | None
    norms: tuple[str, ...]
    attention: tuple[str, ...] | None
    positions: tuple[str, ...] | None
    prefix_tokens: int | None
    patch_size: int | None
    dilation: tuple[int, ...]
    weights: tuple[Weights, ...] = ()

    @property
    def any_size(self) -> bool:
        """Whether every image runs, by itself or padded."""
        return self.sizes in ("any", "multiple")

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it; strides that are no whole numbers are text (`"120/7"`)."""
        return {**asdict(self), "strides": [_plain(stride) for stride in self.strides]}


@dataclass(frozen=True)
class Table:
    """The rows, and what they were made with.

    Args:
        timm: Version of timm whose architectures they are.
        rows: One an architecture.
        failed: Architecture to the error, for those that could not be inspected.
        path: File it was read from.
    """

    timm: str
    rows: tuple[Traits, ...]
    failed: Mapping[str, str]
    path: Path


def installed_timm() -> str | None:
    """Version of the installed timm, without importing it; None where there is none."""
    try:
        return version("timm")
    except PackageNotFoundError:
        return None


def cached_path(timm: str) -> Path:
    """Where a rebuilt table for a version of timm lies: `$VERTEBRA_CACHE`, else `vertebra` in the user's cache folder."""
    home = os.environ.get("VERTEBRA_CACHE")
    folder = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vertebra"
    return folder / f"traits-{FORMAT}-timm-{timm}.json.gz"


def load_table() -> tuple[Table, str]:
    """The table for the installed timm, and a sentence where it is for another version; empty otherwise.

    Raises:
        OSError: a table is damaged; says how to make it again.
    """
    timm = installed_timm()
    shipped = read_table(SHIPPED)
    if timm is None or shipped.timm == timm:
        return shipped, ""
    rebuilt = cached_path(timm)
    if rebuilt.is_file():
        return read_table(rebuilt), ""
    return shipped, (
        f"this table is for timm {shipped.timm}, and timm {timm} is installed; `{REBUILD}` makes one for it (minutes)"
    )


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        OSError: it is not there, damaged, or of another format.
    """
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _read(path, stamp)


@cache
def _read(path: Path, stamp: int) -> Table:
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, and this version reads {FORMAT}")
        rows = tuple(_row(dict(zip(content["columns"], row, strict=True))) for row in content["rows"])
        return Table(content["timm"], rows, content["failed"], path)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise OSError(f"The table {str(path)!r} cannot be read: {error}. `{REBUILD}` makes it again.") from error


def write_table(path: Path, timm: str, rows: Iterable[Traits], failed: Mapping[str, str]) -> None:
    """Write a table: all of it or nothing, and the same bytes for the same rows."""
    columns = [field.name for field in fields(Traits)]
    content = {
        "format": FORMAT,
        "timm": timm,
        "columns": columns,
        "failed": dict(sorted(failed.items())),
        "rows": [
            [*(entry[name] for name in columns[:-1]), [list(each.values()) for each in entry["weights"]]]
            for entry in (row.as_dict() for row in sorted(rows, key=lambda row: (row.library, row.name)))
        ],
    }
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), compresslevel=9, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed)


def _row(values: Mapping[str, Any]) -> Traits:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    given["strides"] = tuple(_stride(value) for value in values["strides"])
    given["weights"] = tuple(
        Weights(tag, licence, None if size is None else (size[0], size[1]), classes, where)
        for tag, licence, size, classes, where in values["weights"]
    )
    return Traits(**given)


def _plain(stride: Stride) -> Any:
    if isinstance(stride, tuple):
        return [_plain(part) for part in stride]
    return int(stride) if Fraction(stride).denominator == 1 else str(stride)


def _stride(value: Any) -> Stride:
    if isinstance(value, list):
        return Fraction(value[0]), Fraction(value[1])
    return value if isinstance(value, int) else Fraction(value)
