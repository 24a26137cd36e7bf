"""Weight files: every layout that is read, everything that is refused, and saves that leave the old or the new."""

import errno
import json
import pickle
import random
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from oracle import same
from safetensors.torch import load_file, save_file
from torch import Tensor

from vertebra.files import atomic_path, inside, write_text
from vertebra.hub import CheckpointFiles
from vertebra.weights import WeightFiles, load_torch_file, read_index, save_weights


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "a.weight": torch.full((4, 8), value),
        "a.bias": torch.arange(8, dtype=torch.float16) * value,
        "b.weight": torch.full((16,), value, dtype=torch.bfloat16),
        "b.count": torch.tensor(7),
        "b.empty": torch.empty(0, 3),
    }


def find(folder: Path, **kwargs: Any) -> WeightFiles:
    return WeightFiles.find(CheckpointFiles.open(folder), **kwargs)


def read_all(folder: Path, **kwargs: Any) -> dict[str, Tensor]:
    weights = find(folder, **kwargs)
    return weights.read(weights.shapes)


def assert_holds(folder: Path, expected: dict[str, Tensor], **kwargs: Any) -> None:
    found = read_all(folder, **kwargs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        same(found[name], tensor, name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestReading:
    def test_one_file(self, tmp_path: Path) -> None:
        save_file(tensors(), tmp_path / "model.safetensors")
        assert_holds(tmp_path, tensors())
        assert find(tmp_path).shapes["a.weight"] == (4, 8)
        assert find(tmp_path).shapes["b.count"] == ()

    def test_only_what_is_asked_for(self, tmp_path: Path) -> None:
        save_file(tensors(), tmp_path / "model.safetensors")
        assert list(find(tmp_path).read(["b.count"])) == ["b.count"]

    def test_shards(self, tmp_path: Path) -> None:
        shards = {"one.safetensors": ["a.weight"], "deep/two.safetensors": ["a.bias", "b.weight", "b.count", "b.empty"]}
        (tmp_path / "deep").mkdir()
        for file, keys in shards.items():
            save_file({key: tensors()[key] for key in keys}, tmp_path / file)
        index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert_holds(tmp_path, tensors())

    def test_torch_file(self, tmp_path: Path) -> None:
        torch.save(OrderedDict(tensors()), tmp_path / "pytorch_model.bin")
        assert_holds(tmp_path, tensors())
        torch.save({"epoch": 3, "state_dict": tensors(2.0)}, tmp_path / "pytorch_model.bin")
        assert_holds(tmp_path, tensors(2.0))

    def test_torch_file_of_the_old_kind(self, tmp_path: Path) -> None:
        torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        assert_holds(tmp_path, tensors())

    def test_torch_shards(self, tmp_path: Path) -> None:
        for number, key in enumerate(tensors()):
            torch.save({key: tensors()[key]}, tmp_path / f"part-{number}.bin")
        index = {"weight_map": {key: f"part-{number}.bin" for number, key in enumerate(tensors())}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert_holds(tmp_path, tensors())

    def test_the_order_of_search(self, tmp_path: Path) -> None:
        torch.save(tensors(1.0), tmp_path / "pytorch_model.bin")
        assert_holds(tmp_path, tensors(1.0))
        with pytest.raises(OSError, match=r"none of model\.safetensors, model\.safetensors\.index\.json is there\.$"):
            find(tmp_path, use_safetensors=True)
        save_file(tensors(2.0), tmp_path / "shard.safetensors")
        index = {"weight_map": dict.fromkeys(tensors(), "shard.safetensors")}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert_holds(tmp_path, tensors(2.0))
        save_file(tensors(3.0), tmp_path / "model.safetensors")
        assert_holds(tmp_path, tensors(3.0))
        assert_holds(tmp_path, tensors(1.0), use_safetensors=False)

    def test_variants(self, tmp_path: Path) -> None:
        save_file(tensors(1.0), tmp_path / "model.safetensors")
        save_file(tensors(2.0), tmp_path / "model.fp16.safetensors")
        torch.save(tensors(3.0), tmp_path / "pytorch_model.old.bin")
        save_file(tensors(4.0), tmp_path / "shard.safetensors")
        index = {"weight_map": dict.fromkeys(tensors(), "shard.safetensors")}
        (tmp_path / "model.safetensors.index.parts.json").write_text(json.dumps(index))
        assert_holds(tmp_path, tensors(1.0))
        assert_holds(tmp_path, tensors(2.0), variant="fp16")
        assert_holds(tmp_path, tensors(3.0), variant="old")
        assert_holds(tmp_path, tensors(4.0), variant="parts")
        text = (
            f"The folder '{tmp_path}' holds no weights: none of model.ema.safetensors, "
            f"model.safetensors.index.ema.json, pytorch_model.ema.bin, pytorch_model.bin.index.ema.json is there."
        )
        with pytest.raises(OSError, match=re.escape(text)):
            find(tmp_path, variant="ema")

    def test_tensors_outlive_the_file_s_handle(self, tmp_path: Path) -> None:
        save_file(tensors(), tmp_path / "model.safetensors")
        found = read_all(tmp_path)
        found["a.weight"].add_(1.0)  # memory of one's own: the file stays as it is
        assert_holds(tmp_path, tensors())


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestRefused:
    @pytest.mark.parametrize("keep", [0, 4, 40, -1], ids=["empty", "no header", "half a header", "one byte short"])
    def test_truncated_safetensors(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "model.safetensors"
        save_file(tensors(), path)
        path.write_bytes(path.read_bytes()[:keep])
        text = re.escape(f"'{path}' is not a whole safetensors file (") + r".+\)\. Download or copy it again\.$"
        with pytest.raises(OSError, match=text):
            find(tmp_path)

    @pytest.mark.parametrize("keep", [0, 10, 300, -50])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_truncated_torch_file(self, tmp_path: Path, keep: int, zipped: bool) -> None:
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(
            OSError, match=re.escape(f"'{path}' cannot be read as a plain state dict. It is damaged, or")
        ):
            find(tmp_path)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path, zipped: bool) -> None:
        path, trace = tmp_path / "pytorch_model.bin", tmp_path / "trace"
        torch.save({**tensors(), "evil": Hostile(trace)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            OSError, match=r"holds objects that would run code when loaded, which vertebra never does; convert"
        ):
            find(tmp_path)
        path.write_bytes(pickle.dumps(Hostile(trace), protocol=2))
        with pytest.raises(OSError, match="which vertebra never does"):
            load_torch_file(path)
        assert not trace.exists()

    @pytest.mark.parametrize("content", [{}, [torch.ones(2)], {"state_dict": {}}, torch.ones(2), {"epoch": 3}])
    def test_no_tensors_by_name(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match=r"pytorch_model\.bin' holds no tensors by name\.$"):
            find(tmp_path)

    @pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors", "/x.safetensors", ".."])
    def test_an_index_that_leads_out(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        save_file(tensors(), tmp_path / "x.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": name}}))
        text = f"{name!r} leads out of its folder {str(folder)!r}; file names in a checkpoint are relative to it."
        with pytest.raises(ValueError, match=re.escape(text)):
            find(folder)

    def test_a_save_deletes_nothing_outside(self, tmp_path: Path) -> None:
        folder, outside = tmp_path / "checkpoint", tmp_path / "x.safetensors"
        folder.mkdir()
        outside.touch()
        index = {"weight_map": {"a.weight": "../x.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        save_weights(folder, tensors())
        assert outside.exists()
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors(), max_shard_size=100)
        gone = next(tmp_path.glob("model-*-00002-of-*.safetensors"))
        gone.unlink()
        with pytest.raises(OSError, match=re.escape(f"The folder '{tmp_path}' has no file '{gone.name}'.")):
            find(tmp_path)

    @pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}'])
    def test_an_index_without_a_map(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(content)
        text = f"'{path}' has no 'weight_map'; an index maps every tensor name to a file beside it."
        with pytest.raises(ValueError, match=re.escape(text)):
            read_index(path)

    def test_a_tensor_the_index_promises_and_no_shard_holds(self, tmp_path: Path) -> None:
        save_file({"a.weight": torch.ones(2)}, tmp_path / "one.safetensors")
        index = {"weight_map": {"a.weight": "one.safetensors", "a.bias": "one.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert list(find(tmp_path).shapes) == ["a.weight"]  # what is missing shows when the model is filled

    def test_no_weights(self, tmp_path: Path) -> None:
        text = (
            f"The folder '{tmp_path}' holds no weights: none of model.safetensors, model.safetensors.index.json, "
            f"pytorch_model.bin, pytorch_model.bin.index.json is there."
        )
        with pytest.raises(OSError, match=re.escape(text)):
            find(tmp_path)


class TestSaving:
    def test_one_file(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors())
        assert names(tmp_path) == ["model.safetensors"]
        found = load_file(tmp_path / "model.safetensors")
        assert found.keys() == tensors().keys()
        for name, tensor in tensors().items():
            same(found[name], tensor, name)
        with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}

    def test_shards_carry_a_hash_and_fit(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors(), max_shard_size=50)
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        shards = sorted(set(index["weight_map"].values()))
        assert names(tmp_path) == sorted([*shards, "model.safetensors.index.json"])
        assert all(re.fullmatch(r"model-[0-9a-f]{12}-0000\d-of-00003\.safetensors", shard) for shard in shards)
        sizes = {shard: sum(t.nbytes for t in load_file(tmp_path / shard).values()) for shard in shards}
        assert sorted(sizes.values()) == [8, 48, 128]  # 128 bytes is one tensor, which cannot be split
        assert index["metadata"] == {"total_size": sum(sizes.values())}
        for name, shard in index["weight_map"].items():
            same(load_file(tmp_path / shard)[name], tensors()[name], name)
        assert_holds(tmp_path, tensors())

    def test_other_content_has_other_names(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors(1.0), max_shard_size=50)
        first = set(names(tmp_path))
        save_weights(tmp_path, tensors(1.0), max_shard_size=50)
        assert set(names(tmp_path)) == first
        save_weights(tmp_path, tensors(2.0), max_shard_size=50)
        second = set(names(tmp_path))
        assert len(second) == len(first)
        assert len(first & second) == 2  # the index, and the shard of counts that did not change
        assert_holds(tmp_path, tensors(2.0))

    def test_files_of_the_former_weights_go(self, tmp_path: Path) -> None:
        keep = tmp_path / "model-notes-00001-of-00002.safetensors"
        keep.write_text("not ours")
        save_weights(tmp_path, tensors(1.0))
        save_weights(tmp_path, tensors(2.0), max_shard_size=50)
        assert "model.safetensors" not in names(tmp_path)
        assert_holds(tmp_path, tensors(2.0))
        save_weights(tmp_path, tensors(3.0))
        assert names(tmp_path) == sorted(["model.safetensors", keep.name])
        assert_holds(tmp_path, tensors(3.0))

    def test_variants_leave_each_other_alone(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors(1.0), max_shard_size=50)
        save_weights(tmp_path, tensors(2.0), variant="fp16")
        save_weights(tmp_path, tensors(3.0), max_shard_size=50, variant="ema")
        assert_holds(tmp_path, tensors(1.0))
        assert_holds(tmp_path, tensors(2.0), variant="fp16")
        assert_holds(tmp_path, tensors(3.0), variant="ema")

    def test_shared_and_strided_memory(self, tmp_path: Path) -> None:
        table = torch.arange(12.0).reshape(3, 4)
        given = {"a": table, "tied": table, "row": table[1], "turned": table.T, "part": table[:, 1:]}
        save_weights(tmp_path, given)
        assert_holds(tmp_path, given)
        save_weights(tmp_path, given, max_shard_size=20)
        assert_holds(tmp_path, given)

    def test_sizes_as_text(self, tmp_path: Path) -> None:
        big = {str(number): torch.zeros(256) for number in range(4)}  # 1 KiB each
        for size, count in (("1.1KB", 4), ("3kb", 2), ("1MB", 1), ("5GB", 1), ("5TB", 1), (2048, 2)):
            save_weights(tmp_path, big, max_shard_size=size)
            assert len(list(tmp_path.glob("*.safetensors"))) == count, size
        for bad in ("5", "5XB", "large", "GB", ""):
            text = f"max_shard_size={bad!r} must be a number of bytes, or a text such as '500MB' or '5GB'."
            with pytest.raises(ValueError, match=re.escape(text)):
                save_weights(tmp_path, big, max_shard_size=bad)

    @pytest.mark.parametrize("size", ["5GB", 50], ids=["single", "sharded"])
    @pytest.mark.parametrize("former", ["5GB", 50], ids=["over one file", "over shards"])
    @pytest.mark.parametrize("writes", [0, 1, 2])
    def test_a_write_that_fails_leaves_the_old(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Any, former: Any, writes: int
    ) -> None:
        """The disk fills up in the middle of the file after so many whole ones."""
        save_weights(tmp_path, tensors(1.0), max_shard_size=former)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        written = []

        def full(shard: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
            if len(written) == writes:
                path.write_bytes(b"half of a f")
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
            save_file(shard, path, metadata=metadata)

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        if size == "5GB" and writes:
            return  # one file is either not written or written
        with pytest.raises(OSError, match="No space left on device"):
            save_weights(tmp_path, tensors(2.0), max_shard_size=size)
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert before.items() <= after.items()
        assert len(after) - len(before) <= writes  # whole shards, under names of their own
        assert not list(tmp_path.glob(".*"))
        assert_holds(tmp_path, tensors(1.0))
        monkeypatch.undo()
        save_weights(tmp_path, tensors(2.0), max_shard_size=size)
        assert_holds(tmp_path, tensors(2.0))

    def test_an_interrupt_before_the_moment_of_change_leaves_the_old(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_weights(tmp_path, tensors(1.0), max_shard_size=50)

        def failing(target: Path, text: str, prefix: str) -> None:
            with atomic_path(target, prefix) as path:
                path.write_text(text[:10])
                raise KeyboardInterrupt

        monkeypatch.setattr("vertebra.change.write_text", failing)
        before = names(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            save_weights(tmp_path, tensors(2.0), max_shard_size=50)
        assert names(tmp_path) == before
        assert_holds(tmp_path, tensors(1.0))

    def test_tensors_without_values_leave_the_old(self, tmp_path: Path) -> None:
        save_weights(tmp_path, tensors(1.0))
        with pytest.raises(ValueError, match=r"^a\.weight have no values: they are on the meta device\. Load or init"):
            save_weights(tmp_path, {"a.weight": torch.ones(2, device="meta")})
        assert names(tmp_path) == ["model.safetensors"]
        assert_holds(tmp_path, tensors(1.0))


class TestFiles:
    def test_atomic_path(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")

        def half() -> None:
            with atomic_path(target) as path:
                path.write_text("ne")
                assert target.read_text() == "old"
                raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            half()
        assert names(tmp_path) == ["file"]
        assert target.read_text() == "old"
        write_text(target, "new ✓")
        assert target.read_text(encoding="utf-8") == "new ✓"
        ordinary = tmp_path / "ordinary"
        ordinary.touch()
        assert target.stat().st_mode == ordinary.stat().st_mode

    def test_inside(self, tmp_path: Path) -> None:
        assert inside(tmp_path, "a/b") == tmp_path / "a" / "b"
        assert inside(tmp_path, "a/../b") == tmp_path / "b"
        assert inside(tmp_path, "..a") == tmp_path / "..a"


def test_a_torch_file_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": torch.ones(2)}
    content["model"] = content
    torch.save(content, tmp_path / "loop.bin")
    same(load_torch_file(tmp_path / "loop.bin")["a"], torch.ones(2))


def test_names_of_torch_files_that_are_no_text(tmp_path: Path) -> None:
    torch.save({0: torch.ones(2)}, tmp_path / "numbered.bin")
    assert list(load_torch_file(tmp_path / "numbered.bin")) == ["0"]


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("odd", [torch.eye(3).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"])
def test_torch_files_with_tensors_that_no_model_can_use(tmp_path: Path, odd: Tensor) -> None:
    torch.save({"a": torch.ones(2), "b": odd}, tmp_path / "odd.bin")
    with pytest.raises(OSError, match=r"odd\.bin' holds b as sparse tensors or without values; save dense ones\.$"):
        load_torch_file(tmp_path / "odd.bin")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_with_other_bytes(tmp_path: Path, zipped: bool) -> None:
    """Whatever the unpickler stumbles over, the error is one and names the file."""
    path, moments = tmp_path / "bytes.bin", random.Random(0)
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(3):
            data[moments.randrange(min(len(data), 1500))] = moments.randrange(256)
        path.write_bytes(data)
        try:
            load_torch_file(path)
        except OSError as error:
            refused += 1
            assert re.match(r".*bytes\.bin' (cannot be read as a plain state dict|holds )", str(error))  # noqa: PT017
    assert refused > 50


@pytest.mark.parametrize("size", [0, -1, True, None, "big"])
def test_shard_sizes_that_are_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ValueError, match=rf"^max_shard_size={size!r} must be a number of bytes, or a text such as"):
        save_weights(tmp_path, tensors(), size)
    assert names(tmp_path) == []


def test_a_variant_that_is_no_part_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^variant='\.\./evil' becomes a part of a file name: letters, digits, '_', '-'"
    ):
        save_weights(tmp_path, tensors(), variant="../evil")
    assert names(tmp_path) == []
