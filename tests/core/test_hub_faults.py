"""A hub that refuses, breaks off or keeps silent: the genuine client, clear errors, and no damaged file left behind."""

import re
import time
from pathlib import Path

import pytest
from hub_server import Fault, HubServer
from oracle import perturb, same

from vertebra.backbones.resnet import ResNetConfig, ResNetModel
from vertebra.cli import main

CONFIG = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
FILES = ("config.json", "model.safetensors")
GATED = "'org/{repo}' is a gated repository: ask for access on its page, then pass token=… or run `hf auth login`."
SILENT = "The hub did not answer when asked for '{file}' of 'org/{repo}', and it is not in the local cache: "
REFUSED = "The hub refused '{file}' of 'org/{repo}': "
NOT_CACHED = "The hub refused '{file}' of 'org/{repo}', and it is not in the local cache: "
BROKE = "The download of '{file}' of 'org/{repo}' broke off: "
ADVICE = (
    " Check the connection and HF_ENDPOINT and try again, use local_files_only=True for what is cached, or set "
    "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds) higher for a slow hub."
)
FAULTS: list[tuple[Fault, str | None, str]] = [
    (401, None, GATED),
    (403, None, GATED),
    (429, None, NOT_CACHED + "Client error '429 Too Many Requests'"),
    (429, "GET", REFUSED + "Client error '429 Too Many Requests'"),
    (500, None, NOT_CACHED + "Server error '500 Internal Server Error'"),
    (500, "GET", REFUSED + "Server error '500 Internal Server Error'"),
    (503, None, NOT_CACHED + "Server error '503 Service Unavailable'"),
    (418, None, NOT_CACHED + "Client error"),
    ("short", None, BROKE + "peer closed connection without sending complete message body"),
    ("stall", None, SILENT + "timed out."),
    ("stall", "GET", BROKE + "timed out."),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short patience, through the client's own settings, and no pauses between its attempts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def model(hub: HubServer, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, ResNetModel]:
    """A repository of this test alone, and the model in it."""
    repo = re.sub(r"\W+", "-", request.node.name).strip("-")[:60]
    expected = perturb(ResNetModel(CONFIG)).eval()
    expected.save_pretrained(tmp_path / "made")
    hub.add(f"org/{repo}", tmp_path / "made")
    return repo, expected


def assert_loads(model: tuple[str, ResNetModel], cache: Path) -> None:
    loaded = ResNetModel.from_pretrained(f"org/{model[0]}", cache_dir=cache)
    for name, tensor in model[1].state_dict().items():
        same(loaded.state_dict()[name], tensor, name)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("fault", "method", "text"), FAULTS, ids=[f"{fault}-{method}" for fault, method, _ in FAULTS])
def test_a_first_load(
    fault: Fault, method: str | None, text: str, file: str, hub: HubServer, cache: Path, model: tuple[str, ResNetModel]
) -> None:
    hub.fail(file, fault, method=method)
    start = time.monotonic()
    with pytest.raises(OSError, match="^" + re.escape(text.format(file=file, repo=model[0]))) as caught:
        assert_loads(model, cache)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert text == GATED or str(caught.value).endswith(ADVICE)
    assert not [path for path in cache.rglob(file) if "snapshots" in path.parts], "a file that was not fetched"
    hub.heal()
    assert_loads(model, cache)
    hub.fail("org/", 500)
    assert_loads(model, cache)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", [401, 403, 429, 500, "short", "stall"])
def test_a_complete_cache_serves(
    fault: Fault, file: str, hub: HubServer, cache: Path, model: tuple[str, ResNetModel]
) -> None:
    assert_loads(model, cache)
    hub.fail(file, fault)
    hub.clear()
    assert_loads(model, cache)
    assert len(hub.requests) == 1, "the commit is asked for once, and what the cache has of it is not"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", [429, 500, "short"])
def test_passing_faults_are_sat_out(
    fault: Fault, file: str, hub: HubServer, cache: Path, model: tuple[str, ResNetModel]
) -> None:
    """Two faults, and then an answer; what was fetched before the fault does no harm."""
    hub.fail(file, fault, method="GET" if fault == "short" else "HEAD", times=2)
    assert_loads(model, cache)


def test_a_silent_hub_is_not_waited_for(hub: HubServer, cache: Path, model: tuple[str, ResNetModel]) -> None:
    """The client alone would ask seven times, with a minute's patience each, whatever its settings say."""
    hub.fail("org/", "stall")
    start = time.monotonic()
    with pytest.raises(OSError, match=r"^The hub did not answer when asked for 'config\.json'"):
        assert_loads(model, cache)
    assert time.monotonic() - start < 3
    assert len(hub.requests) == 1


def test_a_hub_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *args, **kwargs: "http://127.0.0.1:9/none")
    start = time.monotonic()
    with pytest.raises(OSError, match=r"^The hub did not answer when asked for 'config\.json' of 'org/none'.*refused"):
        ResNetModel.from_pretrained("org/none", cache_dir=cache)
    assert time.monotonic() - start < 3


def test_what_the_repository_lacks(hub: HubServer, cache: Path, model: tuple[str, ResNetModel]) -> None:
    name = f"org/{model[0]}"
    hub.fail("config.json", 404)
    with pytest.raises(FileNotFoundError, match=rf"^The hub repository '{name}' has no file 'config\.json'\.$"):
        ResNetModel.from_pretrained(name, cache_dir=cache)
    hub.heal()
    hub.fail("model.safetensors", 404)
    with pytest.raises(FileNotFoundError, match=rf"^The hub repository '{name}' holds no weights: none of model\.saf"):
        ResNetModel.from_pretrained(name, cache_dir=cache)
    hub.heal()
    with pytest.raises(OSError, match=rf"^The hub repository '{name}' has no revision 'v9'\.$"):
        ResNetModel.from_pretrained(name, cache_dir=cache, revision="v9")
    with pytest.raises(OSError, match=r"^'org/nowhere' is neither a local folder nor a repository on the hub"):
        ResNetModel.from_pretrained("org/nowhere", cache_dir=cache)


def test_a_shard_that_breaks_off(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = perturb(ResNetModel(CONFIG)).eval()
    expected.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    hub.add("org/broken-shard", tmp_path / "shards")
    shard = sorted(tmp_path.glob("shards/*-00002-of-*"))[0].name
    hub.fail(shard, "short")
    with pytest.raises(OSError, match=rf"^The download of '{shard}' of 'org/broken-shard' broke off: "):
        ResNetModel.from_pretrained("org/broken-shard", cache_dir=cache)
    hub.heal()
    assert_loads(("broken-shard", expected), cache)


def test_a_token_that_is_not_stored(hub: HubServer, cache: Path, model: tuple[str, ResNetModel]) -> None:
    with pytest.raises(OSError, match=r"was asked for with token=True, and no token is stored: run `hf auth login`\.$"):
        ResNetModel.from_pretrained(f"org/{model[0]}", cache_dir=cache, token=True)


@pytest.mark.parametrize("fault", [401, 429, 500, "short", "stall"])
def test_info(fault: Fault, hub: HubServer, model: tuple[str, ResNetModel], capsys: pytest.CaptureFixture[str]) -> None:
    name = f"org/{model[0]}"
    start = time.monotonic()
    for file in FILES:
        hub.heal()
        hub.fail(file, fault)
        assert main(["info", name]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert name in output.err
        assert "Traceback" not in output.err
        assert file in output.err or fault == 401
    assert time.monotonic() - start < 10
    hub.heal()
    assert main(["info", name]) == 0
