"""Sources of images as tables: what is found, what it is called, what is refused."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet
from tiny_store import jpeg, jpegs

from vertebra.extraction.image_table import ImageTable, image_table
from vertebra.extraction.images import ImageRef, read_uri


def rows(found: ImageTable) -> list[tuple[str, str]]:
    return list(zip(found.table["id"].to_pylist(), found.table["uri"].to_pylist(), strict=True))


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """As webdataset writes it: an image and its label by turns."""
    with tarfile.open(tmp_path / "train-0000.tar", "w") as file:
        for index in range(3):
            for name, data in ((f"{index:04d}.jpg", jpeg(index)), (f"{index:04d}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return tmp_path / "train-0000.tar"


def test_folder(tmp_path: Path) -> None:
    folder = jpegs(tmp_path / "a#b://c", 3)
    found = image_table(folder)
    assert rows(found) == [(f"{i:04d}.jpg", str(folder / f"{i:04d}.jpg")) for i in range(3)]
    assert [read_uri(uri) for _, uri in rows(found)] == [jpeg(i) for i in range(3)]
    assert found.source == str(folder)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123
        file.write(jpeg(0))
    ((id_, uri),) = rows(image_table(tmp_path))
    assert id_ == r"caf\xe9.jpg"
    assert uri == f"file://{tmp_path}/caf%E9.jpg"
    assert read_uri(uri) == jpeg(0)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables(tmp_path: Path, ending: str) -> None:
    jpegs(tmp_path / "photos", 2)
    ids = ["007", "../../x", 'line\nbreak, "quoted"', "über/☃"]
    uris = ["photos/0000.jpg", str(tmp_path / "photos/0001.jpg"), "s3://bucket/key", "photos/gone.jpg"]
    table = pa.table({"label": ["a", "b", "c", "d"], "uri": uris, "id": ids})
    write: Any = csv.write_csv if ending == "csv" else parquet.write_table
    write(table, tmp_path / f"list.{ending}")
    expected = [str(tmp_path / "photos/0000.jpg"), uris[1], uris[2], str(tmp_path / "photos/gone.jpg")]
    assert rows(image_table(tmp_path / f"list.{ending}")) == list(zip(ids, expected, strict=True))


def test_numbers_are_ids(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [7, 12], "uri": ["/a", "/b"]}), tmp_path / "list.parquet")
    assert rows(image_table(tmp_path / "list.parquet")) == [("7", "/a"), ("12", "/b")]


def test_tar(tar: Path) -> None:
    found = image_table(tar)
    assert [id_ for id_, _ in rows(found)] == [f"train-0000.tar/{i:04d}.jpg" for i in range(3)]
    assert [read_uri(uri) for _, uri in rows(found)] == [jpeg(i) for i in range(3)]


def test_pattern_of_tars(tar: Path) -> None:
    tar.with_name("train-0001.tar").write_bytes(tar.read_bytes())
    found = image_table(str(tar.with_name("train-*.tar")))
    assert len(found) == 6
    assert rows(found) == rows(image_table([tar, tar.with_name("train-0001.tar")]))
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"train-0000\.tar' ends before byte .*; the tar file was cut or replaced"):
        read_uri(rows(found)[2][1])


def test_tars_that_cannot_be_used(tar: Path) -> None:
    with tarfile.open(tar.with_name("packed.tar"), "w:gz") as file:
        file.add(tar, "x.jpg")
    with pytest.raises(
        ValueError, match=r"packed\.tar' cannot be read as a tar file.*must be whole and not compressed"
    ):
        image_table(tar.with_name("packed.tar"))
    with tarfile.open(tar.with_name("labels.tar"), "w") as file:
        file.add(tar, "x.cls")
    with pytest.raises(FileNotFoundError, match=r"No image in '.*labels\.tar' \(1 tar files\)\. Members count by"):
        image_table(tar.with_name("labels.tar"))
    with pytest.raises(FileNotFoundError, match=r"No image in '.*gone\.tar' \(0 tar files\)"):
        image_table(tar.with_name("gone.tar"))


def test_images_in_memory(tmp_path: Path) -> None:
    array, picture = np.zeros((4, 6, 3), np.uint8), Image.new("RGB", (6, 4))
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    found = image_table([("array", array), ("picture", picture), ("bytes", jpeg(1)), ("path", tmp_path / "x.jpg")])
    assert rows(found) == [
        ("array", "memory:"),
        ("picture", "memory:"),
        ("bytes", "memory:"),
        ("path", str(tmp_path / "x.jpg")),
    ]
    assert found.images == {"array": array, "picture": picture, "bytes": jpeg(1)}
    made = {"a": array, "b": picture}
    assert rows(image_table(made)) == [("a", "memory:"), ("b", "memory:")]
    assert image_table(made).images is made


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([("a", "/x"), ("b", "/y"), ("a", "/z")], "names 'a' twice; every id has one record. 1 of 3 ids are repeats"),
        ([("", "/x")], r"The image in row 0 \(counted from 0\) of a list of 1 images has an empty id"),
        ([("x", "/x"), ("y" * 70_000, "/y")], r"The id in row 1 .* has 70000 bytes, more than the 65,536 that"),
        ([("a", "/x"), "b"], r"Item 1 of the source is 'b'; give pairs \(id, image\), the id as text"),
        ([(7, "/x")], r"Item 0 of the source is \(7, '/x'\); give pairs"),
        ({7: b""}, "The id 7 is a int; ids are text"),
        ([("a\udcff", "/x")], r"The id 'a\\udcff' is no text that UTF-8 can hold"),
    ],
)
def test_ids_that_cannot_be_used(source: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        image_table(source)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    for name, content, text in (
        ("names.csv", "name,path\na,b\n", r"names\.csv' has the columns name, path; it needs 'id' .* and 'uri'"),
        ("ragged.csv", "id,uri\na,b,c\n", r"ragged\.csv' cannot be read as CSV"),
        ("empty.csv", "", r"empty\.csv' cannot be read as CSV"),
        ("junk.parquet", "junk", r"junk\.parquet' cannot be read as Parquet"),
        ("hole.csv", "id,uri\na,b\nc,\n", r"The image in row 1 \(counted from 0\) of .*hole\.csv has an empty uri"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=text):
            image_table(tmp_path / name)
    parquet.write_table(pa.table({"id": ["a", None], "uri": ["b", "c"]}), tmp_path / "null.parquet")
    with pytest.raises(ValueError, match=r"null\.parquet' has no id in row 1 \(counted from 0\)"):
        image_table(tmp_path / "null.parquet")
    parquet.write_table(pa.table({"id": [[1]], "uri": ["b"]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"list\.parquet' has an id column of list<.*>; ids are text or whole numbers"):
        image_table(tmp_path / "list.parquet")
    (tmp_path / "none.csv").write_text("id,uri\n")
    with pytest.raises(FileNotFoundError, match=r"No image in .*none\.csv: it is empty"):
        image_table(tmp_path / "none.csv")


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(bytes(100))
    assert len(read_uri(str(tmp_path / "x.jpg"), 100)) == 100
    with pytest.raises(ValueError, match=r"The file has 100 bytes or more, and max_bytes=99 are allowed"):
        read_uri(str(tmp_path / "x.jpg"), 99)
    with pytest.raises(OSError, match="is not a regular file"):
        read_uri(str(tmp_path))
    with pytest.raises(OSError, match="is not a regular file"):
        read_uri("/dev/zero")
    with pytest.raises(ValueError, match=r"does not say which bytes: write tar://PATH#offset=512,size=1024"):
        read_uri(f"tar://{tmp_path}/x.tar")
    import fsspec

    with fsspec.open("memory://photos/x.jpg", "wb") as file:
        file.write(jpeg(3))
    assert read_uri("memory://photos/x.jpg") == jpeg(3)
    with pytest.raises(FileNotFoundError):
        read_uri("memory://photos/gone.jpg")
    assert ImageRef("x", "y") == ("x", "y", 0)
