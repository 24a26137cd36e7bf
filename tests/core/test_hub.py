"""Checkpoints on the hub: the genuine client against the loopback server."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer
from oracle import perturb, same

from vertebra.backbones.resnet import ResNetBackbone, ResNetConfig, ResNetModel
from vertebra.hub import CheckpointFiles, HubOptions, is_offline

CONFIG = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
CONVOLUTION = "embedder.embedder.convolution.weight"


def checkpoint(folder: Path, seed: int = 0, **kwargs: object) -> ResNetModel:
    model = perturb(ResNetModel(CONFIG), seed).eval()
    model.save_pretrained(folder, **kwargs)
    return model


def assert_loads(expected: ResNetModel, source: str, cache: Path, **kwargs: object) -> None:
    loaded = ResNetModel.from_pretrained(source, cache_dir=cache, **kwargs)
    for name, tensor in expected.state_dict().items():
        same(loaded.state_dict()[name], tensor, name)


@pytest.mark.parametrize("repo", ["org/plain", "resnet-without-organisation"])
def test_an_id(hub: HubServer, cache: Path, tmp_path: Path, repo: str) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add(repo, tmp_path / "made")
    assert_loads(expected, repo, cache)
    assert ResNetModel.from_pretrained(repo, cache_dir=cache).name_or_path == repo
    assert ResNetConfig.from_pretrained(repo, cache_dir=cache).depths == [1, 1]


def test_a_subfolder_called_snapshots(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """As a folder in the client's own cache is called."""
    expected = checkpoint(tmp_path / "made" / "snapshots")
    commit = hub.add("org/snapshots", tmp_path / "made")
    assert_loads(expected, "org/snapshots", cache / "snapshots", subfolder="snapshots")
    files = CheckpointFiles.open("org/snapshots", HubOptions(cache_dir=cache / "snapshots", subfolder="snapshots"))
    files.require("config.json")
    assert files.commit == commit


def test_shards_subfolder_and_variant(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made", max_shard_size="2KB")
    other = checkpoint(tmp_path / "made" / "inner", seed=1, variant="ema", max_shard_size="3KB")
    hub.add("org/layouts", tmp_path / "made")
    assert_loads(expected, "org/layouts", cache)
    assert_loads(other, "org/layouts", cache, subfolder="inner", variant="ema")


def test_revisions(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "first")
    commit = hub.add("org/revisions", tmp_path / "first")
    second = checkpoint(tmp_path / "second", seed=1)
    hub.add("org/revisions", tmp_path / "second")
    hub.add("org/revisions", tmp_path / "first", revision="v1")
    assert_loads(second, "org/revisions", cache)
    assert_loads(first, "org/revisions", cache, revision="v1")
    assert_loads(first, "org/revisions", cache, revision=commit)
    with pytest.raises(OSError, match=r"^The hub repository 'org/revisions' has no revision 'v9'\.$"):
        ResNetModel.from_pretrained("org/revisions", cache_dir=cache, revision="v9")


def test_one_commit_per_load(hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push between config and weights does not mix two versions."""
    expected = checkpoint(tmp_path / "made")
    commit = hub.add("org/moving", tmp_path / "made")
    checkpoint(tmp_path / "next", seed=1)
    real = CheckpointFiles._download

    def push_after_config(self: CheckpointFiles, filename: str) -> Path | None:
        path = real(self, filename)
        if filename == "config.json":
            hub.add("org/moving", tmp_path / "next")
        return path

    monkeypatch.setattr(CheckpointFiles, "_download", push_after_config)
    assert_loads(expected, "org/moving", cache)
    later = [r.path for r in hub.requests if "/resolve/" in r.path and "config.json" not in r.path]
    assert later
    assert all(path.startswith(f"/org/moving/resolve/{commit}/") for path in later)


def test_what_is_asked_for(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    checkpoint(tmp_path / "made")
    (tmp_path / "made" / "notes.bin").write_bytes(bytes(1000))
    hub.add("org/asked", tmp_path / "made")
    ResNetModel.from_pretrained("org/asked", cache_dir=cache)
    fetched = [request.path.rpartition("/")[2] for request in hub.requests if request.method == "GET"]
    assert fetched == ["config.json", "model.safetensors"]
    hub.clear()
    ResNetModel.from_pretrained("org/asked", cache_dir=cache)
    assert [request.method for request in hub.requests if request.method != "HEAD"] == []


def test_private(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/private", tmp_path / "made", private_token="hf_right")
    assert_loads(expected, "org/private", cache, token="hf_right")
    text = "'org/private' is a gated repository: ask for access on its page, then pass token=… or run `hf auth login`."
    for token in (None, "hf_wrong"):
        with pytest.raises(OSError, match=re.escape(text)):
            ResNetModel.from_pretrained("org/private", cache_dir=cache / "empty", token=token)


def test_no_such_repository(hub: HubServer, cache: Path) -> None:
    text = (
        "'org/nowhere' is neither a local folder nor a repository on the hub that this token may read. A private "
        "repository needs token=… or `hf auth login`."
    )
    with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
        ResNetModel.from_pretrained("org/nowhere", cache_dir=cache)


def test_a_misspelt_folder_is_told_its_neighbours(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo/lite0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("demo/litte0", "./demo/litte0", str(tmp_path / "demo/litte0")):
        with pytest.raises(OSError, match=r"Did you mean 'lite0'\?"):
            ResNetModel.from_pretrained(name)
    with pytest.raises(OSError, match="neither a local folder nor") as error:
        ResNetModel.from_pretrained("nowhere/lite0")
    assert "Did you mean" not in str(error.value)


def test_a_repository_without_weights(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    CONFIG.save_pretrained(tmp_path / "made")
    hub.add("org/bare", tmp_path / "made")
    text = (
        "The hub repository 'org/bare' holds no weights: none of model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin, pytorch_model.bin.index.json is there."
    )
    with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
        ResNetModel.from_pretrained("org/bare", cache_dir=cache)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").touch()
    hub.add("org/bare", tmp_path / "empty", revision="void")
    with pytest.raises(
        OSError, match=r"^The hub repository 'org/bare' at revision 'void' has no file 'config\.json'\.$"
    ):
        ResNetModel.from_pretrained("org/bare", cache_dir=cache, revision="void")


def test_from_the_cache_alone(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/cached", tmp_path / "made")
    ResNetModel.from_pretrained("org/cached", cache_dir=cache)
    hub.clear()
    assert_loads(expected, "org/cached", cache, local_files_only=True)
    backbone = ResNetBackbone.from_pretrained("org/cached", cache_dir=cache, local_files_only=True, out_indices=[1])
    assert backbone.out_features == ["stage1"]
    text = (
        "The hub repository 'org/elsewhere' has no file 'config.json'. Only the local cache was searched (offline, or "
        "local_files_only=True)."
    )
    with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
        ResNetModel.from_pretrained("org/elsewhere", cache_dir=cache, local_files_only=True)
    assert hub.requests == []


def test_offline(hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/offline", tmp_path / "made")
    ResNetModel.from_pretrained("org/offline", cache_dir=cache)
    hub.clear()
    assert not is_offline()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert is_offline()
    assert_loads(expected, "org/offline", cache)
    with pytest.raises(OSError, match=r"Only the local cache was searched \(offline, or local_files_only=True\)\.$"):
        ResNetModel.from_pretrained("org/never", cache_dir=cache)
    assert hub.requests == []


def test_the_cache_serves_when_the_hub_is_ill(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/ill", tmp_path / "made")
    ResNetModel.from_pretrained("org/ill", cache_dir=cache)
    hub.fail("org/ill", 500)
    assert_loads(expected, "org/ill", cache)


def test_a_hub_that_refuses(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/refuses", tmp_path / "made")
    for status in (400, 418):
        hub.fail("config.json", status)
        with pytest.raises(
            OSError, match=r"^The hub (did not answer when asked for|refused) 'config\.json' of 'org/refuses'"
        ):
            ResNetModel.from_pretrained("org/refuses", cache_dir=cache)
    hub.heal()
    assert_loads(expected, "org/refuses", cache)


def test_a_damaged_cache_says_so(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    expected = checkpoint(tmp_path / "made")
    hub.add("org/damaged", tmp_path / "made")
    ResNetModel.from_pretrained("org/damaged", cache_dir=cache)
    (blob,) = [
        path for path in cache.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size > 5000
    ]
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"is not a whole safetensors file \(.*\)\. Download or copy it again\.$"):
        ResNetModel.from_pretrained("org/damaged", cache_dir=cache)
    assert_loads(expected, "org/damaged", cache, force_download=True)


def test_a_folder_of_the_name_wins(
    hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "hub")
    hub.add("org/both", tmp_path / "hub")
    expected = checkpoint(tmp_path / "work" / "org" / "both", seed=1)
    monkeypatch.chdir(tmp_path / "work")
    assert_loads(expected, "org/both", cache)
    assert hub.requests == []


def test_file_names_stay_inside(tmp_path: Path, hub: HubServer) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    for files in (CheckpointFiles.open(tmp_path / "folder"), CheckpointFiles.open("org/any")):
        with pytest.raises(ValueError, match=r"^'\.\./secret\.json' leads out of its folder"):
            files.find("../secret.json")
    assert hub.requests == []


def test_options() -> None:
    kwargs = {"revision": "v1", "token": None, "out_indices": [1], "local_files_only": True}
    assert HubOptions.pop(kwargs) == HubOptions(revision="v1", local_files_only=True)
    assert kwargs == {"out_indices": [1]}


def test_opened_files_are_passed_on(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    checkpoint(tmp_path / "made")
    commit = hub.add("org/open", tmp_path / "made")
    files = CheckpointFiles.open("org/open", HubOptions(cache_dir=cache))
    assert json.loads(files.require("config.json").read_text())["depths"] == [1, 1]
    assert files.commit == commit
    assert CheckpointFiles.open(files) is files
    assert ResNetModel.from_pretrained(files).name_or_path == "org/open"
    assert files.find("absent.txt") is None
    with pytest.raises(FileNotFoundError, match=r"^The hub repository 'org/open' has no file 'absent\.txt'\.$"):
        files.require("absent.txt")
    shutil.rmtree(cache)
