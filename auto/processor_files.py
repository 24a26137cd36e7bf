"""The files of a processor: its parts from a checkpoint, and all of them into a folder at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vertebra.auto.processor_parts import TOKENIZER
from vertebra.change import FolderChange, changing
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles

Loaded = tuple[Any, set[str], list[str]]
"""A part, the arguments it took, and the names of those it knows."""


def load_parts(
    call: str, names: Sequence[str], files: CheckpointFiles, given: Mapping[str, Any], unused_are_right: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the parts of a checkpoint.

    Args:
        call: What errors call the call.
        names: Which parts.
        files: The checkpoint.
        given: Settings that win over the files'; each goes to all parts that have it.
        unused_are_right: Return what no part has a setting for instead of refusing it.

    Returns:
        The parts by name, and what of `given` none of them took.

    Raises:
        TypeError: an argument that no part has; and as the parts do.
    """
    parts, used, known = {}, set(), list[str]()
    for name in names:
        load = _load_tokenizer if name == TOKENIZER else _load_settings
        parts[name], taken, of_part = load(name, files, given)
        used |= taken
        known += of_part
    unused = {name: value for name, value in given.items() if name not in used}
    if unused and not unused_are_right:
        name = next(iter(unused))
        raise TypeError(
            f"{call} got {name!r}, which no part of it takes.{did_you_mean(name, known)} Its parts take "
            f"{listing(sorted(set(known)))}."
        )
    return parts, unused


def _load_tokenizer(name: str, files: CheckpointFiles, given: Mapping[str, Any]) -> Loaded:
    from vertebra.auto.tokenizers import AutoTokenizer
    from vertebra.text.tokenization.files import accepted

    how = {key: given[key] for key in ("use_fast", "tokenizer_type") if key in given}
    tokenizer = AutoTokenizer.from_pretrained(files, **how)
    known = {*accepted(type(tokenizer)), *tokenizer.init_kwargs}
    mine = {key: value for key, value in given.items() if key in known}
    if mine:
        tokenizer = AutoTokenizer.from_pretrained(files, **how, **mine)
    return tokenizer, {*how, *mine}, [*known, "use_fast", "tokenizer_type"]


def _load_settings(name: str, files: CheckpointFiles, given: Mapping[str, Any]) -> Loaded:
    from vertebra.auto.feature_extraction import AutoFeatureExtractor
    from vertebra.auto.vision import AutoImageProcessor
    from vertebra.preprocessor import constructor_names, setting_names

    auto: Any = AutoImageProcessor if name == "image_processor" else AutoFeatureExtractor
    part, unused = auto.from_pretrained(files, **given, return_unused_kwargs=True)
    return part, given.keys() - unused.keys(), [*setting_names(type(part)), *constructor_names(type(part))]


def save_parts(folder: Path, tokenizer: Any, processor_class: str, texts: Mapping[str, str]) -> list[str]:
    """Write a tokenizer and other files into a folder, all or none, and return their paths.

    Args:
        folder: An existing folder.
        tokenizer: The tokenizer, or None; its former files are removed where it has none of their names.
        processor_class: What its files say of the processor.
        texts: Content of the other files by name.
    """
    with TemporaryDirectory(prefix="vertebra-tokenizer-") as work, changing(folder) as change:
        names = [] if tokenizer is None else _add_tokenizer(change, tokenizer, processor_class, work)
        for name, text in texts.items():
            change.write_text(name, text)
    return [str(folder / name) for name in (*names, *texts)]


def _add_tokenizer(change: FolderChange, tokenizer: Any, processor_class: str, work: str) -> list[str]:
    from vertebra.text.tokenization.files import OURS

    named = copy.copy(tokenizer)
    named.processor_class = processor_class
    paths = [Path(path) for path in named.save_pretrained(work)]
    for path in paths:
        with change.write(path.name) as temporary:
            temporary.write_bytes(path.read_bytes())
    names = [path.name for path in paths]
    for stale in set(OURS) - set(names):
        change.remove(stale)
    return names
