"""Reading and writing weight files: safetensors first, single or sharded, memory-mapped; never code, never half a file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.change import INTACT, FolderChange, changing
from vertebra.errors import listing
from vertebra.files import inside
from vertebra.hub import CheckpointFiles, read_json
from vertebra.mapped import MappedFile

SAFE_NAME, BIN_NAME = "model.safetensors", "pytorch_model.bin"
NESTED = ("state_dict", "model")
"""Keys under which training scripts put the tensors of a file."""


class WeightFiles:
    """The tensors of one checkpoint, by name. Nothing is read but names and shapes until `read` asks for tensors.

    Args:
        files: Weight files (safetensors, or torch files that are opened with `weights_only=True`).
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home: dict[str, Path] = {}
        self._loaded: dict[Path, dict[str, Tensor]] = {}
        self._mapped: dict[Path, MappedFile] = {}
        for path in self.files:
            for name, shape in self._shapes_of(path).items():
                self.shapes[name] = shape
                self._home[name] = path

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> WeightFiles:
        """Tensors that are in memory already."""
        weights, memory = cls([]), Path()
        weights._loaded[memory] = dict(tensors)
        weights.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        weights._home = dict.fromkeys(tensors, memory)
        return weights

    @classmethod
    def find(
        cls, files: CheckpointFiles, variant: str | None = None, use_safetensors: bool | None = None
    ) -> WeightFiles:
        """Find the weights of a checkpoint: safetensors, its index, then the `.bin` files.

        Raises:
            OSError: there are none, or a shard that the index names is missing.
        """
        wanted = [SAFE_NAME] if use_safetensors else [BIN_NAME] if use_safetensors is False else [SAFE_NAME, BIN_NAME]
        tried = []
        for plain in wanted:
            name, index_name = _with_variant(plain, variant), _index_name(variant, plain)
            tried += [name, index_name]
            if (path := files.find(name)) is not None:
                return cls([path])
            if (path := files.find(index_name)) is not None:
                return cls(files.require(shard) for shard in read_index(path))
        raise FileNotFoundError(f"{files} holds no weights: none of {listing(tried)} is there.{files.offline_hint()}")

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the tensors called `names`, memory-mapped where the format allows.

        Raises:
            OSError: a file was written to since it was opened.
        """
        tensors: dict[str, Tensor] = {}
        for name in names:
            path = self._home[name]
            tensors[name] = self._loaded[path][name] if path in self._loaded else self._mapped[path].tensor(name)
        for file in self._mapped.values():
            file.check()
        return tensors

    def _shapes_of(self, path: Path) -> dict[str, tuple[int, ...]]:
        if path.suffix == ".safetensors":
            self._mapped[path] = MappedFile(path)
            return {name: fact.shape for name, fact in self._mapped[path].facts.items()}
        self._loaded[path] = load_torch_file(path)
        return {name: tuple(tensor.shape) for name, tensor in self._loaded[path].items()}


def load_torch_file(path: Path) -> dict[str, Tensor]:
    """Read a `.bin` or `.pth` state dict without running code from it.

    Raises:
        OSError: the file is damaged, or holds more than tensors.
    """
    import zipfile

    path.open("rb").close()  # what is wrong with the access to it is no damage
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler lets out whatever a damaged file brings about
        raise OSError(
            f"{str(path)!r} cannot be read as a plain state dict. It is damaged, or holds objects that would run code when "
            f"loaded, which vertebra never does; convert it to safetensors where you trust it."
        ) from error
    content = _innermost(content)
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise OSError(f"{str(path)!r} holds no tensors by name.")
    if odd := [name for name, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_meta]:
        raise OSError(f"{str(path)!r} holds {listing(odd, 5)} as sparse tensors or without values; save dense ones.")
    return tensors


def _innermost(content: Any) -> Any:
    """What lies under the keys of `NESTED`; a mapping may hold itself."""
    seen: list[Any] = []
    while isinstance(content, Mapping) and all(content is not former for former in seen):
        seen.append(content)
        content = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), content)
    return content


def read_index(path: Path) -> list[str]:
    """Return the shard names of an index file.

    Raises:
        ValueError: the index has no weight map, or names a file outside its folder.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise ValueError(f"{str(path)!r} has no 'weight_map'; an index maps every tensor name to a file beside it.")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        inside(path.parent, shard)
    return shards


def weight_names(files: CheckpointFiles, variant: str | None = None) -> set[str]:
    """Names that the safetensors weights of a checkpoint go by: the single file, the index, and the shards it names.

    They need not exist; a damaged index names no shards.
    """
    index = files.find(_index_name(variant))
    shards = read_index(index) if index is not None and _is_readable(index) else []
    return {_with_variant(SAFE_NAME, variant), _index_name(variant), *shards}


def save_weights(
    folder: Path, tensors: Mapping[str, Tensor], max_shard_size: int | str = "5GB", variant: str | None = None
) -> None:
    """Write `model.safetensors`, or shards and an index, so that a kill at any moment leaves the old or the new weights."""
    with changing(folder) as change:
        add_weights(change, tensors, max_shard_size, variant)


def add_weights(
    change: FolderChange,
    tensors: Mapping[str, Tensor],
    max_shard_size: int | str = "5GB",
    variant: str | None = None,
) -> None:
    """Write weights as a part of `change`; what the former weights of the same variant had goes with it.

    New shards carry a hash of their content in the name, so they are nobody's before the index, which follows them, is
    changed.

    Raises:
        ValueError: a tensor is on the meta device, `max_shard_size` is no size, or `variant` no part of a name.
        OSError: a file cannot be written.
    """
    if variant and not re.fullmatch(r"[\w.-]+", variant):
        raise ValueError(f"variant={variant!r} becomes a part of a file name: letters, digits, '_', '-' and '.' alone.")
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise ValueError(
            f"{listing(empty, 5)} have no values: they are on the meta device. Load or initialise the model, then save it."
        )
    folder, shards = change.folder, _split(tensors, max_shard_size)
    single, index = _with_variant(SAFE_NAME, variant), _index_name(variant)
    former = set(read_index(folder / index)) if _is_readable(folder / index) else set()
    if len(shards) == 1:
        with change.write(single) as path:
            _write(path, shards[0], folder / single)
        keep = {single}
    else:
        stem, keep = single.removesuffix(".safetensors"), {index}
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            name = f"{stem}-{_digest(shard)}-{number:05d}-of-{len(shards):05d}.safetensors"
            with change.write(name) as path:
                _write(path, shard, folder / name)
            weight_map |= dict.fromkeys(shard, name)
            keep.add(name)
        total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        change.write_text(index, json.dumps(content, indent=2, sort_keys=True))
    for name in sorted(({single, index} | former) - keep):
        change.remove(name)


def _write(path: Path, shard: Mapping[str, Tensor], target: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(shard), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{str(target)!r} cannot be written: {error}. {INTACT}") from error


def _is_readable(index: Path) -> bool:
    """Whether a former index names its files; a damaged one is written over, and the files it may mean stay."""
    try:
        return index.is_file() and bool(read_index(index))
    except ValueError:
        return False


def _split(tensors: Mapping[str, Tensor], limit: int | str) -> list[dict[str, Tensor]]:
    """Group tensors into shards of at most `limit`; tensors that share memory are written out in full each."""
    from huggingface_hub import split_torch_state_dict_into_shards

    whole: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        whole[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen and tensor.nbytes else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    try:
        if not isinstance(limit, str) and (isinstance(limit, bool) or limit < 1):
            raise ValueError("no number of bytes")
        split = split_torch_state_dict_into_shards(whole, max_shard_size=limit)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"max_shard_size={limit!r} must be a number of bytes, or a text such as '500MB' or '5GB'."
        ) from error
    return [{name: whole[name] for name in names} for names in split.filename_to_tensors.values()] or [{}]


def _digest(shard: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in shard.items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _with_variant(name: str, variant: str | None) -> str:
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{variant}{dot}{ending}" if variant else name


def _index_name(variant: str | None, name: str = SAFE_NAME) -> str:
    return f"{name}.index.{variant}.json" if variant else f"{name}.index.json"
