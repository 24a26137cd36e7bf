"""What makes loading fast: builds that draw nothing, mapped files, direct assignment. Oracles: torch's and safetensors' own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import same
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from vertebra import AutoBackbone
from vertebra.loading import assign, modules_of
from vertebra.mapped import DTYPES, MappedFile
from vertebra.no_draws import LAYERS, OnMeta


def net() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Identity()), "b": nn.Linear(4, 2), "c": norm})


class Doubled(nn.Linear):
    """A layer that reads its tensors in a way of its own."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"] * 2
        super()._load_from_state_dict(state_dict, prefix, *args)


class TestOnMeta:
    def test_is_the_meta_device_without_values(self) -> None:
        generator = torch.get_rng_state()
        with OnMeta():
            model = nn.ModuleList([net(), nn.Embedding(3, 4, padding_idx=0), nn.LSTM(2, 3), nn.GroupNorm(2, 4)])
            nn.init.trunc_normal_(model[0]["b"].weight, std=0.02)
            nn.init.kaiming_normal_(tensor=model[0]["b"].weight)
            model[0]["b"].weight.data.normal_(0, 1)
            assert torch.get_default_device() == torch.device("meta")
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        with torch.device("meta"):
            plain = nn.ModuleList([net(), nn.Embedding(3, 4, padding_idx=0), nn.LSTM(2, 3), nn.GroupNorm(2, 4)])
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }
        assert torch.get_default_device() == torch.device("cpu")
        assert torch.equal(torch.get_rng_state(), generator)

    def test_real_tensors_get_their_values(self) -> None:
        torch.manual_seed(0)
        expected = nn.Linear(3, 4), nn.init.normal_(torch.empty(5))
        torch.manual_seed(0)
        with OnMeta():
            found = nn.Linear(3, 4, device="cpu"), nn.init.normal_(torch.empty(5, device="cpu"))
        same(found[0].weight, expected[0].weight, "weight")
        same(found[1], expected[1], "drawn")

    def test_what_is_an_error_stays_one(self) -> None:
        with OnMeta():
            parameter = nn.Parameter(torch.empty(3))
            with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
                parameter.normal_()

    def test_other_threads_draw(self) -> None:
        drawn: list[Tensor] = []
        with OnMeta():
            thread = threading.Thread(target=lambda: drawn.append(nn.Linear(64, 64).weight.detach()))
            thread.start()
            thread.join()
        assert not drawn[0].is_meta
        assert 0.05 < drawn[0].std() < 0.1  # uniform within 1/8: 0.072

    def test_torch_is_as_it_was(self) -> None:
        before = [kind.reset_parameters for kind in LAYERS]
        with OnMeta(), OnMeta():
            assert [kind.reset_parameters for kind in LAYERS] != before
        with pytest.raises(TypeError), OnMeta():
            nn.Linear("wide", 3)  # type: ignore[arg-type]
        assert [kind.reset_parameters for kind in LAYERS] == before

    def test_builds_in_many_threads(self) -> None:
        before, found = [kind.reset_parameters for kind in LAYERS], []

        def build(on_meta: bool) -> None:
            for _ in range(20):
                with OnMeta() if on_meta else torch.device("cpu"):
                    layer = nn.Linear(64, 64)
                found.append(layer.weight.is_meta if on_meta else bool(layer.weight.std() > 0.05))

        threads = [threading.Thread(target=build, args=(number % 2 == 0,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 120
        assert [kind.reset_parameters for kind in LAYERS] == before


class TestAssign:
    @pytest.mark.parametrize(
        "make", [net, lambda: nn.LSTM(3, 4), lambda: Doubled(3, 4)], ids=["plain", "lstm", "own way"]
    )
    def test_is_load_state_dict(self, make: Any) -> None:
        torch.manual_seed(0)
        state = {name: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in make().state_dict().items()}
        with torch.device("meta"):
            ours, theirs = make(), make()
        for model in (ours, theirs):
            next(model.parameters()).requires_grad_(False)
        assign(ours, state)
        theirs.load_state_dict(state, strict=False, assign=True)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in theirs.state_dict().items():
            same(ours.state_dict()[name], tensor, name)
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (type(one), one.requires_grad) == (type(two), two.requires_grad)
        if isinstance(ours, nn.LSTM):
            same(ours(torch.ones(2, 1, 3))[0], theirs(torch.ones(2, 1, 3))[0], "output")

    def test_what_is_not_given_stays(self) -> None:
        model = net()
        kept = model["b"].bias
        assign(model, {"b.weight": torch.ones(2, 4)})
        assert model["b"].bias is kept
        assert torch.equal(model["b"].weight, torch.ones(2, 4))

    def test_modules_with_their_paths(self) -> None:
        model = net()
        assert modules_of(model) == list(model.named_modules(remove_duplicate=False))


class TestMapped:
    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
        return {"a": values.to(dtype), "none": torch.empty(0, 3, dtype=dtype), "one": values[0, 3].to(dtype).clone()}

    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
    def test_every_dtype(self, tmp_path: Path, dtype: torch.dtype) -> None:
        path = tmp_path / "weights.safetensors"
        save_file(self.tensors(dtype), path)
        file = MappedFile(path)
        for name, expected in load_file(path).items():
            found = file.tensor(name)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))
            assert found.untyped_storage().nbytes() == found.nbytes

    @pytest.mark.parametrize("blanks", range(1, 8))
    def test_unaligned(self, tmp_path: Path, blanks: int) -> None:
        header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
        text = json.dumps(header).encode() + b" " * blanks
        data = torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes()
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        found = MappedFile(tmp_path / "x.safetensors").tensor("a")
        assert (found * 2).tolist() == [2.0, 4.0, 6.0]

    def test_another_file_in_its_place(self, tmp_path: Path) -> None:
        path, other = tmp_path / "a.safetensors", tmp_path / "b"
        save_file({"a": torch.ones(4)}, path)
        save_file({"a": torch.zeros(2), "b": torch.zeros(9)}, other)
        file = MappedFile(path)
        other.replace(path)
        file.check()
        assert torch.equal(file.tensor("a"), torch.ones(4))
        path.unlink()
        file.check()
        assert torch.equal(file.tensor("a"), torch.ones(4))

    @pytest.mark.parametrize("keep", [20, 200])
    def test_written_to_in_place(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "a.safetensors"
        save_file({"a": torch.ones(400)}, path)
        file = MappedFile(path)
        os.truncate(path, keep)
        with pytest.raises(
            OSError, match=r"'.+a\.safetensors' is not a whole safetensors file \(it had 1,\d+ bytes and was"
        ):
            file.check()

    def test_replaced_while_it_is_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.safetensors"
        save_file({"a": torch.ones(4)}, path)
        from vertebra import mapped

        times, real, last = [], mapped.read_header, 3

        def replaced(file: Path) -> Any:
            facts = real(file)
            if len(times) < last:
                times.append(1)
                save_file({"a": torch.full((4 + len(times),), 2.0)}, tmp_path / "new")
                (tmp_path / "new").replace(path)
            return facts

        monkeypatch.setattr(mapped, "read_header", replaced)
        assert torch.equal(MappedFile(path).tensor("a"), torch.full((7,), 2.0))
        last = 100
        with pytest.raises(OSError, match=r"was replaced 10 times while it was opened; load it when it is complete\.$"):
            MappedFile(path)
        assert len(times) == 3 + mapped.ATTEMPTS


def test_a_native_backbone_loads_without_other_libraries(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage1"])
    ResNetBackbone(config).save_pretrained(tmp_path)
    code = (
        "import sys; from vertebra import AutoBackbone; import torch\n"
        f"backbone = AutoBackbone.from_pretrained({str(tmp_path)!r}); backbone(torch.zeros(1, 3, 32, 32))\n"
        "others = {'timm', 'torchvision', 'transformers', 'scipy', 'PIL', 'pandas', 'pyarrow', 'sklearn', 'openvino', 'onnx'}\n"
        "print('loaded', *sorted(others & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded"], done.stdout


def test_a_model_is_freed_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage1"])
    ResNetBackbone(config).save_pretrained(tmp_path)
    gc.disable()
    try:
        backbone = weakref.ref(AutoBackbone.from_pretrained(tmp_path))
        assert backbone() is None, "something the load left behind refers to the model in a circle"
    finally:
        gc.enable()
