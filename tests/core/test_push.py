"""Pushing to the hub: the genuine client against the loopback server, `hub_writes` (which says what it cannot show)."""

import json
import re
from pathlib import Path

import pytest
import torch
from hub_server import Request
from hub_writes import WritableHubServer
from huggingface_hub import ModelCard
from oracle import perturb, same

from vertebra import (
    AutoBackbone,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    ConvNextImageProcessor,
    TimmBackbone,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from vertebra.backbones.resnet import ResNetBackbone, ResNetConfig, ResNetForImageClassification
from vertebra.model import PreTrainedModel

CONFIG = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic", out_indices=[1, 2]
)
TOKEN = "hf_writer"
# The hub client's own use of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
PIXELS = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


@pytest.fixture(autouse=True)
def writer(hub: WritableHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may write, and a working directory and a cache in which nothing may appear."""
    hub.account(TOKEN, "someone", "org")
    hub.storage.clear()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def backbone(seed: int = 0, **changes: object) -> ResNetBackbone:
    torch.manual_seed(seed)
    return perturb(ResNetBackbone(ResNetConfig.from_dict(CONFIG.to_dict(), **changes)), seed).eval()


def assert_equal(loaded: PreTrainedModel, pushed: PreTrainedModel) -> None:
    assert loaded.state_dict().keys() == pushed.state_dict().keys()
    for name, tensor in pushed.state_dict().items():
        same(loaded.state_dict()[name], tensor, name)
    with torch.no_grad():
        same(loaded(PIXELS).to_tuple(), pushed(PIXELS).to_tuple())


def commits(hub: WritableHubServer) -> list[Request]:
    return [request for request in hub.requests if request.method == "POST" and "/commit/" in request.path]


def lines(request: Request, key: str) -> list[dict[str, object]]:
    return [line["value"] for line in map(json.loads, request.body.splitlines()) if line["key"] == key]


def test_a_backbone(hub: WritableHubServer, cache: Path, tmp_path: Path) -> None:
    pushed = backbone()
    commit = pushed.push_to_hub("org/backbone")
    assert commit.oid == hub.head("org/backbone")
    assert commit.commit_url == f"{hub.url}/org/backbone/commit/{commit.oid}"
    assert set(hub.files("org/backbone")) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert_equal(AutoBackbone.from_pretrained("org/backbone", cache_dir=cache), pushed)
    (request,) = commits(hub)
    assert lines(request, "header")[0]["summary"] == "Upload ResNetBackbone"
    assert [line["path"] for line in lines(request, "lfsFile")] == ["model.safetensors"]
    assert all(r.headers["authorization"] == f"Bearer {TOKEN}" for r in hub.requests if "/api/" in r.path)
    assert list((tmp_path / "cwd").iterdir()) == []


def test_what_is_not_a_model(hub: WritableHubServer, cache: Path) -> None:
    """Configurations and processors go the same way, bring no card, and leave the other files alone."""
    processor = ConvNextImageProcessor(size={"shortest_edge": 300}, crop_pct=0.9)
    processor.push_to_hub("org/parts")
    first = CONFIG.push_to_hub("org/parts", commit_message="The configuration", commit_description="By hand.")
    assert set(hub.files("org/parts")) == {".gitattributes", "config.json", "preprocessor_config.json"}
    assert ResNetConfig.from_pretrained("org/parts", cache_dir=cache) == CONFIG
    loaded = AutoImageProcessor.from_pretrained("org/parts", cache_dir=cache)
    assert (type(loaded), loaded.to_dict()) == (ConvNextImageProcessor, processor.to_dict())
    header = lines(commits(hub)[1], "header")[0]
    assert (header["summary"], header["description"]) == ("The configuration", "By hand.")
    again = CONFIG.push_to_hub("org/parts")
    assert again.oid == first.oid
    assert len(commits(hub)) == 2


@pytest.mark.parametrize("kind", ["backbone", "classifier", "timm"])
def test_the_card(hub: WritableHubServer, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The front matter parses, the tables tell the truth, and the code runs as it stands."""
    timm_config = TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 2])
    model = {
        "backbone": lambda: backbone(freeze="stem", size_policy="pad"),
        "classifier": lambda: ResNetForImageClassification(ResNetConfig.from_dict(CONFIG.to_dict(), num_labels=7)),
        "timm": lambda: TimmBackbone(timm_config),
    }[kind]()
    model.push_to_hub(f"org/card-{kind}", tags=["mine", "vertebra"], license="mit")
    card = ModelCard(hub.files(f"org/card-{kind}")["README.md"].decode())
    task = "image-classification" if kind == "classifier" else "image-feature-extraction"
    assert card.data.to_dict() == {
        "library_name": "vertebra",
        "license": "mit",
        "pipeline_tag": task,
        "tags": ["vertebra", model.config.model_type, "mine"],
    }
    parameters = sum(p.numel() for p in model.parameters())
    assert f"| parameters | {parameters:,} |\n| dtype | float32 |" in card.text
    if kind == "backbone":
        assert "| `stem` | 8 | 4 | computed |\n| `stage1` | 8 | 4 | returned |" in card.text
        assert "| `stage3` | 24 | 16 | not in these files |" in card.text
        assert "| image sizes | padded to a multiple of 8 |" in card.text
        assert "| frozen up to | `stem` |" in card.text
    assert ("| timm architecture | `resnet18` |" in card.text) == (kind == "timm")
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    if kind == "backbone":
        assert printed == "stage1 (1, 8, 56, 56)\nstage2 (1, 16, 28, 28)\n"
    elif kind == "timm":
        assert printed == "layer1 (1, 64, 56, 56)\nlayer2 (1, 128, 28, 28)\n"
    else:
        assert re.fullmatch(r"LABEL_[0-6]\n", printed)


def test_the_card_guesses_nothing(hub: WritableHubServer, cache: Path, tmp_path: Path) -> None:
    """License and base model stand in the card when they are known: said by the caller, or loaded from the hub."""
    plain = backbone()
    unknown = plain.model_card("org/unknown")
    assert "license:" not in unknown
    assert "base_model" not in unknown
    assert unknown.rpartition("## Not known")[2].count("\n- ") == 3
    assert "\n- What the weights started from.\n" in unknown
    assert "\n- License.\n" in unknown
    plain.push_to_hub("org/base")
    loaded = AutoBackbone.from_pretrained("org/base", cache_dir=cache)
    assert "\nbase_model: org/base\n" in loaded.model_card("org/derived")
    assert "base_model" not in loaded.model_card("org/base")
    loaded.save_pretrained(tmp_path / "org" / "base")
    assert "base_model" not in AutoBackbone.from_pretrained(tmp_path / "org" / "base").model_card("org/derived")
    cfg = {"architecture": "resnet18", "pretrained_cfg": {"license": "cc-by-nc-4.0"}}
    timm = TimmBackbone(TimmBackboneConfig.from_dict(cfg, use_pretrained_backbone=False)).model_card("org/timm")
    assert "license:" not in timm
    assert "names `cc-by-nc-4.0`; whether that holds for these is not recorded." in timm


def test_a_class_of_ones_own(hub: WritableHubServer) -> None:
    class Own(ResNetBackbone):
        pass

    card = Own(CONFIG).model_card("org/own")
    note = "# Own is not part of vertebra's public names; its code is not in this repository.\n"
    assert f"{note}from {Own.__module__} import Own\n" in card


def test_somebodys_card_stays(
    hub: WritableHubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    """Our card is renewed with the model until somebody edits it; anybody's own is never touched."""
    backbone().push_to_hub("org/renewed")
    backbone(out_indices=[0]).push_to_hub("org/renewed")
    assert "| `stage2` | 16 | 8 | not in these files |" in hub.files("org/renewed")["README.md"].decode()
    for number, text in enumerate(
        (hub.files("org/renewed")["README.md"].replace(b"Not known", b"Unknown"), b"# Mine\n")
    ):
        (tmp_path / "README.md").write_bytes(text)
        hub._repos.pop(f"org/mine{number}", None)
        folder = tmp_path / f"mine{number}"
        folder.mkdir()
        (tmp_path / "README.md").rename(folder / "README.md")
        hub.add(f"org/mine{number}", folder)
        backbone().push_to_hub(f"org/mine{number}", license="mit")
        assert hub.files(f"org/mine{number}")["README.md"] == text
        assert caplog.messages.pop() == (
            f"This push writes no model card to org/mine{number}, so tags and license were not used."
        )
        assert_equal(AutoBackbone.from_pretrained(f"org/mine{number}", cache_dir=cache), backbone())


def test_shards_are_replaced_in_one_commit(hub: WritableHubServer, cache: Path) -> None:
    """Sharded after single, other shards, single after sharded: never a file that the new weights do not have."""
    weights = {"model.safetensors"}
    for seed, size in enumerate(["5GB", "10KB", "6KB", "5GB"]):
        pushed = backbone(seed)
        before = set(hub.files("org/shards")) if seed else set()
        hub.clear()
        pushed.push_to_hub("org/shards", max_shard_size=size)
        (request,) = commits(hub)
        now = set(hub.files("org/shards"))
        assert {line["path"] for line in lines(request, "deletedFile")} == before - now
        weights, former = {name for name in now if "safetensors" in name}, weights
        if size == "5GB":
            assert weights == {"model.safetensors"}
        else:
            index = json.loads(hub.files("org/shards")["model.safetensors.index.json"])
            assert weights == {"model.safetensors.index.json", *index["weight_map"].values()}
            assert former.isdisjoint(weights - {"model.safetensors.index.json"})
        assert_equal(AutoBackbone.from_pretrained("org/shards", cache_dir=cache), pushed)


def test_what_the_new_weights_do_not_replace(hub: WritableHubServer, tmp_path: Path, cache: Path) -> None:
    """Variants, other formats, files an index should not name, and the shards of a damaged index stay."""
    made = tmp_path / "made"
    backbone(1).save_pretrained(made, variant="ema", max_shard_size="10KB")
    (made / "pytorch_model.bin").write_bytes(b"of another kind")
    (made / "notes.txt").write_text("mine")
    (made / "model-00001-of-00001.safetensors").write_bytes(b"whose?")
    (made / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"')
    hub.add("org/others", made)
    before = set(hub.files("org/others"))
    backbone().push_to_hub("org/others")
    expected = before - {"model.safetensors.index.json"} | {"README.md", "model.safetensors"}
    assert set(hub.files("org/others")) == expected
    backbone(2).push_to_hub("org/others", variant="ema")
    assert set(hub.files("org/others")) == {n for n in expected if "ema" not in n} | {"model.ema.safetensors"}
    assert_equal(AutoBackbone.from_pretrained("org/others", cache_dir=cache), backbone())
    assert_equal(AutoBackbone.from_pretrained("org/others", cache_dir=cache, variant="ema"), backbone(2))


def test_private(hub: WritableHubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    pushed = backbone()
    pushed.push_to_hub("my-secret", private=True, token=TOKEN)
    (created,) = [json.loads(r.body) for r in hub.requests if r.path == "/api/repos/create"]
    assert created.get("visibility") == "private" or created.get("private") is True
    assert created["organization"] is None
    with pytest.raises(OSError, match=r"^'someone/my-secret' is a gated repository"):
        AutoBackbone.from_pretrained("someone/my-secret", cache_dir=cache)
    assert_equal(AutoBackbone.from_pretrained("someone/my-secret", cache_dir=cache, token=TOKEN), pushed)
    backbone(1).push_to_hub("someone/my-secret", private=True, token=TOKEN)
    assert "someone/my-secret" in hub.files("someone/my-secret")["README.md"].decode()


def test_private_never_means_public(hub: WritableHubServer) -> None:
    backbone().push_to_hub("org/public")
    head = hub.head("org/public")
    text = (
        "private=True, but 'org/public' exists and is public; private is for new repositories. Nothing was uploaded. Make it "
        "private on its settings page, or push to another name."
    )
    with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
        backbone(1).push_to_hub("org/public", private=True)
    assert hub.head("org/public") == head


def test_branches_and_pull_requests(hub: WritableHubServer, cache: Path) -> None:
    first, second, third = backbone(), backbone(1), backbone(2)
    first.push_to_hub("org/branches")
    main = hub.head("org/branches")
    second.push_to_hub("org/branches", revision="feature/two", max_shard_size="10KB")
    proposed = third.push_to_hub("org/branches", create_pr=True)
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
    assert proposed.pr_url == f"{hub.url}/org/branches/discussions/1"
    assert hub.head("org/branches") == main
    assert hub.revisions("org/branches") == {"main", "feature/two", "refs/pr/1"}
    for revision, model in (("main", first), ("feature/two", second), ("refs/pr/1", third)):
        assert_equal(AutoBackbone.from_pretrained("org/branches", cache_dir=cache, revision=revision), model)
    first.push_to_hub("org/branches", revision="refs/pr/1")
    first.push_to_hub("org/branches", revision="feature/two")
    for revision in ("feature/two", "refs/pr/1"):
        assert_equal(AutoBackbone.from_pretrained("org/branches", cache_dir=cache, revision=revision), first)
    assert "model.safetensors.index.json" not in hub.files("org/branches", "feature/two")


def test_a_pull_request_to_a_repository_of_others(hub: WritableHubServer, cache: Path) -> None:
    backbone().push_to_hub("org/theirs")
    head = hub.head("org/theirs")
    hub.account("hf_guest", "guest")
    text = (
        "This token may not write to 'org/theirs'. It needs the write role in that namespace; where you may only read, "
        "create_pr=True proposes the commit. ("
    )
    with pytest.raises(OSError, match="^" + re.escape(text)):
        backbone(1).push_to_hub("org/theirs", token="hf_guest")
    backbone(1).push_to_hub("org/theirs", token="hf_guest", create_pr=True)
    assert hub.head("org/theirs") == head
    assert_equal(AutoBackbone.from_pretrained("org/theirs", cache_dir=cache, revision="refs/pr/1"), backbone(1))


def test_saving_and_pushing(hub: WritableHubServer, tmp_path: Path, cache: Path) -> None:
    """`push_to_hub=True` of `save_pretrained`, with transformers' names."""
    pushed = backbone()
    pushed.save_pretrained(tmp_path / "kept", push_to_hub=True, max_shard_size="10KB", commit_message="Both")
    CONFIG.save_pretrained(tmp_path / "config", push_to_hub=True, repo_id="org/config")
    ConvNextImageProcessor().save_pretrained(tmp_path / "processor", push_to_hub=True, repo_id="org/processor")
    uploaded = hub.files("someone/kept")
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == {
        name: data for name, data in uploaded.items() if name not in (".gitattributes", "README.md")
    }
    assert len(uploaded) > 5
    assert lines(commits(hub)[0], "header")[0]["summary"] == "Both"
    assert ResNetConfig.from_pretrained("org/config", cache_dir=cache) == CONFIG
    assert "preprocessor_config.json" in hub.files("org/processor")
    hub.clear()
    for model in (pushed, CONFIG, ConvNextImageProcessor()):
        with pytest.raises(
            TypeError, match=r"^save_pretrained\(private=…\) is for the hub and needs push_to_hub=True\.$"
        ):
            model.save_pretrained(tmp_path / "never", private=True)
        with pytest.raises(
            TypeError, match=r"save_pretrained has no argument 'comit_message'\. Did you mean 'commit_mes"
        ):
            model.save_pretrained(tmp_path / "never", push_to_hub=True, comit_message="x")
    assert not (tmp_path / "never").exists()
    assert hub.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 500])
def test_a_commit_that_fails_leaves_everything(hub: WritableHubServer, cache: Path, status: int) -> None:
    name = f"org/fails-{status}"
    backbone().push_to_hub(name, max_shard_size="10KB")
    head, files = hub.head(name), hub.files(name)
    hub.fail("/commit/", status, method="POST")
    text = {
        400: f"The hub refused the push to '{name}'; its files are as they were. (",
        401: f"The hub does not accept this token for '{name}'. Make one with write access on the hub's settings page, then "
        f"pass token=… or run `hf auth login`. (",
        403: f"This token may not write to '{name}'. It needs the write role in that namespace; ",
        404: f"The hub has no such repository or revision to push to, or hides it from this token: '{name}'. (",
        412: f"Somebody committed to '{name}' while this push was under way; nothing of it was written. Push again.",
        500: f"The hub did not complete the push to '{name}': its files are as they were, or all new where only the answer "
        f"was lost; pushing again is safe. (",
    }[status]
    with pytest.raises(OSError, match="^" + re.escape(text)):
        backbone(1).push_to_hub(name)
    assert (hub.head(name), hub.files(name)) == (head, files)
    assert_equal(AutoBackbone.from_pretrained(name, cache_dir=cache), backbone())
    hub.heal()
    backbone(1).push_to_hub(name)
    assert_equal(AutoBackbone.from_pretrained(name, cache_dir=cache), backbone(1))


@pytest.mark.parametrize("step", ["/branch/", "/revision/", "/preupload/", "/objects/batch", "/lfs-storage/"])
def test_every_step_that_is_refused_says_so(hub: WritableHubServer, step: str) -> None:
    backbone().push_to_hub("org/steps")
    head = hub.head("org/steps")
    hub.fail(step, 403)
    with pytest.raises(OSError, match=r"^This token may not write to 'org/steps'\. It needs the write role"):
        backbone(1, out_indices=[1]).push_to_hub("org/steps", revision="next")
    assert hub.head("org/steps") == head
    assert commits(hub)[1:] == []


def test_an_answer_that_is_no_json(hub: WritableHubServer) -> None:
    """What a proxy in between may send; the client reads this one answer before it looks at its status."""
    hub.fail("/validate-yaml", 403)
    with pytest.raises(
        OSError, match=r"^The hub did not complete the push to 'org/proxy'.*\(JSONDecodeError: Expecting"
    ):
        backbone().push_to_hub("org/proxy")
    assert set(hub.files("org/proxy")) == {".gitattributes"}


def test_an_answer_that_is_lost(hub: WritableHubServer) -> None:
    """The commit has happened; pushing again finds nothing to do."""
    hub.fail("/commit/", "short", method="POST", times=1)
    with pytest.raises(OSError, match=r"^The hub did not complete the push to 'org/lost'.*; pushing again is safe\."):
        backbone().push_to_hub("org/lost")
    head = hub.head("org/lost")
    assert "model.safetensors" in hub.files("org/lost")
    assert backbone().push_to_hub("org/lost").oid == hub.head("org/lost") == head


def test_a_commit_in_between_is_not_overwritten(hub: WritableHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of files to remove holds for one commit; another push in the meantime refuses this one."""
    backbone().push_to_hub("org/race")
    real = ResNetBackbone._files_replaced

    def with_a_rival(self: ResNetBackbone, *args: object, **kwargs: object) -> set[str]:
        monkeypatch.setattr(ResNetBackbone, "_files_replaced", real)
        backbone(1).push_to_hub("org/race", max_shard_size="10KB")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ResNetBackbone, "_files_replaced", with_a_rival)
    with pytest.raises(OSError, match=r"^Somebody committed to 'org/race' while this push was under way"):
        backbone(2).push_to_hub("org/race")
    assert "model.safetensors.index.json" in hub.files("org/race")


def test_no_right_to_write(hub: WritableHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"^This token may not write to 'elsewhere/model'\. It needs the write role"):
        backbone().push_to_hub("elsewhere/model")
    with pytest.raises(
        OSError, match=r"^The hub does not accept this token for 'org/model'\. Make one with write access"
    ):
        backbone().push_to_hub("org/model", token="hf_wrong")
    hub.clear()
    monkeypatch.delenv("HF_TOKEN")
    text = (
        "Pushing to 'org/model' needs a token with write access, and there is none: pass token=…, set HF_TOKEN, or run "
        "`hf auth login`."
    )
    for token in (None, True, False):
        with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
            CONFIG.push_to_hub("org/model", token=token)
    assert hub.requests == []


def test_what_is_refused_before_the_network(
    hub: WritableHubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("a/b/c", "./folder", "org/with space", ""):
        text = f"repo_id={name!r} is no name of a hub repository: it is 'organisation/name' or 'name', of at most 96"
        with pytest.raises(ValueError, match="^" + re.escape(text)):
            CONFIG.push_to_hub(name)
    with torch.device("meta"):
        empty = ResNetBackbone(CONFIG)
    with pytest.raises(ValueError, match=r"have no values: they are on the meta device\. Load or initialise the model"):
        empty.push_to_hub("org/empty")
    with pytest.raises(ValueError, match=r"^max_shard_size='big' must be a number of bytes"):
        backbone().push_to_hub("org/empty", max_shard_size="big")
    text = (
        "ResNetBackbone.push_to_hub has no argument 'max_shard_sise'. Did you mean 'max_shard_size'? Beside push_to_hub's own "
        "it takes those of save_pretrained: state_dict, max_shard_size, variant."
    )
    with pytest.raises(TypeError, match="^" + re.escape(text) + "$"):
        backbone().push_to_hub("org/empty", max_shard_sise=3)
    with pytest.raises(TypeError, match=r"takes those of save_pretrained: none here\.$"):
        ConvNextImageProcessor().push_to_hub("org/empty", max_shard_size=3)
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        text = "HF_HUB_OFFLINE is set, so 'org/empty' was not pushed. Unset it, or save_pretrained(folder)."
        with pytest.raises(OSError, match="^" + re.escape(text) + "$"):
            CONFIG.push_to_hub("org/empty")
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    text = r"^push_to_hub saves into a temporary folder first, and none can be written \(.*\)\. Set TMPDIR to a folder"
    with pytest.raises(OSError, match=text):
        CONFIG.push_to_hub("org/empty")
    assert hub.requests == []


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"^The hub did not complete the push to 'org/silent': .*Connect(ion)?Error"):
        CONFIG.push_to_hub("org/silent")


def test_a_model_over_a_backbone(hub: WritableHubServer, cache: Path) -> None:
    config = UperNetConfig(backbone="test_resnet", hidden_size=8, auxiliary_channels=8, neck="fpn", num_labels=3)
    torch.manual_seed(0)
    pushed = UperNetForSemanticSegmentation(config).eval()
    pushed.push_to_hub("org/upernet")
    assert set(hub.files("org/upernet")) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    loaded = AutoModelForSemanticSegmentation.from_pretrained("org/upernet", cache_dir=cache)
    assert_equal(loaded, pushed)
    assert "base_model" not in pushed.model_card("org/other")
    assert "base_model: org/upernet" in loaded.model_card("org/other")
