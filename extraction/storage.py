"""Where a store's files are: a folder of this machine, or a place that fsspec reaches. No file is ever there in part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from vertebra.errors import listing
from vertebra.extraction.leftovers import own_prefix
from vertebra.files import alone, atomic_path, sync_folder

FILE = "file://"
P = ParamSpec("P")
R = TypeVar("R")


class Entry(NamedTuple):
    """A file of a folder.

    Args:
        size: Its bytes.
        changed: When it was written, in nanoseconds; None where nobody knows.
    """

    size: int
    changed: int | None


class Storage(Protocol):
    """The files of one store, by names such as `"plan-0000.json"` and `"shards/000000.safetensors"`.

    Its text is what the user gave. It can be sent to another process, and compared.

    All methods raise OSError where the place cannot be reached, FileNotFoundError where a file is missing.
    """

    def __hash__(self) -> int:
        """Equal for storages of one place that is spelled alike."""

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder, sorted; folders end in a slash. Nothing where there is no such folder."""

    def entries(self, folder: str = "") -> dict[str, Entry]:
        """The files that lie directly in a folder, by name. Nothing where there is no such folder."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def version(self, name: str) -> str:
        """A text that changes when the file does."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` (None: the last) of a file."""

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to read and seek in."""

    def write(self, name: str, *, new: bool = False) -> AbstractContextManager[BinaryIO]:
        """A file to write: it is there, whole, when the body ends, and not at all when the body raises.

        With `new`, FileExistsError is raised where there is one of that name; otherwise that one is replaced.
        """

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    def free_bytes(self) -> int | None:
        """Bytes that are free; None where nobody knows."""

    def local(self, name: str) -> Path | None:
        """The path of a file, to map it into memory; None where it is on no disk of this machine."""

    def alone(self) -> AbstractContextManager[object]:
        """Let one process at a time into the body, where the file system can."""


def open_storage(out: str | os.PathLike[str] | Storage) -> Storage:
    """The storage that a path or a uri names: `"features"`, `"s3://bucket/features"`, `"gs://…"`, `"memory://…"`.

    Nothing is read, and nothing is made.

    Raises:
        ValueError: fsspec knows no such protocol.
        ImportError: the protocol needs a package that is not installed; names it.
    """
    if not isinstance(out, (str, os.PathLike)):
        return out
    text = os.fspath(out)
    if text.startswith(FILE):
        from urllib.parse import unquote

        text = unquote(text.removeprefix(FILE))
    if "://" not in text:
        return LocalStorage(Path(text).expanduser().absolute(), text)
    import fsspec

    try:
        fsspec.core.url_to_fs(text)
    except ValueError as error:
        known = listing(sorted(fsspec.available_protocols()))
        raise ValueError(f"{text!r} cannot be opened: {error}. Give a folder, or a uri of one of {known}.") from error
    return RemoteStorage(text.rstrip("/"))


@dataclass(frozen=True)
class LocalStorage:
    """A folder, which need not exist; see `Storage`.

    Args:
        folder: Its absolute path.
        text: What the user called it.
    """

    folder: Path
    text: str

    def __str__(self) -> str:
        return self.text

    def names(self, folder: str = "") -> list[str]:  # noqa: D102
        try:
            with os.scandir(self.folder / folder) as entries:
                return sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise NotADirectoryError(f"{self.text!r} is a file; give the folder that the features go to.") from error

    def entries(self, folder: str = "") -> dict[str, Entry]:  # noqa: D102
        found = {}
        for name in self.names(folder):
            if not name.endswith("/"):
                with suppress(FileNotFoundError):  # another process has removed it, or given it its final name
                    facts = os.stat(f"{self.folder}/{folder}/{name}")  # noqa: PTH116
                    found[name] = Entry(facts.st_size, facts.st_mtime_ns)
        return found

    def size(self, name: str) -> int:  # noqa: D102
        return (self.folder / name).stat().st_size

    def version(self, name: str) -> str:  # noqa: D102
        found = (self.folder / name).stat()
        return f"{found.st_mtime_ns} {found.st_size}"

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:  # noqa: D102
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:  # noqa: D102
        return (self.folder / name).open("rb")

    @contextmanager
    def write(self, name: str, *, new: bool = False) -> Iterator[BinaryIO]:  # noqa: D102
        path = self.folder / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent.parent)
        with atomic_path(path, own_prefix(path), new=new) as temporary, temporary.open("wb") as file:
            yield file

    def remove(self, name: str) -> None:  # noqa: D102
        (self.folder / name).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:  # noqa: D102
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def local(self, name: str) -> Path | None:  # noqa: D102
        return self.folder / name

    def alone(self) -> AbstractContextManager[object]:  # noqa: D102
        self.folder.mkdir(parents=True, exist_ok=True)
        return alone(self.folder)


def _reaching(method: Callable[P, R]) -> Callable[P, R]:
    """Turn what clients raise, each in its own words, into OSError."""

    @wraps(method)
    def reach(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # every client has exceptions of its own
            raise OSError(f"{str(args[0])!r} cannot be reached: {type(error).__name__}: {error}") from error

    return reach


@dataclass(frozen=True)
class RemoteStorage:
    """A place that fsspec reaches, such as a bucket; see `Storage`. Objects appear whole there by themselves.

    Credentials and endpoints are those of the client: environment variables, or fsspec's configuration files.

    Args:
        uri: With the protocol and no slash at the end.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    @property
    def _files(self) -> Any:
        import fsspec

        return fsspec.core.url_to_fs(self.uri)[0]  # fsspec keeps one for each protocol and process

    def _path(self, name: str) -> str:
        return str(self._files._strip_protocol(f"{self.uri}/{name}".rstrip("/")))

    @_reaching
    def names(self, folder: str = "") -> list[str]:  # noqa: D102
        return sorted(self._listed(folder))

    @_reaching
    def entries(self, folder: str = "") -> dict[str, Entry]:  # noqa: D102
        listed = sorted(self._listed(folder).items())
        return {name: Entry(int(info["size"]), None) for name, info in listed if not name.endswith("/")}

    def _listed(self, folder: str) -> dict[str, Any]:
        files, path = self._files, self._path(folder)
        files.invalidate_cache(path)  # other machines write there
        try:
            found = files.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        ends = {"directory": "/"}
        names = [(info["name"].rstrip("/"), info) for info in found]
        return {name.rpartition("/")[2] + ends.get(info["type"], ""): info for name, info in names if name != path}

    @_reaching
    def size(self, name: str) -> int:  # noqa: D102
        return int(self._info(name)["size"])

    @_reaching
    def version(self, name: str) -> str:  # noqa: D102
        info = self._info(name)
        return " ".join(str(info.get(key)) for key in ("ETag", "etag", "mtime", "created", "size"))

    def _info(self, name: str) -> Any:
        files, path = self._files, self._path(name)
        files.invalidate_cache(files._parent(path))
        return files.info(path)

    @_reaching
    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:  # noqa: D102
        return bytes(self._files.cat_file(self._path(name), start=start, end=end))

    @_reaching
    def open(self, name: str) -> AbstractContextManager[BinaryIO]:  # noqa: D102
        return cast(AbstractContextManager[BinaryIO], self._files.open(self._path(name), "rb"))

    @contextmanager
    def write(self, name: str, *, new: bool = False) -> Iterator[BinaryIO]:  # noqa: D102
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with path.open("wb") as file:
                yield file
            self._put(path, name, "create" if new else "overwrite")

    @_reaching
    def _put(self, path: Path, name: str, mode: str) -> None:
        try:
            self._files.put_file(str(path), self._path(name), mode=mode)
        except FileExistsError:
            raise FileExistsError(f"'{self.uri}/{name}' exists already.") from None

    @_reaching
    def remove(self, name: str) -> None:  # noqa: D102
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def free_bytes(self) -> int | None:  # noqa: D102
        return None

    def local(self, name: str) -> Path | None:  # noqa: D102
        return None

    def alone(self) -> AbstractContextManager[object]:  # noqa: D102
        return nullcontext()
