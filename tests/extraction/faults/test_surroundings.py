"""A full disk, folders that may not be read or written, Ctrl-C: a clear word, nothing half-written, and then it goes on."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_runs import Job, Store, obey_permissions, wait_until
from tiny_store import jpegs


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 files, two shards of them. Tests do not write into it."""
    return jpegs(tmp_path_factory.mktemp("few") / "photos", 40)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


def fill(disk: Path, but: int) -> Path:
    """Leave only some bytes free, also while another process writes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while (free := shutil.disk_usage(disk).free) > but:
            file.write(bytes(free - but))
    assert shutil.disk_usage(disk).free <= but
    return ballast


def test_the_disk_becomes_full(small_disk: Path, images: Path, model: Path, undisturbed: Store, tmp_path: Path) -> None:
    job = Job(images, model, small_disk / "out", ("--engine", "inline"), log=tmp_path / "log")
    for free, said in (
        (0, f"The disk of '{job.out}' is full"),
        (2**16, "The maps need about "),
    ):
        ballast = fill(small_disk, free)
        assert job.run() == 1, job.said
        assert said in job.said
        assert not temporary(small_disk)
    ballast.unlink()
    job.log.unlink()
    job.options = ("--workers", "2")
    try:
        job.start()
        wait_until(lambda: job.done() > 10 or not job.is_running, "the tenth shard")
        fill(small_disk, 0)
        assert job.finish() == 1, job.said
    finally:
        job.end()
    assert (
        f"error: [Errno 28] The disk of '{job.out}' is full. What is done stays; free space, and the same" in job.said
    )
    assert "Traceback" not in job.said
    assert not temporary(small_disk)
    before = job.shards()
    assert 10 < len(before) < 100
    ballast.unlink()
    job.options = ("--engine", "inline")
    assert job.run() == 3, job.said
    assert before.items() <= job.shards().items()
    job.check(undisturbed)


def no_large_files() -> None:
    """As a quota of 12 KiB a file; for `Job.before`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 1024, 12 * 1024))


def test_files_may_not_be_as_large(few: Path, model: Path, tmp_path: Path) -> None:
    job = Job(few, model, tmp_path / "out", ("--engine", "inline"), before=no_large_files)
    assert job.run() == 1, job.said
    assert "error: " in job.said
    assert "File too large" in job.said
    assert not temporary(job.out)
    assert not job.shards()
    job.before = None
    assert job.run() == 0, job.said


def test_a_folder_that_may_not_be_written(few: Path, model: Path, tmp_path: Path) -> None:
    parent = tmp_path / "locked"
    parent.mkdir()
    parent.chmod(0o555)
    job = Job(few, model, parent / "out", ("--engine", "inline"), obey_permissions, tmp_path / "log")
    try:
        assert job.run() == 1
        assert "Permission denied" in job.said
        assert str(parent / "out") in job.said
        assert "Traceback" not in job.said
        assert not job.out.exists()
    finally:
        parent.chmod(0o755)
    assert job.run() == 0, job.said
    whole, (first, *_) = job.files(), sorted(job.shards())
    (job.out / "shards" / first).unlink()
    before = job.files()
    for folder in (job.out / "shards", job.out):
        folder.chmod(0o555)
    job.log.unlink()
    try:
        assert job.run() == 1
        assert "Permission denied" in job.said
        assert "Traceback" not in job.said
        assert job.files() == before
    finally:
        for folder in (job.out, job.out / "shards"):
            folder.chmod(0o755)
    assert job.run() == 0, job.said
    assert job.files() == whole


def test_images_that_may_not_be_read(few: Path, model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    (photos / "0007.jpg").chmod(0)
    job = Job(photos, model, tmp_path / "out", ("--engine", "inline"), before=obey_permissions)
    assert job.run() == 3, job.said
    assert "failed: 0007.jpg: PermissionError: [Errno 13] Permission denied: '0007.jpg'" in job.said
    (photos / "locked").mkdir(0)
    other = Job(photos, model, tmp_path / "other", ("--engine", "inline"), before=obey_permissions)
    assert other.run() == 1
    assert "locked' cannot be listed (Permission denied), so its images are not known" in other.said
    assert not other.out.exists()


def test_an_image_is_deleted_after_planning(few: Path, model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(few, photos)
    job = Job(photos, model, tmp_path / "out", ("--engine", "inline", "--shard-index", "0", "--shard-count", "2"))
    assert job.run() == 0, job.said
    before = job.shards()
    (photos / "0000.jpg").unlink()  # in a shard that is there
    (photos / "0030.jpg").unlink()  # in one that is not
    job.options = ("--engine", "inline")
    assert job.run() == 3, job.said
    assert before.items() < job.shards().items()
    assert "failed: 0030.jpg: FileNotFoundError: [Errno 2] No such file or directory: '0030.jpg'" in job.said
    assert "39 of 40 images" in job.said


def test_ctrl_c(images: Path, model: Path, undisturbed: Store, tmp_path: Path) -> None:
    job = Job(images, model, tmp_path / "out")
    try:
        job.start()
        wait_until(lambda: job.done() > 5 or not job.is_running, "the fifth shard")
        os.killpg(job.process.pid, signal.SIGINT)  # as a terminal does, to all of them
        assert job.finish() == 130, job.said
    finally:
        job.end()
    assert job.said.endswith("interrupted; what is done stays, and the same command goes on\n")
    assert "Traceback" not in job.said
    assert not temporary(job.out)
    before = job.shards()
    assert 5 < len(before) < 100
    job.options = ("--engine", "inline")  # one start of processes less; in `test_kills` the very same command goes on
    assert job.run() == 3, job.said
    assert before.items() <= job.shards().items()
    job.check(undisturbed)
