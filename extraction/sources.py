"""Which image files a source means, and what each one is called."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias, Union

from vertebra.errors import listing

logger = logging.getLogger(__name__)

ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that count as images, in either case."""

_Path: TypeAlias = Union[str, "os.PathLike[str]"]
Source: TypeAlias = _Path | Sequence[_Path]
Found: TypeAlias = list[tuple[str, str]]
"""Ids and paths."""


class ImageFile(NamedTuple):
    """An image of a source: `id` is its path relative to the source, with forward slashes; `path` is where it lies."""

    id: str
    path: Path


def find_images(source: Source) -> list[ImageFile]:
    """Find the images of a source, sorted by id.

    Args:
        source: A folder (searched with its subfolders and the folders that links lead to; hidden files and folders are left
            out), a glob pattern such as `"photos/**/*.jpg"`, one image file, a `.txt` file with one path a line (relative to
            its folder), or a list of image files.

    Returns:
        At least one `ImageFile`. Ids are relative to the folder, to the part of the pattern before its first wildcard,
        or to the deepest folder that all listed files share.

    Raises:
        FileNotFoundError: the source or a listed file does not exist, or nothing in it is an image; says which endings
            count.
        PermissionError: a folder cannot be listed, so that what it holds is not known.
        ValueError: a file is listed twice, or has an ending that is no image's.
    """
    return [ImageFile(id_, Path(path)) for id_, path in find_paths(source)]


def find_paths(source: Source) -> Found:
    """As `find_images`, with paths as text: a million of them take seconds."""
    if not isinstance(source, (str, os.PathLike)):
        return _listed([Path(path).expanduser() for path in source], "the list")
    path = Path(source).expanduser()
    if path.is_dir():
        return _images(search(str(path), ["**"]), str(path), f"the folder {str(path)!r} and its subfolders")
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return _listed([path.parent / line.strip() for line in lines if line.strip()], f"the list {str(path)!r}")
    if path.is_file():
        return _listed([path], repr(str(path)))
    if glob.has_magic(str(path)):
        return _images(matching(str(path)), str(_fixed_part(path)), f"the files that match {str(path)!r}")
    raise FileNotFoundError(
        f"{str(path)!r} does not exist. A source is a folder, a pattern such as 'photos/**/*.jpg' (in quotes), an "
        f"image file, or a .txt file with one path a line."
    )


def matching(pattern: str) -> Iterator[str]:
    """Paths of the files that match a pattern, in any order, each once; as `search` does it.

    Raises:
        PermissionError: a folder cannot be listed.
    """
    root = _fixed_part(Path(pattern))
    return search("" if root == Path() else str(root), Path(pattern).parts[len(root.parts) :])


def search(root: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths of the files below a folder whose names match, one part of a pattern for each; `**` is any number of folders.

    As by Python's `glob`, a name that begins with a dot only matches a part that does. Unlike it, a link that leads back to a
    folder above it is not followed, and every folder is listed once, whatever the pattern.

    Raises:
        PermissionError: a folder cannot be listed.
    """
    pattern = _Pattern(parts)
    above: frozenset[tuple[int, int]] = frozenset()
    todo = [(root, pattern.begin, above)] if os.path.isdir(root or ".") else []  # noqa: PTH112
    while todo:
        folder, places, above = todo.pop()
        identity = _identity(folder)
        if identity in above:
            logger.warning("%s leads back to a folder that it lies in; that one is searched once.", folder)
            continue
        for path, reached, is_folder in _entries(folder, pattern, places):
            if not is_folder and pattern.end in reached:
                yield path
            elif is_folder and (further := reached - {pattern.end}):
                todo.append((path, further, above | {identity}))


class _Pattern:
    """A pattern as an automaton. A place is the number of parts that the folders down to here have matched."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = parts = [*parts, "*"] if parts[-1] == "**" else parts
        self.names = [re.compile(fnmatch.translate(part)) for part in parts]
        self.wild = frozenset(place for place, part in enumerate(parts) if glob.has_magic(part))
        self.end = len(parts)
        self.begin = self.closed({0})

    def closed(self, places: set[int]) -> frozenset[int]:
        """Places, and those that are reached from them since `**` may be no folder at all."""
        for place in sorted(places):
            while place < self.end and self.parts[place] == "**":
                place += 1
                places.add(place)
        return frozenset(places)

    def fixed(self, places: frozenset[int]) -> dict[str, frozenset[int]]:
        """What names without a wildcard lead to; they need not be listed to be found."""
        return {self.parts[place]: self.closed({place + 1}) for place in places - self.wild}

    def step(self, places: frozenset[int], name: str) -> frozenset[int]:
        """What a name leads to, from places whose parts have wildcards."""
        reached = set()
        for place in places:
            part = self.parts[place]
            if name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                reached.add(place)
            elif self.names[place].match(name):
                reached.add(place + 1)
        return self.closed(reached)


def _entries(folder: str, pattern: _Pattern, places: frozenset[int]) -> Iterator[tuple[str, frozenset[int], bool]]:
    """Paths in a folder that match, the places that they lead to, and whether they are folders."""
    fixed = pattern.fixed(places)
    wild = places & pattern.wild
    for entry in _listed_folder(folder) if wild else ():
        reached = pattern.step(wild, entry.name) | fixed.pop(entry.name, frozenset())
        if reached:
            yield entry.path if folder else entry.name, reached, _is_folder(entry)
    for name, reached in fixed.items():
        path = os.path.join(folder, name)  # noqa: PTH118
        if os.path.lexists(path):
            yield path, reached, os.path.isdir(path)  # noqa: PTH112


def _listed_folder(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            return list(entries)
    except PermissionError as error:
        raise PermissionError(
            f"The folder {folder!r} cannot be listed ({error.strerror}), so its images are not known. Make it readable, or "
            f"give a pattern that leaves it out."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it will say so
        return False


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder or ".")  # noqa: PTH116
    return found.st_dev, found.st_ino


def _images(paths: Iterable[str], root: str, where: str) -> Found:
    count, images = 0, []
    begin = len(os.path.join(root, "")) if root not in ("", ".") else 0  # noqa: PTH118
    for path in paths:
        count += 1
        if path.lower().endswith(ENDINGS):
            images.append((path[begin:].replace(os.sep, "/"), path))
    if not images:
        raise FileNotFoundError(
            f"No image among {where} ({count} files). Files count by their ending: {listing(ENDINGS)}."
        )
    return sorted(images)


def _listed(paths: list[Path], where: str) -> Found:
    if not paths:
        raise FileNotFoundError(f"No image in {where}: it is empty.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{where} names {str(path)!r}, which is not an existing file.")
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{where} names {str(path)!r}; images end in {listing(ENDINGS)}.")
    paths = [path.absolute() for path in paths]
    root = os.path.commonpath([path.parent for path in paths])
    images = sorted((Path(os.path.relpath(path, root)).as_posix(), str(path)) for path in paths)
    for before, after in pairwise(images):
        if before[0] == after[0]:
            raise ValueError(f"{where} names {after[1]!r} twice; every image has one record.")
    return images


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
