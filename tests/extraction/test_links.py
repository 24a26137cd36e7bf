"""Folders with links: what they lead to is found once, loops end, nothing is left out in silence."""

import glob
import os
import random
import subprocess
import tempfile
from pathlib import Path

import pytest
from tiny_store import jpegs

from vertebra.extraction.image_table import image_table
from vertebra.extraction.sources import find_images, matching


def ids(source: object) -> list[str]:
    return [image.id for image in find_images(source)]  # type: ignore[arg-type]


def test_loops_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = jpegs(tmp_path / "photos", 1)
    jpegs(folder / "deep/er", 1)
    (folder / "deep/er/back").symlink_to(folder)
    (folder / "deep/self").symlink_to(folder / "deep")
    assert ids(folder) == ["0000.jpg", "deep/er/0000.jpg"]
    assert "deep/er/back leads back to a folder that it lies in; that one is searched once." in caplog.text
    assert ids(f"{folder}/**/*.jpg") == ["0000.jpg", "deep/er/0000.jpg"]


def test_links_are_followed(tmp_path: Path) -> None:
    folder = jpegs(tmp_path / "photos", 1)
    jpegs(tmp_path / "elsewhere", 2)
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "one.jpg").symlink_to(tmp_path / "elsewhere/0001.jpg")
    expected = ["0000.jpg", "a/0000.jpg", "a/0001.jpg", "b/0000.jpg", "b/0001.jpg", "one.jpg"]
    assert ids(folder) == expected
    assert ids(f"{folder}/**/*.jpg") == expected


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    """They are images by name; why they cannot be read is said when they are."""
    folder = jpegs(tmp_path / "photos", 1)
    (folder / "gone.jpg").symlink_to(tmp_path / "gone")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    assert ids(folder) == ["0000.jpg", "gone.jpg", "self.jpg"]


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    folder = jpegs(tmp_path / "photos", 1)
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0)
    for above in (folder, *folder.parents):
        if above == Path(tempfile.gettempdir()):
            break
        above.chmod(0o755)
    before = os.geteuid()
    try:
        os.seteuid(before or 65534)  # root may list all
        with pytest.raises(
            PermissionError, match=r"cannot be listed \(Permission denied\), so its images are not known"
        ):
            image_table(folder)
    finally:
        os.seteuid(before)
        (folder / "locked").chmod(0o755)


NAMES = ("a", "b", "ab", "a.jpg", "b.jpg", "B.jpg", ".h", ".h.jpg", "x[1].jpg", "[", "c.png", "é.jpg", "**")
PARTS = (
    "**",
    "*",
    "a",
    "?",
    "a*",
    "*.jpg",
    ".*",
    ".h",
    "[ab]",
    "[!a]*",
    "b.jpg",
    "x[[]1].jpg",
    "**.jpg",
    "a**",
    "[",
    "gone",
)


def grow(folder: Path, rng: random.Random, depth: int = 0) -> None:
    """Random folders and files; those names that end as files do may be folders, and the other way round."""
    folder.mkdir()
    for name in rng.sample(NAMES, rng.randint(0, 6)):
        if rng.random() < 0.5 and depth < 3:
            grow(folder / name, rng, depth + 1)
        else:
            (folder / name).touch()


@pytest.mark.parametrize("seed", range(20))
def test_patterns_are_those_of_glob(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    grow(tmp_path / "root", rng)
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    grow(tmp_path / "elsewhere", rng)
    monkeypatch.chdir(tmp_path / "root")
    for _ in range(100):
        parts = rng.choices(PARTS, k=rng.randint(1, 4))
        pattern = os.path.join(rng.choice(["", str(tmp_path / "root"), "link"]), *parts)  # noqa: PTH118
        if glob.has_magic(pattern):
            expected = {path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path)}  # noqa: PTH112, PTH207
            expected -= {path for path in expected if path.endswith("/")}  # what it makes of `file/**`
            found = list(matching(pattern))
            assert sorted(found) == sorted(expected), pattern


def test_many_loops_end(tmp_path: Path) -> None:
    """Each of five folders has a link to the one above; by glob that is 5 to the power of 40 names."""
    folder = jpegs(tmp_path / "photos", 1)
    for name in "abcde":
        jpegs(folder / name, 1)
        for link in "xyz":
            (folder / name / link).symlink_to(folder)
    expected = ["0000.jpg", *(f"{name}/0000.jpg" for name in "abcde")]
    assert ids(f"{folder}/**/*.jpg") == ids(f"{folder}/**/**/*") == ids(folder) == expected


def test_deep_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than Python nests calls."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        Path("d").mkdir()
        os.chdir("d")
    Path("x.jpg").touch()
    os.chdir(tmp_path)
    try:
        assert ids("d") == ["d/" * 1499 + "x.jpg"]
        assert ids("**/*.jpg") == ["d/" * 1500 + "x.jpg"]
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # shutil.rmtree nests calls
