"""Which image files a source means, and what each one is called."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
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
        return _images(_walk(str(path)), str(path), f"the folder {str(path)!r} and its subfolders")
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return _listed([path.parent / line.strip() for line in lines if line.strip()], f"the list {str(path)!r}")
    if path.is_file():
        return _listed([path], repr(str(path)))
    if glob.has_magic(str(path)):
        return _images(_matching(str(path)), str(_fixed_part(path)), f"the files that match {str(path)!r}")
    raise FileNotFoundError(
        f"{str(path)!r} does not exist. A source is a folder, a pattern such as 'photos/**/*.jpg' (in quotes), an "
        f"image file, or a .txt file with one path a line."
    )


def _walk(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of all files below a folder. A link that leads back to a folder above it is not followed."""
    identity = _identity(folder)
    if identity in above:
        logger.warning("%s leads back to a folder that it lies in; that one is searched once.", folder)
        return
    try:
        entries = list(os.scandir(folder))
    except PermissionError as error:
        raise PermissionError(
            f"The folder {folder!r} cannot be listed ({error.strerror}), so its images are not known. Make it readable, or "
            f"give a pattern that leaves it out."
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk(entry.path, above | {identity})
        else:
            yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it will say so
        return False


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _matching(pattern: str) -> Iterator[str]:
    """Files that match a pattern, but for those that are reached through a folder twice."""

    @cache
    def above(folder: str) -> frozenset[tuple[int, int]] | None:
        """What a folder and those it lies in are; None where one of them is there twice."""
        parent = os.path.dirname(folder)  # noqa: PTH120
        before = above(parent) if parent not in ("", folder) else frozenset()
        identity = _identity(folder or ".")
        return None if before is None or identity in before else before | {identity}

    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        if not os.path.isdir(path) and above(os.path.dirname(path)) is not None:  # noqa: PTH112, PTH120
            yield path


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
