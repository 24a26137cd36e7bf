"""`vertebra extract` as a process of its own that can be killed, and what a store must be like afterwards."""

from __future__ import annotations

import atexit
import ctypes
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vertebra.cli import main
from vertebra.extraction.plan import open_plans
from vertebra.extraction.shard_file import read_metadata, shard_name
from vertebra.extraction.storage import open_storage

PATIENCE = 120.0
"""Seconds that anything may take on a machine that does many other things."""
PRELOADED = """
    torch._dynamo torchvision pyarrow.parquet pyarrow.compute vertebra.cli vertebra.cli.extract vertebra.extraction.estimate
    vertebra.extraction.extract vertebra.extraction.store.feature_store vertebra.extraction.engines.local
    vertebra.extraction.engines.inline vertebra.environment
    vertebra.auto.backbone vertebra.auto.vision vertebra.backbones.resnet vertebra.image_processing.vit
""".split()
"""Modules that the command imports; all of vertebra is found without the tests' path."""
Store = dict[str, bytes]


def wait_until(fact: Callable[[], Any], what: str, every: float = 0.002) -> Any:
    """What `fact` returns once it is true; an AssertionError after a long time."""
    deadline = time.monotonic() + PATIENCE
    while not (found := fact()):
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:g} s"
        time.sleep(every)
    return found


def session(leader: int) -> dict[int, int]:
    """The living processes of a session, and the parent of each."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, leads = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leads) == leader and state not in "ZX":
            found[int(path.parent.name)] = int(parent)
    return found


def command(arguments: list[str], log: Path, before: Callable[[], object] | None) -> None:
    """The inside of the process: `vertebra` with arguments, in a session of its own."""
    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    os.environ["OMP_NUM_THREADS"] = "1"  # for those that are started from here
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a kill leaves to be complained about at the end
    if before is not None:
        before()
    sys.exit(main(arguments))


@dataclass
class Job:
    """One command, run as often as it takes. Its process is forked from one that has imported torch, which saves seconds.

    Args:
        images: The source.
        model: A folder with a model.
        out: The store.
        options: Further arguments.
        before: Called in the process before the command.
        log: What the command says; a file beside the store unless given.
    """

    images: Path | str
    model: Path
    out: Path
    options: tuple[str, ...] = ("--workers", "2")
    before: Callable[[], object] | None = None
    log: Path = Path()
    process: Any = None

    def __post_init__(self) -> None:
        if self.log == Path():
            self.log = self.out.with_suffix(".log")

    def start(self) -> None:
        """Start the command."""
        arguments = ["extract", str(self.images), str(self.out), "--model", str(self.model), "--shard-bytes", "20KiB"]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(
            target=command, args=([*arguments, "--decode-threads", "1", *self.options], self.log, self.before)
        )
        self.process.start()

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def finish(self) -> int:
        """Wait for the end of all processes, and return the exit code."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "the command does not end"
        wait_until(lambda: not session(self.process.pid), "the end of all processes")
        return int(self.process.exitcode)

    def run(self) -> int:
        """Run the command to its end, and return the exit code."""
        self.start()
        return self.finish()

    def kill(self, how: str, choose: random.Random) -> None:
        """SIGKILL a part of it: `"worker"`, `"helper"` (what workers are forked from), `"engine"` or `"all"`."""
        leader = self.process.pid
        parents = session(leader)
        if how == "all":
            os.killpg(leader, signal.SIGKILL)
        elif how == "engine":
            self.process.kill()
        else:
            victims = self.workers() if how == "worker" else {*parents.values()} & parents.keys() - {leader}
            if victims:
                os.kill(choose.choice(sorted(victims)), signal.SIGKILL)
        if how in ("all", "engine"):
            self.finish()

    def workers(self) -> set[int]:
        """The processes that compute. They are forked from a child, and may have outlived it."""
        leader = self.process.pid
        return {process for process, parent in session(leader).items() if leader not in (process, parent)}

    def end(self) -> None:
        """Leave nothing running."""
        if self.process is not None:
            for process in session(self.process.pid):
                os.kill(process, signal.SIGKILL)
            self.process.join(PATIENCE)

    # The store

    def done(self) -> int:
        """How many shards are there; quick, so nobody looks into them."""
        try:
            return sum(name.endswith(".safetensors") for name in os.listdir(self.out / "shards"))  # noqa: PTH208
        except FileNotFoundError:
            return 0

    def shards(self) -> dict[str, tuple[int, int]]:
        """Which file each finished shard is, and when it was written."""
        states = {path.name: path.stat() for path in (self.out / "shards").glob("*.safetensors")}
        return {name: (state.st_ino, state.st_mtime_ns) for name, state in states.items()}

    def files(self) -> Store:
        """All files of the store."""
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes() for path in self.out.rglob("*") if path.is_file()
        }

    def check(self, undisturbed: Store) -> None:
        """Every image is in one shard or in quarantine, once; all files are those of a run that nobody disturbed."""
        storage = open_storage(self.out)
        found = self.files()
        assert found.keys() == undisturbed.keys()  # so there is no temporary file
        there: list[str] = []
        planned: list[str] = []
        for plan in open_plans(storage):
            planned += plan.table()["id"].to_pylist()
            for shard in plan.shards:
                metadata = read_metadata(storage, shard_name(shard))
                there += [*json.loads(metadata["ids"]), *json.loads(metadata["quarantine"])]
        assert sorted(there) == sorted(planned)
        assert len(set(there)) == len(there)
        assert [name for name in found if found[name] != undisturbed[name]] == []


def live(job: Job, rng: random.Random, kills: list[str], undisturbed: Store) -> dict[str, int]:
    """Run a command that is killed again and again, and again until it is done; check all there is to check.

    Args:
        job: The command, whose store does not exist.
        rng: Decides when.
        kills: What is killed, in turn. `"early"` kills all at any moment before the first shard.
        undisturbed: The files that must be there in the end.

    Returns:
        How many kills there were (`"kills"`), and how many of them while shards were missing (`"midway"`) and while some
        shard was half-written (`"writing"`).
    """
    total = sum(name.endswith(".safetensors") for name in undisturbed)
    moments = sorted(rng.sample(range(total * 4 // 5), len(kills)))
    counts = {"kills": 0, "midway": 0, "writing": 0}
    try:
        for how, moment in zip(kills, moments, strict=True):
            if not job.is_running:
                assert job.process is None or job.process.exitcode == -signal.SIGKILL, job.said  # it never gives up
                before = job.shards() if job.out.exists() else {}
                job.start()
            if how == "early":
                time.sleep(rng.uniform(0, 3))
                how = "all"
            else:
                wait_until(lambda moment=moment: job.done() >= moment or not job.is_running, f"shard {moment}")
                wait_until(lambda: job.workers() or not job.is_running, "a worker")
                time.sleep(rng.uniform(0, 0.03))
            assert job.is_running, job.said
            job.kill(how, rng)
            counts["kills"] += 1
            counts["midway"] += job.done() < total
            if not job.is_running:
                counts["writing"] += any(path.name.endswith(".tmp") for path in job.out.rglob("*"))
                assert before.items() <= job.shards().items()
        before = job.shards() if not job.is_running else before
        code = job.finish() if job.is_running else job.run()
        assert code == 3, job.said
        assert before.items() <= job.shards().items()
        job.check(undisturbed)
    finally:
        job.end()
    return counts


TOKEN = "VERTEBRA_TEST_OF_RAY"


@dataclass(frozen=True)
class Quiet:
    """For `Job.before`: a Ray cluster in a folder with a short name, as its sockets need, that leaves nothing in HOME."""

    folder: str

    @property
    def environment(self) -> dict[str, str]:
        quiet = {"RAY_TMPDIR": self.folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        return {**quiet, TOKEN: self.folder, "OMP_NUM_THREADS": "1"}

    def __call__(self) -> None:
        os.environ.pop("RAY_ADDRESS", None)
        os.environ |= self.environment

    def processes(self) -> dict[int, str]:
        """All living processes that have this environment, and what they are called."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"{TOKEN}={self.folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (
                        (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    )
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return {process: name for process, name in found.items() if name}  # the dead have none

    def end(self) -> None:
        """Leave no process and no file."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not self.processes(), "the end of all processes", 0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


def obey_permissions() -> None:
    """Let root do only what the modes of files say, as everybody else; for `Job.before`."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: nor get it back with another program
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc.capget(header, sets)
    for place in (0, 1, 2):
        sets[place] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def tell_memory() -> None:
    """Let the process say in the end by how much it has grown, in MiB; for `Job.before`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    atexit.register(
        lambda: print("grown by", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MiB")
    )


def png(width: int, height: int) -> bytes:
    """A whole, black RGB image in a PNG file, at a thousandth of its size, and made without its pixels.

    The same compressed block comes again and again; a checksum of zeros needs no sum.
    """
    total = height * (1 + 3 * width)
    block = 2**20
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(bytes(block)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = last.compress(bytes(total % block)) + last.flush()
    data = [b"\x78\xda", *[first] * (total // block), end, struct.pack(">HH", total % 65521, 1)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *((b"IDAT", part) for part in data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )
