"""`pipeline()`: which task, which model, which parts; and what it says when they do not go together."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from guide_hub import UNCASED, write_words
from hub_server import HubServer
from real import lite0

from vertebra import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)
from vertebra.auto.tasks import ALIASES, TASKS
from vertebra.pipelines.base import Pipeline

SST = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
TINY = {"dim": 24, "n_heads": 2, "hidden_dim": 32, "n_layers": 1, "max_position_embeddings": 32}
BERT = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "vocab_size": 30522,
}
TASK_NAMES = (
    "audio-classification, automatic-speech-recognition, feature-extraction, fill-mask, image-classification, "
    "image-feature-extraction, image-segmentation, ner, question-answering, sentiment-analysis, text-classification, "
    "token-classification"
)


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment")
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(**TINY, id2label={0: "NEGATIVE", 1: "POSITIVE"})
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    write_words(folder / "vocab.txt", UNCASED, 30522)
    return folder


def test_the_table_holds_ten_tasks_whose_classes_are_there() -> None:
    assert len(TASKS) == 10
    assert set(ALIASES.values()) <= set(TASKS)
    for task, row in TASKS.items():
        module, _, name = row.pipeline.partition(":")
        kind = getattr(importlib.import_module(f"vertebra.pipelines.{module}"), name)
        assert issubclass(kind, Pipeline)
        assert kind.task == task
        assert kind.needs
        assert kind.__name__ == name


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"question-answering"}))
def test_default_checkpoints_are_those_of_transformers(task: str) -> None:
    from transformers.pipelines import SUPPORTED_TASKS

    assert TASKS[task].default == SUPPORTED_TASKS[task]["default"]["model"]


def test_a_task_alone(sentiment: Path, hub: HubServer, cache: Path) -> None:
    hub.add(SST, sentiment, revision=TASKS["text-classification"].default[1])
    pipe = pipeline("sentiment-analysis", cache_dir=cache)
    assert pipe.task == "text-classification"
    assert pipe.model.name_or_path == SST
    (answer,) = pipe("In a hole in the ground there lived a hobbit.")
    assert answer["label"] in ("NEGATIVE", "POSITIVE")
    hub.add("somebody/words", sentiment)  # the default's revision is none of this repository's
    assert pipeline("sentiment-analysis", tokenizer="somebody/words", cache_dir=cache)("a hole") == pipe("a hole")


def test_a_model_alone(sentiment: Path, tmp_path: Path) -> None:
    assert pipeline(model=sentiment).task == "text-classification"
    assert pipeline(model=lite0()).task == "image-classification"
    model = AutoModelForSequenceClassification.from_pretrained(sentiment)
    assert pipeline(model=model).task == "text-classification"
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    names = TASK_NAMES.replace("ner, ", "").replace("sentiment-analysis, ", "")
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"'{tmp_path}', which was saved as BertModel, does feature-extraction, image-feature-extraction; name the task: "
            f"pipeline(task, model='{tmp_path}'). Tasks are {names}."
        ),
    ):
        pipeline(model=tmp_path)


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("image-clasification", " Did you mean 'image-classification', "),
        ("translation", " "),
        ("object-detection", " "),
    ],
)
def test_unknown_tasks(task: str, near: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"task {task!r} is not known.{near}")) as caught:
        pipeline(task)
    assert str(caught.value).endswith(f" Tasks are {TASK_NAMES}.")


def test_neither_task_nor_model() -> None:
    with pytest.raises(
        TypeError, match=r"pipeline\(\) needs a task, or a model that was saved for one. Tasks are audio-"
    ):
        pipeline()


def test_models_of_other_tasks(sentiment: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(sentiment)
    with pytest.raises(
        ValueError,
        match=re.escape(
            "DistilBertForSequenceClassification does not do 'fill-mask'; it does text-classification. Load the model with "
            "AutoModelForMaskedLM, or name it: pipeline('fill-mask', model=name)."
        ),
    ):
        pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(sentiment))
    with pytest.raises(ValueError, match=r"AutoModelForImageClassification has no class for DistilBertConfig"):
        pipeline("image-classification", model=sentiment)


@pytest.mark.parametrize(
    ("task", "why", "head"),
    [
        (
            "question-answering",
            "it lacks qa_outputs.weight, qa_outputs.bias, which would be random",
            "DistilBertForQuestionAnswering",
        ),
        # the classifier of texts fits tokens, names and shapes alike
        ("token-classification", "its head is of another task", "DistilBertForTokenClassification"),
    ],
)
def test_checkpoints_that_were_not_trained_for_the_task(task: str, why: str, head: str, sentiment: Path) -> None:
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"'{sentiment}' was not trained for {task!r}: {why}. It was saved as DistilBertForSequenceClassification. Give a "
            f"checkpoint of a {head}, or train one: pipeline({task!r}, model=trained, …)."
        ),
    ):
        pipeline(task, model=sentiment)


def test_parts_from_elsewhere(sentiment: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**BERT))
    with pytest.raises(
        TypeError, match=r"text-classification needs the tokenizer of this model, which was not loaded by name."
    ):
        pipeline("text-classification", model=model)
    pipe = pipeline("text-classification", model=model, tokenizer=str(sentiment))
    assert type(pipe.tokenizer).__name__ == "DistilBertTokenizerFast"
    slow = pipeline("text-classification", model=model, tokenizer=str(sentiment), use_fast=False)
    assert not slow.tokenizer.is_fast
    assert slow("a hole") == pipe("a hole")


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        (
            {"device_map": "auto"},
            TypeError,
            "device_map is not known here: a pipeline runs on one device, e.g. device='cuda:0'.",
        ),
        ({"trust_remote_code": True}, ValueError, "trust_remote_code=True is refused"),
        ({"topk": 1}, TypeError, "ImageClassificationPipeline() got an unknown setting 'topk'. Did you mean 'top_k'?"),
    ],
)
def test_arguments_that_are_refused(kwargs: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        pipeline("image-classification", model="nobody/looks-for-this", **kwargs)


def test_saved_pipelines_come_back(sentiment: Path, tmp_path: Path) -> None:
    pipe = pipeline("text-classification", model=sentiment)
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline(model=tmp_path / "saved")
    assert again("a hole") == pipe("a hole")
    theirs = transformers.pipeline("text-classification", model=str(tmp_path / "saved"), device="cpu")
    assert theirs("a hole")[0]["score"] == pytest.approx(pipe("a hole")[0]["score"], abs=1e-6)
