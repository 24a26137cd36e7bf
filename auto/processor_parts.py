"""The parts of a processor: what kinds there are, which of them a class has, and which options of a call go to which."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vertebra.errors import did_you_mean, listing


class Kind(NamedTuple):
    """A kind of part: `group` is the argument of a call that holds options of that part alone, `title` its name in errors."""

    group: str
    title: str


TOKENIZER = "tokenizer"
KINDS = {
    "image_processor": Kind("images_kwargs", "an image processor"),
    "feature_extractor": Kind("audio_kwargs", "a feature extractor"),
    TOKENIZER: Kind("text_kwargs", "a tokenizer"),
}
FOR_ALL = "common_kwargs"
Options = dict[str, dict[str, Any]]
"""Options of a call by part."""


def named_parts(cls: type) -> tuple[str, ...]:
    """The parts that the constructor of a class names."""
    return tuple(name for name in inspect.signature(cls).parameters if name in KINDS)


def check_part(call: str, name: str, part: Any) -> None:
    """Refuse what is not of the kind `name` with a TypeError."""
    from vertebra.preprocessor import Preprocessor
    from vertebra.text.tokenization.base import TokenizerBase

    if name == TOKENIZER:
        right = isinstance(part, TokenizerBase)
    else:
        right = isinstance(part, Preprocessor) and part._part == name
    if not right:
        library = type(part).__module__.partition(".")[0]
        whose = "" if library in ("vertebra", "builtins") else f" of {library}"
        raise TypeError(f"{call}: {name} is a {type(part).__name__}{whose}, not {KINDS[name].title} of vertebra.")


def options_by_part(call: str, parts: Mapping[str, Any], options: Mapping[str, Any]) -> Options:
    """Give each part the options of a call that it has, and those of its own group, which win over common ones.

    Args:
        call: What errors call the call.
        parts: The parts by name.
        options: Options by name; those of one part, or of all, may stand together in `images_kwargs`, …, `common_kwargs`.

    Raises:
        TypeError: an option that no part has, or a group that is no mapping.
        ValueError: a group of a part that there is not, or an option that stands in a group and beside it.
    """
    groups = {name: options.get(name) or {} for name in (FOR_ALL, *(kind.group for kind in KINDS.values()))}
    alone = {name: value for name, value in options.items() if name not in groups}
    _check_groups(call, parts, groups, alone)
    shared = {**groups[FOR_ALL], **alone}
    names = {part: _call_names(value) for part, value in parts.items()}
    known = sorted(set().union(*names.values()))
    for name in shared:
        if name not in known:
            raise TypeError(
                f"{call} has no option {name!r}.{did_you_mean(name, known)} The options of its parts are {listing(known)}."
            )
    return {
        part: {**{name: value for name, value in shared.items() if name in names[part]}, **groups[KINDS[part].group]}
        for part in parts
    }


def _check_groups(call: str, parts: Mapping[str, Any], groups: Mapping[str, Any], alone: Mapping[str, Any]) -> None:
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise TypeError(
                f"{call} got {name}={group!r}; it is a dict of options, e.g. {name}={{'return_tensors': 'pt'}}."
            )
        twice = [option for option in group if option in alone]
        if twice:
            raise ValueError(f"{call} got {twice[0]!r} twice, alone and in {name}; leave one out.")
    for part, kind in KINDS.items():
        if groups[kind.group] and part not in parts:
            raise ValueError(f"{call} got {kind.group}, and it has no {part}; its parts are {listing(parts)}.")


def _call_names(part: Any) -> set[str]:
    """Names of the options of a part's call."""
    from vertebra.preprocessor import Preprocessor, setting_names

    calls = [vars(base)["__call__"] for base in type(part).__mro__ if "__call__" in vars(base)]
    parameters = [parameter for call in calls for parameter in list(inspect.signature(call).parameters.values())[2:]]
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    is_image = isinstance(part, Preprocessor) and part._part == "image_processor"
    return named | (set(setting_names(type(part))) if is_image else set())


def own_settings(cls: type, parts: Sequence[str]) -> list[str]:
    """Arguments of a class's constructor that are no parts."""
    parameters = inspect.signature(cls).parameters.values()
    named = (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return [name for name in named if name not in parts]
