"""The genuine hub client against the loopback server: what the other tests take for granted."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

REPO = "org/tiny"
LONG = b"0123456789" * 100


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "swin"}')
    (folder / "sub dir" / "long.txt").write_bytes(LONG)
    save_file({"weight": torch.arange(6.0).reshape(2, 3)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def server(checkpoint: Path) -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.add(REPO, checkpoint)
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def sent(server: HubServer) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in server.requests]


@pytest.mark.parametrize("repo_id", [REPO, "bert-base-cased"])
def test_download_then_only_head(server: HubServer, checkpoint: Path, cache: Path, repo_id: str) -> None:
    sha = server.add(repo_id, checkpoint)
    path = f"/{repo_id}/resolve/main/config.json"

    first = hf_hub_download(repo_id, "config.json", endpoint=server.url, cache_dir=cache)
    assert json.loads(Path(first).read_text()) == {"model_type": "swin"}
    assert Path(first).parent.name == sha
    assert sent(server) == [("HEAD", path), ("GET", path)]

    server.clear()
    assert hf_hub_download(repo_id, "config.json", endpoint=server.url, cache_dir=cache) == first
    assert sent(server) == [("HEAD", path)]


def test_quoted_path(server: HubServer, cache: Path) -> None:
    path = hf_hub_download(REPO, "sub dir/long.txt", endpoint=server.url, cache_dir=cache)
    assert Path(path).read_bytes() == LONG


def test_local_files_only_sends_nothing(server: HubServer, cache: Path) -> None:
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache, local_files_only=True)
    assert sent(server) == []
    first = hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache)
    server.clear()
    assert hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache, local_files_only=True) == first
    assert sent(server) == []


@pytest.mark.parametrize(
    ("repo_id", "filename", "revision", "error"),
    [
        (REPO, "absent.json", "main", EntryNotFoundError),
        (REPO, "config.json", "absent", RevisionNotFoundError),
        ("org/absent", "config.json", "main", RepositoryNotFoundError),
        ("absent", "config.json", "main", RepositoryNotFoundError),
    ],
)
def test_not_found(
    server: HubServer, cache: Path, repo_id: str, filename: str, revision: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        hf_hub_download(repo_id, filename, revision=revision, endpoint=server.url, cache_dir=cache)


def test_private_repo(server: HubServer, checkpoint: Path, cache: Path) -> None:
    server.add("org/secret", checkpoint, private_token="hf_right")
    for token in (False, "hf_wrong"):
        with pytest.raises(GatedRepoError) as caught:
            hf_hub_download("org/secret", "config.json", token=token, endpoint=server.url, cache_dir=cache)
        assert caught.value.response.status_code == (403 if token else 401)
    path = hf_hub_download("org/secret", "config.json", token="hf_right", endpoint=server.url, cache_dir=cache)
    assert Path(path).read_bytes() == (checkpoint / "config.json").read_bytes()
    assert server.requests[-1].headers["authorization"] == "Bearer hf_right"


def test_api(server: HubServer, checkpoint: Path) -> None:
    api = HfApi(endpoint=server.url, token=False)
    files = ["config.json", "model.safetensors", "sub dir/long.txt"]
    assert sorted(api.list_repo_files(REPO)) == files
    info = api.model_info(REPO)
    assert info.id == REPO
    assert info.sha == server.add(REPO, checkpoint)
    assert sorted(sibling.rfilename for sibling in info.siblings or []) == files
    assert api.repo_exists(REPO)
    assert not api.repo_exists("org/absent")
    assert api.file_exists(REPO, "config.json")
    assert not api.file_exists(REPO, "absent.json")
    assert api.revision_exists(REPO, "main")
    assert not api.revision_exists(REPO, "absent")


def test_safetensors_metadata_reads_a_range(server: HubServer) -> None:
    metadata = HfApi(endpoint=server.url, token=False).get_safetensors_metadata(REPO)
    assert metadata.files_metadata["model.safetensors"].tensors["weight"].shape == [2, 3]
    assert {r.headers.get("range") for r in server.requests if r.method == "GET"} == {"bytes=0-100000"}


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [("10-19", LONG[10:20], "bytes 10-19/1000"), ("990-", LONG[990:], "bytes 990-999/1000")],
)
def test_range(server: HubServer, asked: str, body: bytes, content_range: str) -> None:
    url = f"{server.url}/{REPO}/resolve/main/sub%20dir/long.txt"
    with urlopen(Request(url, headers={"Range": f"bytes={asked}"})) as answer:
        assert (answer.status, answer.headers["Content-Range"], answer.read()) == (206, content_range, body)


def test_range_past_the_end(server: HubServer) -> None:
    url = f"{server.url}/{REPO}/resolve/main/sub%20dir/long.txt"
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(url, headers={"Range": "bytes=1000-"}))
    assert (caught.value.code, caught.value.headers["Content-Range"]) == (416, "bytes */1000")
    caught.value.close()


def test_snapshot_download(server: HubServer, checkpoint: Path, cache: Path) -> None:
    folder = Path(snapshot_download(REPO, endpoint=server.url, cache_dir=cache))
    assert folder.name == server.add(REPO, checkpoint)
    assert torch.equal(load_file(folder / "model.safetensors")["weight"], torch.arange(6.0).reshape(2, 3))
    assert (folder / "sub dir" / "long.txt").read_bytes() == LONG
    only = snapshot_download(REPO, allow_patterns="*.json", endpoint=server.url, cache_dir=cache.with_name("json"))
    assert [p.name for p in Path(only).iterdir()] == ["config.json"]


def test_revisions_and_moving_branch(server: HubServer, checkpoint: Path, cache: Path) -> None:
    old = server.add(REPO, checkpoint)
    assert server.add(REPO, checkpoint, revision="refs/pr/1") == old
    (checkpoint / "config.json").write_text("{}")
    new = server.add(REPO, checkpoint)
    assert new != old
    for revision, text in (("main", "{}"), ("refs/pr/1", '{"model_type": "swin"}'), (old, '{"model_type": "swin"}')):
        path = hf_hub_download(REPO, "config.json", revision=revision, endpoint=server.url, cache_dir=cache)
        assert Path(path).read_text() == text


@pytest.mark.parametrize(("status", "error"), [(401, GatedRepoError), (403, GatedRepoError), (404, EntryNotFoundError)])
def test_refusals_on_purpose(server: HubServer, cache: Path, status: int, error: type[Exception]) -> None:
    server.fail("config.json", status)
    with pytest.raises(error):
        hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache)
    server.heal()
    assert Path(hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache)).is_file()


@pytest.mark.parametrize(("status", "retry_after"), [(429, "1"), (500, None)])
def test_failures_on_purpose(server: HubServer, status: int, retry_after: str | None) -> None:
    server.fail("/api/", status)
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=server.url, token=False).model_info(REPO)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers.get("Retry-After") == retry_after


def test_failure_that_passes(server: HubServer, cache: Path) -> None:
    # Two, for the client asks once quickly and then, with nothing cached, again and patiently.
    server.fail("config.json", 500, method="HEAD", times=2)
    path = hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache)
    assert Path(path).read_text() == '{"model_type": "swin"}'
    assert [method for method, _ in sent(server)] == ["HEAD", "HEAD", "HEAD", "GET"]


def test_short_body_is_asked_for_again(server: HubServer, cache: Path) -> None:
    server.fail("long.txt", "short", method="GET", times=1)
    path = hf_hub_download(REPO, "sub dir/long.txt", endpoint=server.url, cache_dir=cache)
    assert Path(path).read_bytes() == LONG
    assert [method for method, _ in sent(server)] == ["HEAD", "GET", "GET"]


def test_stall_falls_back_on_the_cache(server: HubServer, cache: Path) -> None:
    first = hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache)
    server.fail("config.json", "stall")
    assert hf_hub_download(REPO, "config.json", endpoint=server.url, cache_dir=cache, etag_timeout=0.2) == first
