"""What the weight files of a checkpoint hold, by their headers; of files on the hub only these are fetched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vertebra.headers import LENGTH_BYTES, TensorFact, damaged, header_length, parse_header, read_header
from vertebra.hub import CheckpointFiles, is_offline
from vertebra.weights import BIN_NAME, SAFE_NAME, load_torch_file, read_index

FIRST_BYTES, MOST_BYTES = 100_000, 25_000_000
"""How much of a file on the hub is asked for at first, which holds nearly every header, and at most."""
NOTHING_THERE = 416
"""What a server answers when asked for the first bytes of an empty file."""


@dataclass(frozen=True)
class WeightFacts:
    """What is known of the weights of a checkpoint without reading them.

    Args:
        where: File names, or where the weights would come from.
        tensors: How many there are; None where no header was read.
        dtypes: Dtype to number of tensors.
        numbers: How many numbers its floating-point tensors hold; None where no header was read.
        size_bytes: Bytes of all tensors; of the files where their headers cannot be read.
        read_bytes: Bytes that loading a backbone's selection reads; None where names or shapes differ and are converted first, and
            of other models.
        note: Why something is not known.
    """

    where: str
    tensors: int | None = None
    dtypes: Mapping[str, int] | None = None
    numbers: int | None = None
    size_bytes: int | None = None
    read_bytes: int | None = None
    note: str = ""


def weight_facts(files: CheckpointFiles) -> tuple[WeightFacts, dict[str, TensorFact] | None]:
    """Describe the weights of a checkpoint; also return its tensors by name, None where no header was read.

    Raises:
        OSError: a file is damaged, a shard is missing, or the hub does not answer.
    """
    headers = Headers(files)
    names, facts = headers.find()
    if not names:
        return WeightFacts("none", note=f"neither {SAFE_NAME} nor {BIN_NAME} is there.{files.offline_hint()}"), None
    where = names[0] if len(names) == 1 else f"{len(names)} files, {names[0]} …"
    if facts is None:
        note = "a torch file has no header: tensors and dtypes are known once it is downloaded"
        return WeightFacts(where, size_bytes=headers.file_size(names), note=note), None
    dtypes = Counter(fact.dtype for fact in facts.values())
    numbers = sum(math.prod(fact.shape) for fact in facts.values() if "F" in fact.dtype)
    return WeightFacts(where, len(facts), dict(dtypes), numbers, sum(f.size_bytes for f in facts.values())), facts


class Headers:
    """Names, dtypes and shapes in the weight files of a checkpoint: by ranged reads where these are on the hub.

    Args:
        files: The checkpoint's files.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        self.files = files
        self.remote = files.folder is None and not files.options.local_files_only and not is_offline()

    def find(self) -> tuple[list[str], dict[str, TensorFact] | None]:
        """Return the names of the weight files, and tensor name to fact; None for torch files on the hub.

        The order is that of loading: safetensors, its index, then torch files. No name means there are none.

        Raises:
            OSError: a file is damaged, a shard is missing, or the hub does not answer.
        """
        if (facts := self._read(SAFE_NAME)) is not None:
            return [SAFE_NAME], facts
        if (index := self.files.find(f"{SAFE_NAME}.index.json")) is not None:
            shards = read_index(index)
            return shards, {name: fact for shard in shards for name, fact in self._require(shard).items()}
        if (index := self.files.find(f"{BIN_NAME}.index.json")) is not None:
            names = read_index(index)
        else:
            names = [BIN_NAME] if self._has(BIN_NAME) else []
        if self.remote or not names:
            return names, None
        return names, {name: fact for part in names for name, fact in _torch_file(self.files.require(part)).items()}

    def file_size(self, names: Sequence[str]) -> int | None:
        """Bytes of files on the hub, from their headers; None where one does not say."""
        sizes = [self._size(name) for name in names]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _require(self, shard: str) -> dict[str, TensorFact]:
        facts = self._read(shard)
        if facts is None:
            raise FileNotFoundError(
                f"{self.files} has no file {shard!r}, which its index names.{self.files.offline_hint()}"
            )
        return facts

    def _read(self, name: str) -> dict[str, TensorFact] | None:
        if not self.remote:
            path = self.files.find(name)
            return None if path is None else read_header(path)
        fetched = self._fetch(name, FIRST_BYTES)
        if fetched is None:
            return None
        start, size = fetched
        try:
            end = LENGTH_BYTES + header_length(start, size)
            if end > MOST_BYTES:
                raise ValueError(
                    f"its header claims {end:,} bytes; of a file on the hub {MOST_BYTES:,} are fetched at most"
                )
            if end > len(start):
                start, size = self._fetch(name, end) or (b"", 0)
            return parse_header(start[LENGTH_BYTES:end], None if size is None else size - end)
        except ValueError as error:
            raise damaged(f"{name!r} of {self.files.source!r}", error, start) from error

    def _fetch(self, name: str, count: int) -> tuple[bytes, int | None] | None:
        """The first `count` bytes of a file on the hub, and the size of the whole; None where there is no such file."""
        from huggingface_hub import constants, hf_hub_url

        client: Any = import_module("huggingface_hub.utils")

        def get(repository: str, filename: str, revision: str | None) -> tuple[bytes, int | None]:
            headers = client.build_hf_headers(token=self.files.options.token)
            headers |= {"range": f"bytes=0-{count - 1}", "accept-encoding": "identity"}
            url = hf_hub_url(repository, filename, revision=revision)
            options: dict[str, Any] = {"headers": headers, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
            with client.get_session().stream("GET", url, **options) as response:
                if response.status_code == NOTHING_THERE:
                    return b"", 0
                client.hf_raise_for_status(response)
                start = bytearray()
                for chunk in response.iter_bytes():  # a server that ignores the range sends gigabytes
                    start += chunk
                    if len(start) >= count:
                        break
                size = response.headers.get("content-range", "").rpartition("/")[2]
                size = size or response.headers.get("content-length", "")
                return bytes(start[:count]), int(size) if size.isdigit() else None

        fetched: tuple[bytes, int | None] | None = self._ask(name, get)
        return fetched

    def _has(self, name: str) -> bool:
        return self._size(name) is not None if self.remote else self.files.find(name) is not None

    def _size(self, name: str) -> int | None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        def head(repository: str, filename: str, revision: str | None) -> int | None:
            url = hf_hub_url(repository, filename, revision=revision)
            return get_hf_file_metadata(url, token=self.files.options.token).size

        size: int | None = self._ask(name, head)
        return size

    def _ask(self, name: str, call: Any) -> Any:
        """Make a call of the hub's client; None where the file is not there, an OSError that says why otherwise."""
        from huggingface_hub import errors

        files = self.files
        unanswered: Any = (OSError, *errors.HfHubHTTPError.__bases__)  # what the client's own http library raises
        path = f"{files.options.subfolder}/{name}" if files.options.subfolder else name
        try:
            return call(files.source, path, revision=files.commit or files.options.revision)
        except errors.EntryNotFoundError:
            return None
        except unanswered as error:
            raise OSError(
                f"The hub did not give the header of {name!r} of {files.source!r}: {error}. Check the connection, or use "
                f"local_files_only=True for what is cached."
            ) from error


def _torch_file(path: Path) -> dict[str, TensorFact]:
    """Tensors of a torch file, which is mapped, not read."""
    names = {
        torch.float32: "F32",
        torch.float64: "F64",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
    }
    return {
        name: TensorFact(names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), tensor.nbytes)
        for name, tensor in load_torch_file(path).items()
    }
