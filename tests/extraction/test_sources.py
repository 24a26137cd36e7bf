"""Which files a source means."""

from pathlib import Path

import pytest

from vertebra.extraction.sources import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.webp", ".hidden.png", ".trash/d.png", "deep/x.csv"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def ids(source: object) -> list[str]:
    found = find_images(source)  # type: ignore[arg-type]
    assert all(image.path.is_file() for image in found)
    return [image.id for image in found]


def test_folder_is_searched_with_its_subfolders(folder: Path) -> None:
    assert ids(folder) == ids(str(folder)) == ["a.PNG", "b.jpg", "deep/er/c.webp"]


def test_pattern_gives_ids_below_its_fixed_part(folder: Path) -> None:
    assert ids(f"{folder}/**/*.*") == ["a.PNG", "b.jpg", "deep/er/c.webp"]
    assert ids(f"{folder}/deep/*/*") == ["er/c.webp"]
    assert ids(f"{folder}/?.jpg") == ["b.jpg"]


def test_relative_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert ids("*.jpg") == ["b.jpg"]
    assert ids("deep/**/*.webp") == ["er/c.webp"]


def test_folder_whose_name_looks_like_a_pattern(folder: Path) -> None:
    odd = folder.rename(folder.with_name("set [1]"))
    assert ids(odd) == ["a.PNG", "b.jpg", "deep/er/c.webp"]


def test_lists(folder: Path) -> None:
    paths = [folder / "deep/er/c.webp", folder / "b.jpg"]
    assert ids(paths) == ["b.jpg", "deep/er/c.webp"]
    (folder / "list.txt").write_text("deep/er/c.webp\n\n b.jpg \n")
    assert ids(folder / "list.txt") == ["b.jpg", "deep/er/c.webp"]
    assert ids(folder / "b.jpg") == ["b.jpg"]


def test_nothing_found_says_where_and_what_counts(folder: Path) -> None:
    for source, where in ((folder / "deep/er", "folder"), (f"{folder}/*.csv", "match")):
        if source == folder / "deep/er":
            (folder / "deep/er/c.webp").rename(folder / "deep/er/c.pdf")
        with pytest.raises(FileNotFoundError, match=rf"No image among .*{where}.*\.jpg, \.png") as caught:
            find_images(source)
        assert str(folder) in str(caught.value)


def test_bad_sources(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'/no/where' does not exist\. A source is a folder, a pattern"):
        find_images("/no/where")
    with pytest.raises(FileNotFoundError, match="it is empty"):
        find_images([])
    with pytest.raises(FileNotFoundError, match=r"names '.*gone\.jpg', which is not an existing file"):
        find_images([folder / "gone.jpg"])
    with pytest.raises(ValueError, match=r"x\.csv'; images end in \.avif"):
        find_images([folder / "deep/x.csv"])
    with pytest.raises(ValueError, match=r"b\.jpg' twice"):
        find_images([folder / "b.jpg", folder / "b.jpg"])
