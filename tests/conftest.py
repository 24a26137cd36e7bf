"""One loopback hub for all tests, in place before any hub client is imported, and fixed seeds."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from hub_writes import WritableHubServer

if early := sorted({"huggingface_hub", "transformers", "timm"} & sys.modules.keys()):
    raise RuntimeError(f"{early} were imported before the tests could point them at the loopback hub.")

_home = tempfile.TemporaryDirectory(prefix="vertebra-tests-")
_hub = WritableHubServer().__enter__()

for _name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
):
    os.environ.pop(_name, None)
os.environ |= {
    "HF_ENDPOINT": _hub.url,
    "HF_HOME": _home.name,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",  # of the processes that tests start, for the reason below
}

import torch  # noqa: E402

torch.set_num_threads(1)  # two threads that wait for each other on busy cores make tiny convolutions slow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--optimize", metavar="ENGINE", help="run every backbone in evaluation mode through this engine")


@pytest.fixture(autouse=True)
def optimized(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--optimize ENGINE`: what is asked of a backbone in evaluation mode and without gradients, the engine answers."""
    if engine := request.config.getoption("--optimize"):
        from engine_runs import through

        through(engine, monkeypatch)


def pytest_unconfigure() -> None:
    _hub.__exit__(None, None, None)
    _home.cleanup()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The hub that `HF_ENDPOINT` names, with no requests recorded and no faults."""
    _hub.clear()
    _hub.heal()
    yield _hub
    _hub.heal()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty hub cache, for `cache_dir`."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def v4() -> Path:
    """Folder of the checkpoints that transformers 4 wrote."""
    return Path(__file__).parent / "fixtures" / "v4"
