"""Images in memory that take their time, or end the process that asks for them. Other processes can import their class."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OddImages(Mapping[str, Path]):
    """The files of a folder by their name.

    Args:
        folder: The folder.
        seconds: What each takes.
        deadly: Names of files that end the process with SIGKILL, as a bug in a decoder written in C may.
        broken: Names of files at which the whole run fails, since what is raised is no fault of the image.
        stuck: Names of files that never come, as from a network drive that does not answer.
    """

    folder: Path
    seconds: float = 0.0
    deadly: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Path:
        if name in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.broken:
            raise ZeroDivisionError(f"division of {name} by zero")
        time.sleep(1e6 if name in self.stuck else self.seconds)
        return self.folder / name

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.name for path in self.folder.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.iterdir())


class Leaves(dict[str, Path]):
    """What ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


class Waits(dict[str, Path]):
    """What keeps the process that it is sent to waiting."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (1e6,)
