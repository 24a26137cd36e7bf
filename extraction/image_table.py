"""Any source of images as one table of ids and uris, checked: what a plan is made of."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from vertebra.errors import listing
from vertebra.extraction.images import MEMORY, path_to_uri, tar_uri
from vertebra.extraction.sources import ENDINGS, find_paths, matching

if TYPE_CHECKING:
    import pyarrow as pa

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", Iterable[Any], Mapping[str, Any]]
TABLES = (".csv", ".parquet")
MAX_ID = 2**16
"""Bytes that an id may have."""


@dataclass(frozen=True)
class ImageTable:
    """The images of a source.

    Args:
        table: Columns `id` and `uri`, both strings, in the order of the source. Every id is there once.
        images: Images by id, where the source holds them in memory.
        source: What the source was, in words.
    """

    table: pa.Table
    images: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return int(self.table.num_rows)


def image_table(source: ImageSource | ImageTable) -> ImageTable:
    """Find the images of a source, without opening one; a table that was made before is returned as it is.

    Args:
        source: What `find_images` takes (a folder, a pattern, an image, a `.txt` list, a list of files; ids are relative paths);
            a `.csv` or `.parquet` file with the columns `id` and `uri` (relative uris count from its folder); a `.tar` file
            or a pattern of such, as webdataset writes them (ids are `TAR/MEMBER`); an iterable of `(id, image)`, or a mapping
            of id to image, where an image is a path, a uri, encoded bytes, a PIL image, an array or a tensor. A mapping is
            asked for an image when its turn comes, so it can make it then.

    Raises:
        FileNotFoundError: the source does not exist or holds no image.
        ValueError: an id is there twice, is empty, or is longer than `MAX_ID` bytes; a table lacks a column or a value.
        PermissionError: a folder cannot be listed.
    """
    if isinstance(source, ImageTable):
        return source
    found = _read(source)
    _check(found)
    return found


def _read(source: ImageSource) -> ImageTable:
    if isinstance(source, Mapping):
        return _mapped(source, f"a mapping of {len(source)} images")
    if not isinstance(source, (str, os.PathLike)):
        items = list(source)
        if items and isinstance(items[0], tuple):
            return _paired(items)
        if not items or not all(Path(item).suffix == ".tar" for item in items):
            return _files(items, "a list of files")
        return _tars([Path(item).expanduser() for item in items], "the list")
    path = Path(source).expanduser()
    if path.suffix.lower() in TABLES and path.is_file():
        return _table_file(path)
    if path.suffix == ".tar":
        tars = [path] if path.exists() else sorted(map(Path, matching(str(path))))
        return _tars(tars, repr(str(path)))
    return _files(source, str(source))


def _files(source: Any, name: str) -> ImageTable:
    files = find_paths(source)
    ids = [_text(id_) for id_, _ in files]
    return ImageTable(_columns(ids, [path_to_uri(str(Path(path).absolute())) for _, path in files]), source=name)


def _text(path: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become escapes such as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _columns(ids: Any, uris: Any) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.table({"id": pa.array(ids, pa.large_string()), "uri": pa.array(uris, pa.large_string())})
    except UnicodeEncodeError as error:
        wrong = next(id_ for id_ in ids if id_ != id_.encode("utf-8", "replace").decode())
        raise ValueError(f"The id {wrong!r} is no text that UTF-8 can hold; give it another id.") from error


def _mapped(images: Mapping[str, Any], source: str) -> ImageTable:
    ids = list(images)
    for id_ in ids:
        if not isinstance(id_, str):
            raise ValueError(f"The id {id_!r} is a {type(id_).__name__}; ids are text.")
    return ImageTable(_columns(ids, [MEMORY] * len(ids)), images, source)


def _paired(items: list[Any]) -> ImageTable:
    for index, item in enumerate(items):
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise ValueError(f"Item {index} of the source is {item!r:.80}; give pairs (id, image), the id as text.")
    located = [isinstance(image, (str, os.PathLike)) for _, image in items]
    ids = [id_ for id_, _ in items]
    uris = [
        _located(os.fspath(image)) if is_path else MEMORY for (_, image), is_path in zip(items, located, strict=True)
    ]
    images = {id_: image for (id_, image), is_path in zip(items, located, strict=True) if not is_path}
    return ImageTable(_columns(ids, uris), images, f"a list of {len(ids)} images")


def _located(uri: str) -> str:
    return uri if "://" in uri else path_to_uri(str(Path(uri).expanduser().absolute()))


def _table_file(path: Path) -> ImageTable:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
    for name in ("id", "uri"):
        column = table[name]
        if not (
            pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_integer(column.type)
        ):
            raise ValueError(
                f"{str(path)!r} has an {name} column of {column.type}; ids are text or whole numbers, uris text."
            )
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise ValueError(f"{str(path)!r} has no {name} in row {row} (counted from 0); every image needs both.")
    uris = table["uri"].cast(pa.large_string())
    _refuse_empty(uris, "uri", str(path))
    folder = pa.scalar(f"{path.parent.absolute()}{os.sep}", pa.large_string())
    whole = pc.match_substring_regex(uris, r"^(/|[A-Za-z][A-Za-z0-9+.-]*:)")
    uris = pc.if_else(whole, uris, pc.binary_join_element_wise(folder, uris, pa.scalar("", pa.large_string())))
    return ImageTable(pa.table({"id": table["id"].cast(pa.large_string()), "uri": uris}), source=str(path))


def _csv(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    text = {"id": pa.large_string(), "uri": pa.large_string()}
    convert = csv.ConvertOptions(column_types=text, strings_can_be_null=False)
    try:
        table = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} cannot be read as CSV: {error}") from error
    _check_columns(path, table.column_names)
    return table.select(["id", "uri"])


def _parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names)
        return file.read(columns=["id", "uri"])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def _check_columns(path: Path, names: list[str]) -> None:
    if not {"id", "uri"} <= set(names):
        raise ValueError(
            f"{str(path)!r} has the columns {listing(names)}; it needs 'id' (what the image is called) and 'uri' (its path "
            f"or address)."
        )


def _tars(paths: list[Path], where: str) -> ImageTable:
    ids, uris = [], []
    root = os.path.commonpath([path.absolute().parent for path in paths]) if paths else ""
    for path in paths:
        name = _text(os.path.relpath(path.absolute(), root)).replace(os.sep, "/")
        for member, offset, size in _members(path):
            ids.append(f"{name}/{_text(member)}")
            uris.append(tar_uri(str(path.absolute()), offset, size))
    if not ids:
        raise FileNotFoundError(
            f"No image in {where} ({len(paths)} tar files). Members count by their ending: {listing(ENDINGS)}."
        )
    return ImageTable(_columns(ids, uris), source=where)


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each image in a tar file."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and Path(member.name).suffix.lower() in ENDINGS:
                    yield member.name, member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined]  # else every member stays in memory
    except tarfile.TarError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a tar file: {error}. It must be whole and not compressed, since images are read "
            f"from their place in it."
        ) from error


def _check(found: ImageTable) -> None:
    import pyarrow.compute as pc

    ids = found.table["id"]
    if not len(found):
        raise FileNotFoundError(f"No image in {found.source}: it is empty.")
    _refuse_empty(ids, "id", found.source)
    lengths = pc.binary_length(ids)
    if pc.max(lengths).as_py() > MAX_ID:
        row = pc.index(pc.greater(lengths, MAX_ID), True).as_py()
        raise ValueError(
            f"The id in row {row} (counted from 0) of {found.source} has {lengths[row]} bytes, more than the {MAX_ID:,} "
            f"that an id may have: {ids[row].as_py()[:60]!r}…"
        )
    repeats = len(found) - pc.count_distinct(ids).as_py()
    if repeats:
        ordered = pc.take(ids, pc.sort_indices(ids)).combine_chunks()
        example = ordered[pc.index(pc.equal(ordered[1:], ordered[:-1]), True).as_py()].as_py()
        raise ValueError(
            f"{found.source} names {example!r} twice; every id has one record. {repeats} of {len(found)} ids are repeats: "
            f"leave them out, or give them ids of their own."
        )


def _refuse_empty(column: pa.ChunkedArray, name: str, source: str) -> None:
    import pyarrow.compute as pc

    empty = pc.index(pc.equal(pc.binary_length(column), 0), True).as_py()
    if empty >= 0:
        raise ValueError(f"The image in row {empty} (counted from 0) of {source} has an empty {name}.")
