"""`vertebra info` on models that are no backbones: what Auto classes make of them, and what the headers say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from oracle import saved_keys
from text_cases import BERT, DISTILBERT

import vertebra
from vertebra import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from vertebra.auto import registry
from vertebra.cli import main

WHISPER = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}


def info(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading tensors out of a weight file fails; opening it for its names and shapes does not."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a weight file was read")

    monkeypatch.setattr("vertebra.weights.WeightFiles.read", refuse)
    monkeypatch.setattr("vertebra.weights.torch.load", refuse)


@pytest.mark.usefixtures("no_weights")
def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = BertForMaskedLM(BertConfig(**BERT)).bfloat16()
    model.save_pretrained(tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        f"{tmp_path}: BertForMaskedLM, bert, local folder",
        "stages      none: it is no backbone",
        "loads as    BertModel by AutoModel, AutoModelForTextEncoding",
        "            BertForMaskedLM by AutoModelForMaskedLM",
        "            BertForSequenceClassification by AutoModelForSequenceClassification",
    ]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert lines[-2] == f"parameters  {count:,} in its weight files"
    tensors = len(saved_keys(tmp_path))
    assert lines[-1] == f"weights     model.safetensors, {tensors} tensors, bfloat16, {2 * count / 2**10:.1f} KiB"


@pytest.mark.parametrize(
    "model",
    [
        DistilBertModel(DistilBertConfig(**{**DISTILBERT, "num_labels": 2})),
        WhisperForConditionalGeneration(WhisperConfig(**WHISPER)),
    ],
)
def test_it_is_what_a_load_gives(model: PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(tmp_path)
    facts = info(capsys, tmp_path)
    assert (facts["class"], facts["model_type"], facts["kind"]) == (
        type(model).__name__,
        model.config.model_type,
        "folder",
    )
    for auto, name in facts["tasks"].items():
        assert type(getattr(vertebra, auto).from_pretrained(tmp_path)).__name__ == name
    assert facts["parameters"]["whole"] == AutoModel.from_pretrained(tmp_path).num_parameters()
    assert facts["weights"]["dtypes"] == {"F32": facts["weights"]["tensors"]}


def test_on_the_hub_a_configuration_and_a_header(
    tmp_path: Path, hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BertForMaskedLM(BertConfig(**{**BERT, "vocab_size": 3000})).save_pretrained(tmp_path)
    commit = hub.add("org/info-bert", tmp_path)
    facts = info(capsys, "org/info-bert")
    here = info(capsys, tmp_path)
    assert (facts["kind"], facts["commit"]) == ("hub", commit)
    assert {**facts, "name": "", "kind": "", "commit": ""} == {**here, "name": "", "kind": "", "commit": ""}
    assert len([r for r in hub.requests if r.method == "GET" and "config.json" in r.path]) == 1
    weights = [request for request in hub.requests if "safetensors" in request.path]
    assert [request.headers.get("range") for request in weights] == ["bytes=0-99999"]


def test_what_is_not_known_is_told(tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    model = DistilBertModel(DistilBertConfig(**DISTILBERT))
    model.config.save_pretrained(tmp_path)
    facts = info(capsys, tmp_path)
    assert facts["class"] == "DistilBertConfig"
    assert facts["weights"]["where"] == "none"
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    hub.add("org/info-distilbert-bin", tmp_path)
    assert main(["info", "org/info-distilbert-bin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "parameters  not known"
    assert "a torch file has no header" in lines[-1]
    assert info(capsys, tmp_path)["parameters"]["whole"] == model.num_parameters()


@pytest.mark.parametrize(
    ("arguments", "beside"),
    [
        (["--features", "stage1"], "the selection"),
        (["--size", "64"], "--size"),
        (["--batch", "4"], "the cost card"),
        (["--indices=1", "--size", "64", "--training"], "the selection and --size and the cost card"),
    ],
)
def test_what_only_backbones_have(
    arguments: list[str], beside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BertConfig(**BERT).save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error: '{tmp_path}' is a 'bert' model, which is no backbone, and only backbones have stages and sizes of images: leave "
        f"{beside} out. What is known of it is printed then.\n"
    )


def test_an_unknown_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "distilbrt"}')
    assert main(["info", str(tmp_path)]) == 1
    assert "model_type 'distilbrt' is not known. Did you mean 'distilbert'" in capsys.readouterr().err


def test_a_class_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_configs", {})
    monkeypatch.setattr(registry, "_models", {})

    class OwnConfig(PreTrainedConfig):
        """Nothing."""

        model_type = "own"

    class OwnModel(PreTrainedModel):
        """One layer."""

        config_class = OwnConfig

        def __init__(self, config: OwnConfig) -> None:
            super().__init__(config)
            self.layer = torch.nn.Linear(3, 2)
            self.post_init()

    AutoConfig.register("own", OwnConfig)
    AutoModel.register(OwnConfig, OwnModel)
    OwnModel(OwnConfig()).save_pretrained(tmp_path)
    facts = info(capsys, tmp_path)
    assert facts["tasks"] == {"AutoModel": "OwnModel"}
    assert facts["parameters"] == {"whole": 8}
