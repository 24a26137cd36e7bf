"""Which images a source means, and what each one is called."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias, Union

from vertebra.errors import listing

ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that count as images, in either case."""

_Path: TypeAlias = Union[str, "os.PathLike[str]"]
Source: TypeAlias = _Path | Sequence[_Path]


class ImageFile(NamedTuple):
    """An image of a source: `id` is its path relative to the source, with forward slashes; `path` is where it lies."""

    id: str
    path: Path


def find_images(source: Source) -> list[ImageFile]:
    """Find the images of a source, sorted by id.

    Args:
        source: A folder (searched with its subfolders; hidden files and folders are left out), a glob pattern such as
            `"photos/**/*.jpg"`, one image file, a `.txt` file with one path a line (relative to its folder), or a list
            of image files.

    Returns:
        At least one `ImageFile`. Ids are relative to the folder, to the part of the pattern before its first wildcard,
        or to the deepest folder that all listed files share.

    Raises:
        FileNotFoundError: the source or a listed file does not exist, or nothing in it is an image; says which endings
            count.
        ValueError: a file is listed twice, or has an ending that is no image's.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _listed([Path(path).expanduser() for path in source], "the list")
    path = Path(source).expanduser()
    if path.is_dir():
        return _filtered(_walk(path), path, f"the folder {str(path)!r} and its subfolders")
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return _listed([path.parent / line.strip() for line in lines if line.strip()], f"the list {str(path)!r}")
    if path.is_file():
        return _listed([path], repr(str(path)))
    if glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        return _filtered(found, _fixed_part(path), f"the files that match {str(path)!r}")
    raise FileNotFoundError(
        f"{str(path)!r} does not exist. A source is a folder, a pattern such as 'photos/**/*.jpg' (in quotes), an "
        f"image file, or a .txt file with one path a line."
    )


def _walk(folder: Path) -> Iterable[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here) / name for name in files if not name.startswith("."))


def _filtered(paths: Iterable[Path], root: Path, where: str) -> list[ImageFile]:
    files = [path for path in paths if path.is_file()]
    images = [ImageFile(path.relative_to(root).as_posix(), path) for path in files if path.suffix.lower() in ENDINGS]
    if not images:
        raise FileNotFoundError(
            f"No image among {where} ({len(files)} files). Files count by their ending: {listing(ENDINGS)}."
        )
    return sorted(images)


def _listed(paths: list[Path], where: str) -> list[ImageFile]:
    if not paths:
        raise FileNotFoundError(f"No image in {where}: it is empty.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{where} names {str(path)!r}, which is not an existing file.")
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{where} names {str(path)!r}; images end in {listing(ENDINGS)}.")
    paths = [path.absolute() for path in paths]
    root = os.path.commonpath([path.parent for path in paths])
    images = sorted(ImageFile(Path(os.path.relpath(path, root)).as_posix(), path) for path in paths)
    for before, after in pairwise(images):
        if before.id == after.id:
            raise ValueError(f"{where} names {str(after.path)!r} twice; every image has one record.")
    return images


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
