"""Files of a folder that change together: a reader sees all of the old ones or all of the new ones.

No file system renames two files at once, so the change has a journal. Every new file is written under a temporary name
and fsynced; then `.vertebra-save.json`, which says what goes where, appears by one rename. That rename is the moment of
change: a kill before it leaves the old files, a kill after it leaves the new ones, which `current` finds under their
temporary names until the next change into the folder moves them. Where one file alone changes, its own rename is the
moment, and there is no journal.

Readers that do not know the journal (transformers) see the old or the new files as well, except between the first and
the last of the renames that follow it: some milliseconds in which nothing is written. After a kill just there they read
a mixture until vertebra saves into the folder again.

Changes take turns: the folder is locked meanwhile. Readers do not wait. One that reads several files while a change is
committed may find the first old and the next new, or gone: load again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vertebra.files import alone, inside, new_file, sync_folder, write_text

logger = logging.getLogger("vertebra")
JOURNAL = ".vertebra-save.json"
NEW = ".vertebra-new-"
"""How the temporary names begin."""
INTACT = "What was there before is intact."
State = tuple[int, int] | None
"""Size in bytes and time of the last change in nanoseconds; None for a file that does not exist."""


class Step(NamedTuple):
    """What happens to one file: `new` (a temporary name; None removes it) takes the place of what is in state `was`."""

    new: str | None
    was: State


class FolderChange:
    """Collects new files for a folder; `commit` puts all of them in place.

    Args:
        folder: An existing folder. A change that was interrupted there is finished first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, Step] = {}
        _finish(folder)

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Yield a temporary path for the new content of `name`.

        Raises:
            OSError: it cannot be written, e.g. on a full disk; nothing has changed then.
        """
        if (self.folder / name).is_dir():
            raise IsADirectoryError(f"{_unwritable(self.folder / name)}: there is a folder of this name. {INTACT}")
        try:
            with new_file(self.folder, NEW, f"-{name}") as temporary:
                yield temporary
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, f"{_unwritable(self.folder / name)}: {error.strerror}. {INTACT}") from error
        self._add(name, temporary.name)

    def write_text(self, name: str, text: str) -> None:
        """Give `name` the content `text` (UTF-8); nothing is to do where it has that already."""
        target = self.folder / name
        if not (target.is_file() and target.read_bytes() == text.encode()):
            with self.write(name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")

    def remove(self, name: str) -> None:
        """Remove `name` where it exists."""
        if (self.folder / name).exists():
            self._add(name, None)

    def commit(self) -> None:
        """Put the new files in place; from here on they are found, whatever happens."""
        try:
            if len(self.steps) > 1:
                sync_folder(self.folder)  # the journal must not be durable before what it names
                steps = {name: {"new": step.new, "was": step.was} for name, step in self.steps.items()}
                write_text(self.folder / JOURNAL, json.dumps({"files": steps}, indent=1), prefix=f"{NEW}-{JOURNAL}.")
        except BaseException as error:
            if (self.folder / JOURNAL).exists():
                raise  # the moment has passed, and the new files are found by it
            self.discard()
            if isinstance(error, OSError):
                raise OSError(error.errno, f"{_unwritable(self.folder)}: {error.strerror}. {INTACT}") from error
            raise
        _apply(self.folder, self.steps)

    def discard(self) -> None:
        """Remove the temporary files; the folder stays as it was."""
        for step in self.steps.values():
            if step.new is not None:
                (self.folder / step.new).unlink(missing_ok=True)

    def _add(self, name: str, new: str | None) -> None:
        self.steps[name] = Step(new, _state(self.folder / name))


@contextmanager
def changing(folder: Path) -> Iterator[FolderChange]:
    """Yield a `FolderChange` that is committed at the end, or discarded on an error; another one waits for its end."""
    with alone(folder) as is_alone:
        change = FolderChange(folder)
        if is_alone:  # what has a temporary name now is of nobody who lives
            for left in folder.glob(f"{NEW}*"):
                left.unlink(missing_ok=True)
        try:
            yield change
        except BaseException:
            change.discard()
            raise
        change.commit()


def current(folder: Path, name: str) -> Path | None:
    """Return where the content of `name` is: in its place, or under a temporary name after an interrupted change.

    None where there is no such file.

    Raises:
        ValueError: `name` leads out of `folder`, or the journal is damaged.
        OSError: something else wrote to a file that an interrupted change was about to replace.
    """
    path = inside(folder, name)
    step = _journal(folder).get(name)
    state = None if step is None else _state(path)  # before a look at the new file, which may be moved here just now
    if step is None or (step.new is not None and not (folder / step.new).is_file()):  # moved to its place already
        return path if path.is_file() else None
    if state is None and step.new is None:
        return None
    if state != step.was:
        raise OSError(
            f"A save into {str(folder)!r} was interrupted, and {name!r} has changed since (a copy of the folder changes "
            f"it as well, if it does not keep times). Save again; or remove {JOURNAL!r} there to take the files as they "
            f"lie, which may be of two saves."
        )
    _tell(folder)
    return None if step.new is None else folder / step.new


def _apply(folder: Path, steps: Mapping[str, Step]) -> None:
    for name, step in steps.items():
        if step.new is None:
            (folder / name).unlink(missing_ok=True)
        else:
            with suppress(FileNotFoundError):  # it is in its place: another process finished this very change
                (folder / step.new).replace(folder / name)
    sync_folder(folder)
    (folder / JOURNAL).unlink(missing_ok=True)


def _finish(folder: Path) -> None:
    """Do what an interrupted change left undone, but for files that something else has written since."""
    if steps := _journal(folder):
        _apply(folder, {name: step for name, step in steps.items() if _state(folder / name) == step.was})


def _journal(folder: Path) -> dict[str, Step]:
    path = folder / JOURNAL
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        steps = {str(name): Step(**step) for name, step in json.loads(text)["files"].items()}
        for name in [*steps, *(step.new for step in steps.values() if step.new is not None)]:
            if name in ("", ".", "..") or Path(name).name != name:
                raise ValueError(f"{name!r} is no file of this folder")
        return {name: Step(step.new, _as_state(step.was)) for name, step in steps.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} should say what an interrupted save left undone, and cannot be read ({error}). Remove it to "
            f"take the files as they lie."
        ) from error


def _as_state(value: Sequence[int] | None) -> State:
    if value is None:
        return None
    size, changed = value
    return size, changed


def _state(path: Path) -> State:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _unwritable(path: Path) -> str:
    return f"{str(path)!r} cannot be written"


@lru_cache(maxsize=64)
def _tell(folder: Path) -> None:
    logger.warning(
        "A save into %s was interrupted after all of it was written. Its files are read here; save into the folder once "
        "more to put them in place for other readers.",
        folder,
    )
