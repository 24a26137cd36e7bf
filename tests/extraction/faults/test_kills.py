"""kill -9 of a worker, of the engine and of everything, at any moment: the same command goes on, and leaves the same store."""

import json
import random
from pathlib import Path

import pytest
from fault_runs import Job, Store, live

WAYS = ("worker", "engine", "all", "helper", "early")


def test_what_nobody_disturbs(undisturbed: Store) -> None:
    failures: dict[str, dict[str, str]] = {}
    for name, data in undisturbed.items():
        if name.endswith(".safetensors"):
            failures |= json.loads(header(data)["quarantine"])
    assert {name: failure["stage"] for name, failure in failures.items()} == {
        "0100-cut.jpg": "decode", "0300-empty.jpg": "decode", "0500-noise.jpg": "decode", "0700-page.jpg": "decode",
        "0900-none.jpg": "decode", "1100-gone.jpg": "read",
    }  # fmt: skip


def header(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size])["__metadata__"])


def test_five_kills(images: Path, model: Path, undisturbed: Store, tmp_path: Path) -> None:
    counts = live(
        Job(images, model, tmp_path / "out"),
        random.Random(0),
        ["worker", "engine", "worker", "all", "helper"],
        undisturbed,
    )
    assert counts["kills"] == counts["midway"] == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills(images: Path, model: Path, undisturbed: Store, tmp_path: Path, seed: int) -> None:
    rng = random.Random(f"fifty {seed}")
    kills = ["early"] * (seed % 2) + rng.choices(WAYS[:4], weights=[2, 2, 2, 1], k=5 - seed % 2)
    counts = live(Job(images, model, tmp_path / "out"), rng, kills, undisturbed)
    print(f"life {seed}: {kills}: {counts}")
    assert counts["kills"] == counts["midway"] == 5
