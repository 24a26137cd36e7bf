"""What a backbone is, without its weights: stages, parameters, sizes, and what the headers of its weight files say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vertebra.auto.backbone import AutoBackbone
from vertebra.backbones.base import Backbone, Size
from vertebra.headers import LENGTH_BYTES, TensorFact, damaged, header_length, parse_header, read_header
from vertebra.hub import CheckpointFiles, HubOptions, is_offline
from vertebra.loading import match_keys
from vertebra.no_draws import NoDraws as NoDraws
from vertebra.resolve import Located, locate
from vertebra.stages import Stage
from vertebra.weights import BIN_NAME, SAFE_NAME, load_torch_file, read_index

OTHER_SIZES: tuple[Size, ...] = ((320, 512), (333, 517))
"""What is tried beside the native size: a multiple of 32 that is no square, and a multiple of nothing."""
REAL_RUN = {
    "Gemma4VitClassifier": ((96, 144), "its forward reads values, which the meta device has not"),
    "Gemma4VitEncoder": ((96, 144), "its forward reads values, which the meta device has not"),
}
"""timm's classes that cannot run on the meta device: a small size at which they run for real, and why."""

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
        size_bytes: Bytes of all tensors; of the files where their headers cannot be read.
        read_bytes: Bytes that loading the selection reads; None where names or shapes differ and are converted first.
        note: Why something is not known.
    """

    where: str
    tensors: int | None = None
    dtypes: Mapping[str, int] | None = None
    size_bytes: int | None = None
    read_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class StageFacts:
    """One stage, and what a backbone pruned there would be.

    Args:
        stage: Name, channels, stride and offset.
        selected: Whether its map is returned.
        shape: `(channels, height, width)` of its map; None where it has none, or does not run at the size.
        parameters: Parameters of a backbone that ends with this stage; None where it cannot be selected.
    """

    stage: Stage
    selected: bool
    shape: tuple[int, int, int] | None
    parameters: int | None


@dataclass(frozen=True)
class Facts:
    """What `describe` finds out.

    Args:
        name: What was asked for.
        kind: `"folder"`, `"hub"` or `"timm"`.
        class_name: Class of the backbone.
        model_type: Family, as in `config.json`; the architecture's name for timm's.
        commit: Commit of the repository on the hub.
        size: `(height, width)` for which the maps are given.
        stages: One row per stage.
        parameters: Of the whole network, unpruned.
        selected_parameters: Of the backbone with this selection.
        native_size: The size the architecture is made for.
        size_divisor: Multiples of it are divided by every computed stage without a remainder.
        size_policy: `"floor"`, `"pad"`, or None for the architecture's own rule.
        runs: Size to whether it runs; None where only a run on real tensors tells.
        exceptions: Claims of the contract that this architecture is known not to keep, with the reasons.
        weights: What is known of its weights.
    """

    name: str
    kind: str
    class_name: str
    model_type: str
    commit: str | None
    size: Size
    stages: tuple[StageFacts, ...]
    parameters: int
    selected_parameters: int
    native_size: Size
    size_divisor: int
    size_policy: str | None
    runs: Mapping[Size, bool | None]
    exceptions: Mapping[str, str]
    weights: WeightFacts


def describe(source: str, size: Size | None = None, options: HubOptions | None = None, **selection: Any) -> Facts:
    """Describe a backbone that is built on the meta device; no weights are read or downloaded.

    Of a hub repository `config.json` is fetched and the headers of the safetensors are read by ranges; of a folder the
    header is read; a timm architecture is built without any network.

    Args:
        source: A local folder, a hub id, or a timm architecture.
        size: `(height, width)` of the images whose maps are asked for; the native size when None.
        options: How the hub is asked.
        **selection: `out_features`, `out_indices` or `out_strides`; the checkpoint's own when none is given.

    Raises:
        OSError: there is no such checkpoint, or its files are damaged.
        ValueError: no backbone is known for it, the selection does not exist, or images of `size` do not run.
    """
    with NoDraws():
        return _describe(source, size, options or HubOptions(), selection)


def _describe(source: str, size: Size | None, options: HubOptions, selection: Mapping[str, Any]) -> Facts:
    found = locate(source, options)
    with torch.device("meta"):
        backbone: Backbone = AutoBackbone.from_pretrained(
            found.files or str(found.architecture), use_pretrained_backbone=False, **selection
        )
    size = size or backbone.native_size
    backbone.output_shapes(*size)  # says what is wrong with a size that does not run
    whole = backbone.twin(out_indices=range(backbone.first_map, len(backbone.stages)), prune=False)
    shapes = whole.output_shapes(*size) if whole.accepts(*size) else backbone.output_shapes(*size)
    tried = dict.fromkeys((backbone.native_size, size, *OTHER_SIZES))
    told = type(getattr(backbone, "timm_model", backbone)).__name__ not in REAL_RUN
    return Facts(
        name=source,
        kind="timm" if found.files is None else "hub" if found.files.folder is None else "folder",
        class_name=type(backbone).__name__,
        model_type=str(getattr(backbone.config, "backbone", None) or backbone.config.model_type),
        commit=found.files.commit if found.files else None,
        size=size,
        stages=tuple(_stage(backbone, whole, stage, shapes.get(stage.name)) for stage in backbone.stages),
        parameters=whole.num_parameters(),
        selected_parameters=backbone.num_parameters(),
        native_size=backbone.native_size,
        size_divisor=backbone.size_divisor,
        size_policy=backbone.config.size_policy,
        runs={each: backbone.accepts(*each) if told else None for each in tried},
        exceptions=dict(backbone.exceptions),
        weights=_weights(found, backbone),
    )


def _stage(backbone: Backbone, whole: Backbone, stage: Stage, shape: tuple[int, int, int] | None) -> StageFacts:
    if stage.index < backbone.first_map:
        return StageFacts(stage, False, None, None)
    return StageFacts(stage, stage.index in backbone.selected, shape, whole.pruned_size(stage.index))


def _weights(found: Located, backbone: Backbone) -> WeightFacts:
    if found.files is None:
        cfg = getattr(getattr(backbone, "timm_model", None), "pretrained_cfg", None) or {}
        where = cfg.get("hf_hub_id") or cfg.get("url")
        if not where:
            return WeightFacts("none", note="timm has no pretrained weights for it")
        return WeightFacts(
            str(where), note=f"not looked at; `vertebra info {where}` does" if "://" not in where else ""
        )
    return _of_checkpoint(found.files, backbone)


def _of_checkpoint(files: CheckpointFiles, backbone: Backbone) -> WeightFacts:
    headers = Headers(files)
    names, facts = headers.find()
    if not names:
        return WeightFacts("none", note=f"neither {SAFE_NAME} nor {BIN_NAME} is there.{files.offline_hint()}")
    where = names[0] if len(names) == 1 else f"{len(names)} files, {names[0]} …"
    if facts is None:
        note = "a torch file has no header: tensors and dtypes are known once it is downloaded"
        return WeightFacts(where, size_bytes=headers.file_size(names), note=note)
    dtypes = Counter(fact.dtype for fact in facts.values())
    read = _read_bytes(facts, backbone)
    note = "" if read is not None else "names or shapes differ from the selection's and are converted when loaded"
    return WeightFacts(where, len(facts), dict(dtypes), sum(f.size_bytes for f in facts.values()), read, note)


def _read_bytes(facts: Mapping[str, TensorFact], backbone: Backbone) -> int | None:
    """Bytes of the tensors that the backbone takes, or None where it needs one that is not there in its shape."""
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    matched = match_keys(facts, wanted, backbone.base_model_prefix, backbone.key_renames)
    source = {target: name for name, target in matched.items() if target in wanted}
    absent = [name for name in wanted if name not in source]
    if any(not any(re.search(pattern, name) for pattern in backbone.explained_missing) for name in absent):
        return None
    if any(facts[name].shape != wanted[target] for target, name in source.items()):
        return None
    return sum(facts[name].size_bytes for name in source.values())


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
