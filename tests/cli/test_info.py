"""`vertebra info`: what it says is what a load gives, and no weights are read or downloaded for it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from real import ROOT, lite0, tiny_backbone

from vertebra import AutoBackbone, SwinBackbone, SwinConfig, cost
from vertebra.backbones.timm_models import NO_META_RUN
from vertebra.cli import main
from vertebra.cli.arguments import byte_count
from vertebra.inspection.facts import REAL_RUN, describe

SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading tensors out of a weight file fails; opening it for its names and shapes does not."""
    lite0()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a weight file was read")

    monkeypatch.setattr("vertebra.weights.WeightFiles.read", refuse)
    monkeypatch.setattr("vertebra.weights.torch.load", refuse)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("size", [(224, 224), (320, 512)])
def test_a_folder_is_what_a_load_gives(size: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(capsys, str(lite0()), "--strides", "8,32", "--size", f"{size[0]}x{size[1]}")
    with torch.device("meta"):
        selected = AutoBackbone.from_pretrained(lite0(), use_pretrained_backbone=False, out_strides=(8, 32))
    assert facts["class"] == "TimmBackbone"
    assert facts["kind"] == "folder"
    assert facts["selected"] == selected.out_features == ["blocks.2", "blocks.6"]
    with torch.no_grad():
        maps = selected(torch.empty(1, 3, *size, device="meta")).feature_maps
    rows = {row["name"]: row for row in facts["stages"]}
    assert [tuple(rows[name]["shape"]) for name in facts["selected"]] == [tuple(level.shape[1:]) for level in maps]
    assert facts["parameters"]["selection"] == sum(p.numel() for p in selected.parameters())
    assert rows["blocks.6"]["parameters"] == facts["parameters"]["selection"] < facts["parameters"]["whole"]
    assert facts["weights"]["dtypes"].keys() == {"F32", "I64"}


def test_parameters_up_to_each_stage_are_those_of_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SwinBackbone(SwinConfig(**SWIN, out_indices=(0, 1, 2))).save_pretrained(tmp_path)
    facts = info(capsys, str(tmp_path))
    size = (tmp_path / "model.safetensors").stat().st_size
    for row in facts["stages"]:
        loaded = AutoBackbone.from_pretrained(tmp_path, out_indices=[row["index"]])
        assert row["parameters"] == loaded.num_parameters(), row
        there = info(capsys, str(tmp_path), f"--indices={row['index']}")["weights"]
        assert there["size_bytes"] < size < there["size_bytes"] + 10_000
        assert there["read_bytes"] == sum(tensor.nbytes for tensor in loaded.state_dict().values())


def test_a_hub_model_costs_a_configuration_and_a_header(
    tmp_path: Path, hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swin = SwinConfig(embed_dim=96, depths=[1, 1], num_heads=[3, 6], out_indices=(1, 2))
    SwinBackbone(swin).half().save_pretrained(tmp_path / "swin")
    weights = (tmp_path / "swin" / "model.safetensors").stat().st_size
    commit = hub.add("org/info-swin", tmp_path / "swin")
    facts = info(capsys, "org/info-swin", "--indices=1")
    ranges = [request.headers.get("range") for request in hub.requests if "safetensors" in request.path]
    assert len(ranges) == 1
    first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", ranges[0]).groups())
    assert last - first < weights / 4, "no whole weight file is fetched"
    fetched = [request.path for request in hub.requests if request.method == "GET" and "config.json" in request.path]
    assert len(fetched) == 1
    assert f"/{commit}/" in next(request.path for request in hub.requests if "safetensors" in request.path)
    assert facts["kind"] == "hub"
    assert facts["commit"] == commit
    assert facts["weights"]["dtypes"].keys() == {"F16"}
    whole = AutoBackbone.from_pretrained("org/info-swin", out_indices=[1], cache_dir=cache)
    assert facts["weights"]["read_bytes"] == sum(tensor.nbytes for tensor in whole.state_dict().values())
    assert facts["parameters"]["selection"] == whole.num_parameters()


def test_shards_are_described_by_their_headers(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    model = SwinBackbone(SwinConfig(**SWIN))
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    hub.add("org/info-shards", tmp_path / "many")
    one = info(capsys, str(tmp_path / "one"))["weights"]
    for many in (info(capsys, str(tmp_path / "many"))["weights"], info(capsys, "org/info-shards")["weights"]):
        assert "files, model-" in many["where"]
        assert {**many, "where": ""} == {**one, "where": ""}
    shards = [request for request in hub.requests if "-of-" in request.path]
    assert shards
    assert all("range" in request.headers for request in shards)


def test_torch_files_on_the_hub_are_weighed_only(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny_backbone()
    backbone.config.save_pretrained(tmp_path)
    torch.save(backbone.state_dict(), tmp_path / "pytorch_model.bin")
    hub.add("org/info-bin", tmp_path)
    facts = info(capsys, "org/info-bin")["weights"]
    assert facts["size_bytes"] == (tmp_path / "pytorch_model.bin").stat().st_size
    assert facts["tensors"] is None
    assert "a torch file has no header" in facts["note"]
    assert not [r for r in hub.requests if r.method == "GET" and "pytorch_model" in r.path]
    here = info(capsys, str(tmp_path))["weights"]
    assert here["read_bytes"] == sum(tensor.nbytes for tensor in backbone.state_dict().values())


def test_timm_names_need_no_network(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(capsys, "resnet18", "--size", "320")
    assert hub.requests == []
    assert [row["parameters"] for row in facts["stages"]] == [9536, 157504, 683072, 2782784, 11176512]
    assert facts["parameters"] == {"whole": 11689512, "selection": 11176512}
    assert facts["weights"]["where"] == "timm/resnet18.a1_in1k"
    assert facts["sizes"]["runs"] == {"224x224": True, "320x320": True, "320x512": True, "333x517": True}


def test_sizes_that_do_not_run_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(capsys, "deit_tiny_distilled_patch16_224", "--indices=0")
    assert facts["sizes"]["runs"] == {"224x224": True, "320x512": True, "333x517": False}
    assert main(["info", "deit_tiny_distilled_patch16_224", "--size", "333x517"]) == 1
    error = capsys.readouterr().err
    assert "does not run on images of 333x517" in error
    assert "The nearest size that runs is 336x512" in error


def test_what_only_a_run_tells_is_not_guessed() -> None:
    assert set(REAL_RUN) == set(NO_META_RUN)
    facts = describe("gemma4_vit_167m", out_indices=[0])
    assert set(facts.runs.values()) == {None}


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SwinBackbone(SwinConfig(**SWIN, size_policy="pad")).save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), "--features", "stage1", "--size", "64x96"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: SwinBackbone, swin, local folder"
    assert lines[1] == "selected    stage1 (12, stride 4)"
    assert lines[3].split() == "# stage channels stride offset map at 64x96 parameters up to here".split()
    assert lines[5].startswith("*   1  stage1")
    assert lines[5].split()[:7] == ["*", "1", "stage1", "12", "4", "2", "12x16x24"]
    assert "64x96 runs, 320x512 runs, 333x517 runs" in "\n".join(lines)
    assert "sizes are padded to a multiple of it" in "\n".join(lines)


def test_the_cost_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SwinBackbone(SwinConfig(**SWIN, out_indices=(1, 2))).half().save_pretrained(tmp_path)
    plain = info(capsys, str(tmp_path), "--size", "64x96")
    card = ("--batch", "4", "--images", "1000", "--memory", "100MB")
    facts = info(capsys, str(tmp_path), "--size", "64x96", *card)
    found = facts.pop("cost")
    assert facts == plain
    loaded = AutoBackbone.from_pretrained(tmp_path)
    expected = cost(loaded, 64, 96, batch=4)
    assert found["dtype"] == "float16", "that of the file"
    assert {name: found[name] for name in expected.to_dict()} == expected.to_dict()
    sizes = {name: 1000 * c * h * w * 2 for name, (c, h, w) in loaded.output_shapes(64, 96).items()}
    assert found["disk"] == {"images": 1000, "dtype": "float16", "levels": sizes, "bytes": sum(sizes.values())}
    batch = found["largest_batch"]["batch"]
    assert expected.memory_at(batch) <= 100 * 10**6 < expected.memory_at(batch + 1)
    assert main(["info", str(tmp_path), "--size", "64x96", *card]) == 0
    with_card = capsys.readouterr().out
    assert main(["info", str(tmp_path), "--size", "64x96"]) == 0
    assert with_card.startswith(capsys.readouterr().out + "\ncost        a forward of 4 images of 64x96, float16\n")
    assert " for 1,000 images extracted as float16: stage1 " in with_card
    assert f"batch       {batch} images take " in with_card
    training = info(capsys, str(tmp_path), "--size", "64", "--dtype", "float32", "--training")["cost"]
    assert (training["training"], training["batch"], training["dtype"]) == (True, 1, "float32")
    assert main(["info", str(tmp_path), "--memory", "1KB"]) == 0
    assert "batch       not even one image fits; 1 image would take" in capsys.readouterr().out


def test_a_cost_that_is_not_known_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gemma4_vit_167m", "--indices=0", "--batch", "2"]
    assert info(capsys, *arguments)["cost"]["unknown"].startswith("The cost of Gemma4Vit")
    assert main(["info", *arguments]) == 0
    assert "reads values, which the meta device has not. Only a run on real tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "number"),
    [("16GB", 16 * 10**9), ("24GiB", 24 * 2**30), ("1.5 mb", 1_500_000), ("800M", 800 * 10**6), ("12345", 12345)],
)
def test_byte_counts(text: str, number: int) -> None:
    assert byte_count(text) == number


@pytest.mark.parametrize("text", ["0", "16XB", "-1GB", "much", ""])
def test_wrong_byte_counts_teach(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "resnet18", f"--memory={text}"])
    assert f"{text!r} is not a number of bytes; write for example 16GB, 24GiB or 800MB" in capsys.readouterr().err


def test_errors_teach(tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_backbone().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    hub.add("org/info-cut", tmp_path / "cut")
    tiny_backbone().config.save_pretrained(tmp_path / "bare")
    for arguments, text in (
        (["resnet5O"], "Did you mean 'resnet50'"),
        ([str(tmp_path / "absent")], "is not an existing folder"),
        ([str(tmp_path / "cut")], "is not a whole safetensors file"),
        (["org/info-cut"], "is not a whole safetensors file"),
        (["resnet18", "--features", "layer9"], "'layer9', which is no stage. Did you mean 'layer"),
        (["resnet18", "--indices=7"], "allowed are -5 to 4"),
        (["resnet18", "--strides", "8,64"], "asks for stride 64, which no stage has"),
    ):
        assert main(["info", *arguments]) == 1, arguments
        output = capsys.readouterr()
        assert output.out == ""
        assert text in output.err, arguments
    assert info(capsys, str(tmp_path / "bare"))["weights"]["note"].startswith("neither model.safetensors nor")


def test_a_hub_that_fails_is_an_error_with_words(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_backbone().save_pretrained(tmp_path)
    hub.add("org/info-fails", tmp_path)
    hub.fail("model.safetensors", 500)
    assert main(["info", "org/info-fails"]) == 1
    assert "The hub did not give the header of 'model.safetensors' of 'org/info-fails'" in capsys.readouterr().err
    hub.heal()
    hub.clear()
    assert main(["info", "org/info-fails", "--local-files-only"]) == 0
    assert "Only the local cache was searched" in capsys.readouterr().out
    assert hub.requests == []


def test_the_readme_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = re.findall(
        r"^```console\n\$ vertebra (info [^\n]*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert shown
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/lite0").symlink_to(lite0())
    monkeypatch.chdir(tmp_path)
    for command, output in shown:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == output
