"""Folders with links: what they lead to is found once, loops end, nothing is left out in silence."""

import os
import tempfile
from pathlib import Path

import pytest
from tiny_store import jpegs

from vertebra.extraction.image_table import image_table
from vertebra.extraction.sources import find_images


def ids(source: object) -> list[str]:
    return [image.id for image in find_images(source)]  # type: ignore[arg-type]


def test_loops_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = jpegs(tmp_path / "photos", 1)
    jpegs(folder / "deep/er", 1)
    (folder / "deep/er/back").symlink_to(folder)
    (folder / "deep/self").symlink_to(folder / "deep")
    assert ids(folder) == ["0000.jpg", "deep/er/0000.jpg"]
    assert "deep/er/back leads back to a folder that it lies in; that one is searched once." in caplog.text
    (folder / "deep/self").unlink()
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
