"""Where a checkpoint's files are: a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from vertebra.change import current
from vertebra.errors import did_you_mean
from vertebra.files import inside


@dataclass(frozen=True)
class HubOptions:
    """How the hub is asked. The names and defaults are those of `huggingface_hub.hf_hub_download`."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    @classmethod
    def pop(cls, kwargs: dict[str, Any]) -> HubOptions:
        """Take the hub's own keyword arguments out of `kwargs` and return them; the rest stays."""
        options = {f.name: kwargs.pop(f.name) for f in fields(cls) if f.name in kwargs}
        return cls(**{name: value for name, value in options.items() if value is not None})


def is_offline() -> bool:
    """True when the hub client was told not to use the network (`HF_HUB_OFFLINE=1`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@dataclass
class CheckpointFiles:
    """The files of one checkpoint, by name. A local folder never asks the network.

    On the hub the revision is resolved to a commit by the first file that is found, so all files of one load match. `hint`,
    what was probably meant, is added to errors where no such repository was found.
    """

    source: str
    options: HubOptions = field(default_factory=HubOptions)
    folder: Path | None = None
    commit: str | None = None
    hint: str = ""

    @classmethod
    def open(
        cls, source: str | os.PathLike[str] | CheckpointFiles, options: HubOptions | None = None
    ) -> CheckpointFiles:
        """Open a local folder, or the hub repository `org/name` (or `name`); what is open already is returned as it is.

        Raises:
            OSError: `source` looks like a path (absolute, or starting with `.` or `~`) and is not a folder.
        """
        if isinstance(source, CheckpointFiles):
            return source
        options = options or HubOptions()
        name = os.fspath(source)
        path = Path(name).expanduser()
        if path.is_dir():
            return cls(name, options, folder=path / options.subfolder)
        if path.is_file():
            raise OSError(f"{name!r} is a file; give the folder that holds it: {str(path.parent)!r}.")
        near = did_you_mean(path.name, _beside(path)) if "/" in name else ""
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
            raise OSError(
                f"{name!r} is not an existing folder, and a hub repository is named 'organisation/name'.{near}"
            )
        return cls(name, options, hint=near)

    def find(self, filename: str) -> Path | None:
        """Return the local path of `filename` (downloaded when it is not cached), or None where the checkpoint lacks it.

        Raises:
            OSError: the repository or revision does not exist, is not readable with this token, or the hub does not answer.
        """
        if self.folder is not None:
            return current(self.folder, filename)
        inside(".", filename)
        return self._download(filename)

    def require(self, filename: str) -> Path:
        """Like `find`, but a missing file is an error that says where it was looked for."""
        path = self.find(filename)
        if path is None:
            raise FileNotFoundError(f"{self} has no file {filename!r}.{self.offline_hint()}")
        return path

    def __str__(self) -> str:
        where = "folder" if self.folder is not None else "hub repository"
        revision = f" at revision {self.options.revision!r}" if self.folder is None and self.options.revision else ""
        return f"The {where} {str(self.folder or self.source)!r}{revision}"

    def offline_hint(self) -> str:
        """A sentence for an error about a missing file, where only the cache was searched."""
        if self.folder is None and (self.options.local_files_only or is_offline()):
            return f" Only the local cache was searched (offline, or local_files_only=True).{self.hint}"
        return ""

    def _download(self, filename: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            LocalTokenNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        options = self.options
        what = f"{filename!r} of {self.source!r}"
        unanswered: Any = (OSError, *HfHubHTTPError.__bases__)  # what the client's own http library raises
        try:
            self._knock(filename)
            path = hf_hub_download(
                self.source,
                filename,
                subfolder=options.subfolder or None,
                revision=self.commit or options.revision,
                cache_dir=None if options.cache_dir is None else os.fspath(options.cache_dir),
                token=options.token,
                local_files_only=options.local_files_only,
                force_download=options.force_download,
            )
        except LocalEntryNotFoundError as error:
            if options.local_files_only or is_offline():
                return None
            answered = getattr(_root(error), "response", None) is not None
            verb = "refused" if answered else "did not answer when asked for"
            raise OSError(
                f"The hub {verb} {what}, and it is not in the local cache: {_reason(error)}{self.hint} {ADVICE}"
            ) from error
        except EntryNotFoundError:
            return None
        except LocalTokenNotFoundError as error:
            raise OSError(
                f"{what} was asked for with token=True, and no token is stored: run `hf auth login`."
            ) from error
        except GatedRepoError as error:
            raise OSError(
                f"{self.source!r} is a gated repository: ask for access on its page, then pass token=… or run `hf auth login`."
            ) from error
        except RepositoryNotFoundError as error:
            raise OSError(
                f"{self.source!r} is neither a local folder nor a repository on the hub that this token may read."
                f"{self.hint} A private repository needs token=… or `hf auth login`."
            ) from error
        except RevisionNotFoundError as error:
            raise OSError(f"The hub repository {self.source!r} has no revision {options.revision!r}.") from error
        except HfHubHTTPError as error:
            raise OSError(f"The hub refused {what}: {_reason(error)} {ADVICE}") from error
        except unanswered as error:
            raise OSError(f"The download of {what} broke off: {_reason(error)} {ADVICE}") from error
        self.commit = self.commit or _commit_of(Path(path), f"{options.subfolder}/{filename}")
        return Path(path)

    def _knock(self, filename: str) -> None:
        """Ask for a file that is not in the cache once, so that a hub that does not answer is an error at once.

        The client itself would ask seven times, with a minute's patience each, whatever its settings say.

        Raises:
            LocalEntryNotFoundError: no answer came.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        options = self.options
        if options.local_files_only or is_offline():
            return
        path = f"{options.subfolder}/{filename}" if options.subfolder else filename
        revision = self.commit or options.revision
        cache = None if options.cache_dir is None else os.fspath(options.cache_dir)
        cached = try_to_load_from_cache(self.source, path, cache_dir=cache, revision=revision)
        if isinstance(cached, str) and not options.force_download:
            return
        silent: Any = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)
        url = hf_hub_url(self.source, path, revision=revision)
        try:
            get_hf_file_metadata(url, token=options.token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except silent as error:
            if getattr(error, "response", None) is None:
                raise LocalEntryNotFoundError("no answer") from error


ADVICE = (
    "Check the connection and HF_ENDPOINT and try again, use local_files_only=True for what is cached, or set "
    "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds) higher for a slow hub."
)


def _beside(path: Path) -> list[str]:
    """Names of the folders beside a path that does not exist."""
    try:
        return [other.name for other in path.parent.iterdir() if other.is_dir()]
    except OSError:
        return []


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of an error, as a sentence."""
    error = _root(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}."


def _commit_of(path: Path, name: str) -> str | None:
    """The commit in a cache path `…/snapshots/<commit>/<name>`."""
    snapshot = path.parents[len(PurePosixPath(name.lstrip("/")).parts) - 1]
    return snapshot.name if snapshot.parent.name == "snapshots" else None


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is not JSON, or its top level is not an object; names the file and the place.
    """
    import json

    try:
        with Path(path).open(encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:  # no text, no JSON, a number of 5000 digits, too many brackets
        raise ValueError(f"{os.fspath(path)!r} is not a JSON file: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{os.fspath(path)!r} holds a JSON {type(content).__name__}, not an object.")
    return dict(content)
