"""Headers of safetensors files that lie: one clear error each, in a load and in `vertebra info`, here and on the hub."""

import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from real import tiny_backbone
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import save_file

from vertebra import AutoBackbone
from vertebra.cli import main
from vertebra.headers import BITS, TensorFact, parse_header, read_header
from vertebra.hub import CheckpointFiles
from vertebra.inspection.weight_facts import FIRST_BYTES, MOST_BYTES, Headers


def a_file(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, written byte by byte."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ONE = json.dumps(entry()).encode()
HOSTILE: dict[str, tuple[bytes, str]] = {
    "length 2^63": (a_file(b"{}", length=2**63), "its header claims 9,223,372,036,854,775,808 bytes; the format allows 100"),
    "length 1 GiB": (a_file(b"{}" + b" " * 90, length=2**30), "its header claims 1,073,741,824 bytes; the format allows"),
    "length over 100 MB": (a_file(b"{}", length=100_000_001), "claims 100,000,001 bytes; the format allows 100,000,000"),
    "length beyond the file": (a_file(b"{}", length=90_000_000), "its header claims 90,000,000 bytes, the whole file has"),
    "length 0": (a_file(b"", bytes(8)), "its header is not JSON: Expecting value"),
    "not UTF-8": (a_file(b'{"\xff\xfe": 1}'), "its header is not UTF-8 text: invalid start byte at byte 2"),
    "not JSON": (a_file(b"hello wo"), "its header is not JSON: Expecting value: line 1"),
    "a list": (a_file(b"[1, 2]"), "its header is a JSON list, not an object"),
    "null": (a_file(b"null"), "its header is a JSON NoneType, not an object"),
    "nested": (a_file(b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "its header is nested too deeply"),
    "a name twice": (a_file(b'{"a": ' + ONE + b', "a": ' + ONE + b"}", bytes(8)), "its header names 'a' twice"),
    "an endless number": (a_file({"a": entry(shape=(1,), offsets=(0, 4))}).replace(b"[1]", b"[" + b"9" * 9000 + b"]"), ""),
    "overlap": (a_file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b' starts at byte 4, and the one before"),
    "hole": (a_file({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "'b' starts at byte 12, and the one before"),
    "hole at the start": (a_file({"a": entry(offsets=(4, 12))}, bytes(12)), "'a' starts at byte 4, and the one before it"),
    "beyond the file": (a_file({"a": entry(), "b": entry(offsets=(8, 16))}, bytes(8)), "its tensors take 16 bytes, and 8"),
    "cut in the data": (a_file({"a": entry()}, bytes(4)), "its tensors take 8 bytes, and 4 follow the header"),
    "bytes after the data": (a_file({"a": entry()}, bytes(80)), "its tensors take 8 bytes, and 80 follow the header"),
    "negative": (a_file({"a": entry(offsets=(-8, 0))}, bytes(8)), "tensor 'a' has the data_offsets [-8, 0]"),
    "reversed": (a_file({"a": entry(offsets=(8, 0))}, bytes(8)), "tensor 'a' has the data_offsets [8, 0]"),
    "three offsets": (a_file({"a": entry(offsets=(0, 8, 8))}, bytes(8)), "tensor 'a' has the data_offsets [0, 8, 8]"),
    "another size": (a_file({"a": entry(shape=(3,))}, bytes(8)), "'a' of shape [3] in F32 does not take the 8 bytes it is"),
    "unknown dtype": (a_file({"a": entry("F7")}, bytes(8)), "tensor 'a' has the dtype 'F7'; there are BF16, BOOL, C64,"),
    "a list for a dtype": (a_file({"a": entry(["F32"])}, bytes(8)), "tensor 'a' has the dtype ['F32']; there are"),
    "negative shape": (a_file({"a": entry(shape=(-2,))}, bytes(8)), "tensor 'a' has the shape [-2]"),
    "gigantic shape": (a_file({"a": entry(shape=(2**62, 2**62))}, bytes(8)), "in F32 does not take the 8 bytes it is given"),
    "shape over 64 bits": (a_file({"a": entry(shape=(2**70,))}, bytes(8)), "tensor 'a' has the shape [1180591620717411303424]"),
    "overflow to the right size": (a_file({"a": entry(shape=(2**63, 2))}), "tensor 'a' has the shape [9223372036854775808, 2]"),
    "a million axes": (a_file({"a": entry(shape=(2**62,) * 10**5)}, bytes(8)), "tensor 'a' has the shape [4611686018427387904,"),
    "fractions": (a_file({"a": entry(shape=(2.0,))}, bytes(8)), "tensor 'a' has the shape [2.0]"),
    "true": (a_file({"a": entry(shape=(True, 2))}, bytes(8)), "tensor 'a' has the shape [True, 2]"),
    "text that multiplies": (a_file({"a": entry(shape=("x" * 99, 10**12))}, bytes(8)), "tensor 'a' has the shape ['xxx"),
    "no dtype": (a_file({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "'a' is not described by dtype, shape"),
    "no description": (a_file({"a": 7}, bytes(8)), "tensor 'a' is not described by dtype, shape and data_offsets"),
    "empty": (b"", "it has 0 bytes, and the length of the header alone takes 8"),
    "four bytes": (bytes(4), "it has 4 bytes, and the length of the header alone takes 8"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n",
        "This is a Git LFS pointer, not the weights: run `git lfs pull` in the folder's repository.",
    ),
    "a web page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "This is a web page (HTML or XML), not the weights"),
    "an error in JSON": (b'{"error": "Repository not found"}', "This is JSON, not the weights."),
    "a zip file": (b"PK\x03\x04\x00\x00\x08\x08" + bytes(100), "This is a torch or zip file under another name."),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without weights."""
    tiny_backbone().config.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(
    case: str, folder: Path, hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, reason = HOSTILE[case]
    path = folder / "model.safetensors"
    path.write_bytes(data)
    name = f"org/hostile-{case.replace(' ', '-').replace('^', '')}"
    hub.add(name, folder)
    for load in (
        lambda: AutoBackbone.from_pretrained(folder),
        lambda: AutoBackbone.from_pretrained(name, cache_dir=cache),
    ):
        with pytest.raises(
            OSError, match=r"model\.safetensors' is not a whole safetensors file \(it.*\)\. |\(tensor .*\)\. "
        ) as e:
            load()
        assert reason in str(e.value)
        assert len(str(e.value)) < 1000
    hub.clear()
    for source in (folder, name):
        assert main(["info", str(source)]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: '"), output.err
        assert "model.safetensors' of " in output.err or f"'{path}' is not" in output.err
        assert reason in output.err
        assert "Traceback" not in output.err
    asked = [re.fullmatch(r"bytes=0-(\d+)", r.headers["range"]) for r in hub.requests if "range" in r.headers]
    assert asked
    assert all(found and int(found[1]) < MOST_BYTES for found in asked)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_takes_no_memory(case: str, tmp_path: Path) -> None:
    data, _ = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="is not a whole safetensors file"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data) + 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_is_refused_that_safetensors_reads(case: str, tmp_path: Path) -> None:
    """But for a name that is there twice: safetensors takes the last."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[case][0])
    if case == "a name twice":
        with safe_open(path, framework="pt") as file:
            assert list(file.keys()) == ["a"]
        return
    with pytest.raises(SafetensorError):
        safe_open(path, framework="pt").__enter__()


@pytest.mark.filterwarnings("ignore:.*ComplexHalf|.*Complex32 support")
def test_whole_files_are_read_as_safetensors_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {}
    for dtype in sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str):
        try:
            zeros = torch.zeros(2, 3).to(dtype)
            save_file({"one": zeros}, path)
        except (KeyError, ValueError, RuntimeError, TypeError, NotImplementedError):
            continue  # a dtype that torch cannot make, or safetensors cannot store
        tensors[str(dtype)] = zeros
    assert len(tensors) > 12
    save_file({**tensors, "scalar": torch.tensor(1.0), "none": torch.empty(0, 7)}, path, {"note": "x" * 200_000})
    with safe_open(path, framework="pt") as file:
        expected = {
            name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
            for name in file.keys()  # noqa: SIM118
        }
    found = read_header(path)
    assert list(found) == list(expected)
    assert {name: (fact.dtype, fact.shape) for name, fact in found.items()} == expected
    for name, tensor in tensors.items():
        assert found[name].size_bytes == tensor.nbytes
    assert found["none"] == TensorFact("F32", (0, 7), 0)
    assert read_header(Path(path)) == found
    path.write_bytes(a_file({}))
    assert read_header(path) == {}


def test_every_dtype_of_the_format_is_known() -> None:
    with pytest.raises(SafetensorError, match="unknown variant `F7`") as caught:
        deserialize(HOSTILE["unknown dtype"][0])
    assert set(re.findall(r"`(\w+)`", str(caught.value))) - {"F7"} == set(BITS)


def test_half_bytes() -> None:
    header = json.dumps({"a": entry("F4", (3, 2), (0, 3)), "b": entry("F6_E2M3", (4,), (3, 6))}).encode()
    assert parse_header(header, 6)["b"] == TensorFact("F6_E2M3", (4,), 3)


def test_long_headers_on_the_hub_are_fetched_whole(tmp_path: Path, hub: HubServer, cache: Path) -> None:
    tensors = {f"{'long' * 20}.{number}": torch.zeros(1) for number in range(1000)}
    save_file(tensors, tmp_path / "model.safetensors")
    hub.add("org/long-header", tmp_path)
    names, facts = Headers(CheckpointFiles.open("org/long-header")).find()
    assert names == ["model.safetensors"]
    assert facts == read_header(tmp_path / "model.safetensors")
    asked = [request.headers["range"] for request in hub.requests if "range" in request.headers]
    assert asked[0] == f"bytes=0-{FIRST_BYTES - 1}"
    assert len(asked) == 2


class Endless(BaseHTTPRequestHandler):
    """Ignores ranges and never stops sending."""

    start = b""
    sent = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(self.start)
            while True:
                self.wfile.write(bytes(2**16))
                type(self).sent += 2**16
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Endless]]:
    handler = type("Handler", (Endless,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *a, **k: f"http://127.0.0.1:{server.server_address[1]}/")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_ignores_ranges_is_cut_off(endless: type[Endless]) -> None:
    endless.start = a_file({"a": entry()})
    _, facts = Headers(CheckpointFiles.open("org/endless")).find()
    assert facts == {"a": TensorFact("F32", (2,), 8)}
    assert endless.sent < 2**24
    endless.start = a_file(b"{}", length=MOST_BYTES)
    text = (
        r"^'model\.safetensors' of 'org/endless' is not .*claims 25,000,008 bytes; of a file on the hub 25,000,000 are"
    )
    with pytest.raises(OSError, match=text):
        Headers(CheckpointFiles.open("org/endless")).find()
    assert endless.sent < 2**25
