"""find: which backbones have these strides, sizes, costs, licences. Answers from the table, without torch or timm."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

from vertebra.errors import did_you_mean, listing
from vertebra.inspection.table import Table, Traits, Weights, load_table
from vertebra.stages import Stride, pair, plain_stride

LICENCE_GROUPS = {"commercial": ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")}
"""Names for several licences. `"commercial"`: those whose text allows commercial use and sets no terms on what for; what
publishers wrote themselves (dinov3-license, gemma, nvidia-open-model-license, …) is not in it, whatever it allows."""
ATTENTION = ("global", "windowed", "linear", "none")
NORMS = ("batch", "group", "instance", "layer", "response", "rms", "other", "none")
SORTS: dict[str, Callable[[Traits], tuple[Any, ...]]] = {
    "params": lambda row: (row.parameters, row.name),
    "flops": lambda row: (row.flops is None, row.flops, row.name),
    "name": lambda row: (row.name,),
}
Condition = Callable[[Traits], bool]


@dataclass(frozen=True)
class Found:
    """A backbone that `find` found.

    Args:
        traits: All that is known of it.
        stages: Names of the stages that the strides asked for select: the deepest of each; of each stride it has when none
            were asked for.
        strides: Of these stages.
        channels: Of these stages' maps.
        weights: Its weights under the licence asked for; all of them when none was.
    """

    traits: Traits
    stages: tuple[str, ...]
    strides: tuple[Stride, ...]
    channels: tuple[int, ...]
    weights: tuple[Weights, ...]

    @property
    def name(self) -> str:
        """What `AutoBackbone.from_pretrained` calls it."""
        return self.traits.name

    @property
    def licences(self) -> tuple[str, ...]:
        """The licences of its weights, each once; weights of which nobody says are left out."""
        return tuple(sorted({each.licence for each in self.weights if each.licence is not None}))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: the traits, and under `"selected"` the stages chosen."""
        chosen = replace(self.traits, stages=self.stages, channels=self.channels, strides=self.strides).as_dict()
        selected = {name: chosen[name] for name in ("stages", "strides", "channels")}
        return {**replace(self.traits, weights=self.weights).as_dict(), "selected": selected}


@dataclass(frozen=True)
class Query:
    """What `find` is asked; the arguments are those of `find`."""

    text: str | None = None
    strides: tuple[tuple[Fraction, Fraction], ...] | None = None
    channels: tuple[int, ...] | None = None
    min_params: float | None = None
    max_params: float | None = None
    max_flops: float | None = None
    any_size: bool | None = None
    size: tuple[int, int] | None = None
    licence: tuple[str, ...] | None = None
    dilation: int | None = None
    attention: str | None = None
    norm: str | None = None
    prefix_tokens: int | None = None
    patch_size: int | None = None
    pretrained: bool | None = None

    def conditions(self) -> dict[str, Condition]:
        """The argument each condition comes from, and the condition; arguments left out have none."""
        every: dict[str, Condition] = {
            "text": lambda row: all(_matches(word, row) for word in str(self.text).lower().split()),
            "strides": lambda row: set(self.strides or ()) <= {pair(stride) for stride in row.strides},
            "channels": lambda row: self._has_channels(row),
            "min_params": lambda row: row.parameters >= (self.min_params or 0),
            "max_params": lambda row: row.parameters <= (self.max_params or 0),
            "max_flops": lambda row: row.flops is not None and row.flops <= (self.max_flops or 0),
            "any_size": lambda row: row.sizes is not None and row.any_size == self.any_size,
            "size": lambda row: _runs_at(row, self.size or (0, 0)),
            "licence": lambda row: bool(self._licensed(row)),
            "dilation": lambda row: self.dilation in row.dilation,
            "attention": lambda row: _holds(row.attention, self.attention),
            "norm": lambda row: _holds(row.norms, self.norm),
            "prefix_tokens": lambda row: row.prefix_tokens == self.prefix_tokens,
            "patch_size": lambda row: row.patch_size == self.patch_size,
            "pretrained": lambda row: bool(row.weights) == self.pretrained,
        }
        return {name: condition for name, condition in every.items() if getattr(self, name) is not None}

    def run(self, table: Table, sort: str = "params") -> list[Found]:
        """The backbones of a table that fulfil every condition, in order."""
        conditions = self.conditions().values()
        rows = [row for row in table.rows if all(condition(row) for condition in conditions)]
        return [self._found(row) for row in sorted(rows, key=SORTS[sort])]

    def excluded(self, table: Table) -> dict[str, tuple[int, int]]:
        """Of each condition: how many backbones it excludes, and how many would be found without it alone."""
        conditions = self.conditions()
        holds = {name: [condition(row) for row in table.rows] for name, condition in conditions.items()}
        without = {
            name: sum(map(all, zip(*(holds[other] for other in holds if other != name), strict=True)))
            if len(holds) > 1
            else len(table.rows)
            for name in holds
        }
        return {name: (holds[name].count(False), without[name]) for name in holds}

    def _chosen(self, row: Traits) -> list[int]:
        """Positions of the deepest stage of each stride asked for."""
        deepest = {pair(stride): index for index, stride in enumerate(row.strides)}
        return sorted(deepest.values()) if self.strides is None else [deepest[stride] for stride in self.strides]

    def _has_channels(self, row: Traits) -> bool:
        wanted = self.channels or ()
        if self.strides is not None and set(self.strides) <= {pair(stride) for stride in row.strides}:
            return tuple(row.channels[index] for index in self._chosen(row)) == wanted
        rest = iter(row.channels)
        return all(width in rest for width in wanted)

    def _licensed(self, row: Traits) -> tuple[Weights, ...]:
        return tuple(each for each in row.weights if self.licence is None or each.licence in self.licence)

    def _found(self, row: Traits) -> Found:
        chosen = self._chosen(row)
        return Found(
            traits=row,
            stages=tuple(row.stages[index] for index in chosen),
            strides=tuple(plain_stride(pair(row.strides[index])) for index in chosen),
            channels=tuple(row.channels[index] for index in chosen),
            weights=self._licensed(row),
        )


def find(
    text: str | None = None,
    *,
    strides: Iterable[Any] | None = None,
    channels: int | Iterable[int] | None = None,
    min_params: float | None = None,
    max_params: float | None = None,
    max_flops: float | None = None,
    any_size: bool | None = None,
    size: int | tuple[int, int] | None = None,
    licence: str | Iterable[str] | None = None,
    dilation: int | None = None,
    attention: str | None = None,
    norm: str | None = None,
    prefix_tokens: int | None = None,
    patch_size: int | None = None,
    pretrained: bool | None = None,
    limit: int | None = None,
    sort: str = "params",
) -> list[Found]:
    """Find backbones by what they are: all of timm's architectures and vertebra's own families.

    The facts come from a table made by inspection; neither torch nor timm is imported. What inspection could not tell of a
    backbone fulfils no condition. Conditions left out ask nothing.

    Args:
        text: Words that stand in the name, family or class; `*` and `?` make a word a pattern for the whole of one of them.
        strides: Strides of maps it must have, e.g. `(4, 8, 16, 32)`.
        channels: Channels of the maps of `strides`, in order; without `strides`, of any of its maps, in order.
        min_params: Fewest parameters, of the backbone without its classifier.
        max_params: Most parameters.
        max_flops: Most floating point operations for an image of the native size; a multiply-add counts as two.
        any_size: True: images of every size run, by themselves or with `size_policy="pad"`. False: they do not.
        size: `(height, width)` that must run as it is; a whole number is a square.
        licence: A licence that weights of it have (`"mit"`), several, or a group of `LICENCE_GROUPS` (`"commercial"`). It is
            what timm states for the weights, no legal advice.
        dilation: 8 or 16: its stages can be dilated so that no stride is larger.
        attention: `"global"`, `"windowed"` or `"linear"` attention occurs in it; `"none"`: no attention.
        norm: `"batch"`, `"layer"`, … norms occur in it; `"none"`: no norms.
        prefix_tokens: Number of class, distillation and register tokens.
        patch_size: Side of the patches its first layer cuts the image into.
        pretrained: Whether there are weights for it.
        limit: Most backbones returned.
        sort: `"params"`, `"flops"` or `"name"`, ascending.

    Returns:
        One `Found` each; an empty list when nothing fulfils every condition.

    Raises:
        ValueError: a value that no backbone can have, or an unknown word; says what exists.
        OSError: the table is damaged.

    Warns:
        UserWarning: the table is for another version of timm than the one installed.
    """
    table, stale = load_table()
    if stale:
        warnings.warn(stale, stacklevel=2)
    query = ask(
        table,
        text=text,
        strides=strides,
        channels=channels,
        min_params=min_params,
        max_params=max_params,
        max_flops=max_flops,
        any_size=any_size,
        size=size,
        licence=licence,
        dilation=dilation,
        attention=attention,
        norm=norm,
        prefix_tokens=prefix_tokens,
        patch_size=patch_size,
        pretrained=pretrained,
    )
    one_of("sort", sort, SORTS)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r} must be a whole number of at least 1, or None for all.")
    return query.run(table, sort)[:limit]


def ask(table: Table, **given: Any) -> Query:
    """Make a query of `find`'s arguments, each checked.

    Raises:
        ValueError: see `find`.
    """
    for name in ("min_params", "max_params", "max_flops", "prefix_tokens", "patch_size"):
        value = given.get(name)
        if value is not None and (isinstance(value, (bool, str)) or not value >= 0):
            raise ValueError(f"{name}={value!r} must be a number of at least 0.")
    least, most = given.get("min_params"), given.get("max_params")
    if least is not None and most is not None and least > most:
        raise ValueError(f"min_params={least} is more than max_params={most}; nothing lies between.")
    for name, known in (("attention", ATTENTION), ("norm", NORMS), ("dilation", (8, 16))):
        if given.get(name) is not None:
            one_of(name, given[name], known)
    return Query(
        **{
            **given,
            "strides": _strides(given.get("strides")),
            "channels": _channels(given.get("channels")),
            "size": _size(given.get("size")),
            "licence": _licences(given.get("licence"), table),
        }
    )


def nearest_names(text: str, table: Table) -> str:
    """What was probably meant by a text that nothing matches."""
    names = {part for row in table.rows for part in (row.name, row.family)}
    return "".join(did_you_mean(word.strip("*"), names) for word in text.lower().split()[:1])


def one_of(name: str, value: Any, known: Iterable[Any]) -> None:
    """Refuse a value that is none of the known ones. Raises ValueError, which names the nearest."""
    known = tuple(known)
    if value not in known:
        raise ValueError(
            f"{name}={value!r} is not known.{did_you_mean(str(value), map(str, known))} Known are {listing(known)}."
        )


def _strides(given: Any) -> tuple[tuple[Fraction, Fraction], ...] | None:
    if given is None:
        return None
    try:
        wanted = tuple(pair(stride) for stride in ([given] if isinstance(given, (int, Fraction)) else given))
        if isinstance(given, str) or not wanted or min(min(stride) for stride in wanted) <= 0:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise ValueError(f"strides={given!r} must be strides in pixels, such as (4, 8, 16, 32).") from error
    if list(wanted) != sorted(set(wanted)):
        ordered = tuple(plain_stride(stride) for stride in sorted(set(wanted)))
        raise ValueError(f"strides={given!r} must ascend, each once; write strides={ordered}.")
    return wanted


def _channels(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    wanted = (given,) if isinstance(given, int) else tuple(given)
    if not wanted or any(isinstance(width, bool) or not isinstance(width, int) or width < 1 for width in wanted):
        raise ValueError(f"channels={given!r} must be numbers of channels, such as 768 or (96, 192, 384, 768).")
    return wanted


def _size(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    sides = (given, given) if isinstance(given, int) else tuple(given)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"size={given!r} must be (height, width) in pixels, or one number for a square.")
    return sides


def _licences(given: Any, table: Table) -> tuple[str, ...] | None:
    if given is None:
        return None
    known = sorted({each.licence for row in table.rows for each in row.weights if each.licence is not None})
    wanted: list[str] = []
    for name in [given] if isinstance(given, str) else given:
        one_of("licence", str(name).lower(), [*LICENCE_GROUPS, *known])
        wanted += LICENCE_GROUPS.get(name.lower(), (name.lower(),))
    return tuple(wanted)


def _matches(word: str, row: Traits) -> bool:
    fields = [field.lower() for field in (row.name, row.family, row.class_name)]
    if re.search(r"[*?[]", word):
        return any(fnmatchcase(field, word) for field in fields)
    return any(word in field for field in fields)


def _runs_at(row: Traits, size: tuple[int, int]) -> bool:
    if row.sizes == "any" or size == row.native_size:
        return True
    return row.sizes == "multiple" and all(side % row.size_divisor == 0 for side in size)


def _holds(kinds: Sequence[str] | None, wanted: str | None) -> bool:
    return kinds is not None and (wanted in kinds or (wanted == "none" and not kinds))
