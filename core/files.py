"""Files that are never half-written and paths that never leave their folder."""

from __future__ import annotations

import errno
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CANNOT = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems answer that can neither sync nor lock a folder (SMB, NFS, some of FUSE), or do not let it be opened."""


def sync_folder(folder: Path) -> None:
    """Make the renames done in `folder` survive a power loss, where the file system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Let one thread of one process at a time into the body; yields whether the file system can do that."""
    descriptor = _lock(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _unlock(descriptor)


def _lock(folder: Path) -> int | None:
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if error.errno not in CANNOT:
            raise
        return None
    return descriptor


def _unlock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a process forked meanwhile has it open as well
    os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power loss."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def new_file(folder: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """Yield the path of a new file `<prefix>…<suffix>`; on success it is fsynced, on error removed.

    It has the permissions of any new file in the folder, whatever the body puts in its place.
    """
    path = folder / f"{prefix}{uuid.uuid4().hex[:12]}{suffix}"
    try:
        path.touch(exist_ok=False)
        mode = path.stat().st_mode
        yield path
        if path.stat().st_mode != mode:  # safetensors puts a private file there
            path.chmod(mode)
        sync_file(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(target: str | os.PathLike[str], prefix: str | None = None, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is fsynced and renamed to `target`, on error removed.

    Args:
        target: The file.
        prefix: How the temporary name begins; `.<name>.` when None.
        new: Do not replace a file that is there.

    Raises:
        FileExistsError: `new`, and there is one.
    """
    target = Path(target)
    with new_file(target.parent, prefix or f".{target.name}.", ".tmp") as temporary:
        yield temporary
    try:
        if not (new and _link(temporary, target)):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, which nobody else can give one at the same time; False where there are no such links."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise FileExistsError(f"{str(target)!r} exists already.") from None
    except OSError as error:
        if error.errno not in {*CANNOT, errno.EPERM, errno.EMLINK}:
            raise
        if target.exists():
            raise FileExistsError(f"{str(target)!r} exists already.") from None
        return False
    return True


def write_text(target: str | os.PathLike[str], text: str, prefix: str | None = None) -> None:
    """Write `text` (UTF-8) to `target` atomically: a reader sees the old file or the new one, never a part."""
    with atomic_path(target, prefix) as temporary:
        temporary.write_text(text, encoding="utf-8")


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Return `folder / name`.

    Raises:
        ValueError: `name` is absolute or leads out of `folder`.
    """
    folder = Path(folder)
    relative = Path(os.path.normpath(name))
    if relative.is_absolute() or relative.parts[:1] == ("..",):
        raise ValueError(
            f"{name!r} leads out of its folder {str(folder)!r}; file names in a checkpoint are relative to it."
        )
    return folder / relative
