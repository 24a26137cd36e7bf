"""The tasks of `pipeline()`: one table, names only, and which task a model was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vertebra.auto.config import AutoConfig
from vertebra.auto.registry import auto_name, classes_of
from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing
from vertebra.resolve import Located


@dataclass(frozen=True)
class Task:
    """A task.

    Args:
        pipeline: Its class, `module:Name` below `vertebra.pipelines`.
        columns: The columns of the registry whose models do it; the first that a family has is taken.
        default: Repository and revision of the model that is used when none is named: transformers' choice.
    """

    pipeline: str
    columns: tuple[str, ...]
    default: tuple[str, str]


TASKS: dict[str, Task] = {
    "audio-classification": Task("audio_classification:AudioClassificationPipeline", ("audio_classification",), ("superb/wav2vec2-base-superb-ks", "372e048")),
    "automatic-speech-recognition": Task("speech_recognition:AutomaticSpeechRecognitionPipeline", ("ctc", "speech_seq2seq"), ("facebook/wav2vec2-base-960h", "22aad52")),
    "feature-extraction": Task("text_features:FeatureExtractionPipeline", ("model",), ("distilbert/distilbert-base-cased", "6ea8117")),
    "fill-mask": Task("fill_mask:FillMaskPipeline", ("masked_lm",), ("distilbert/distilroberta-base", "fb53ab8")),
    "image-classification": Task("image_classification:ImageClassificationPipeline", ("image_classification",), ("google/vit-base-patch16-224", "3f49326")),
    "image-feature-extraction": Task("image_features:ImageFeatureExtractionPipeline", ("model", "backbone"), ("google/vit-base-patch16-224", "3f49326")),
    "image-segmentation": Task("image_segmentation:ImageSegmentationPipeline", ("image_segmentation",), ("facebook/detr-resnet-50-panoptic", "d53b52a")),
    "question-answering": Task("question_answering:QuestionAnsweringPipeline", ("question_answering",), ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")),
    "text-classification": Task("text_classification:TextClassificationPipeline", ("sequence_classification",), ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "714eb0f")),
    "token-classification": Task("token_classification:TokenClassificationPipeline", ("token_classification",), ("dbmdz/bert-large-cased-finetuned-conll03-english", "4c53496")),
}  # fmt: skip
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def task_of(name: str) -> str:
    """Return the task meant by a name.

    Raises:
        ValueError: it is unknown; names the nearest and all there are.
    """
    task = ALIASES.get(name, name)
    if task not in TASKS:
        known = sorted({*TASKS, *ALIASES})
        raise ValueError(f"task {name!r} is not known.{did_you_mean(str(name), known)} Tasks are {listing(known)}.")
    return task


def columns_of(config: type[PreTrainedConfig] | PreTrainedConfig, classes: Sequence[str]) -> list[str]:
    """The columns of the registry in which classes of models stand."""
    kind = config if isinstance(config, type) else type(config)
    return [column for column, name in classes_of(kind).items() if name in classes]


def _tasks_of(columns: Sequence[str]) -> list[str]:
    return [task for task, row in TASKS.items() if set(row.columns) & set(columns)]


def task_done_by(model: Any) -> str:
    """Return the task of a model.

    Raises:
        ValueError: it does none or several, so that it must be named.
    """
    return _only(_tasks_of(columns_of(model.config, [type(model).__name__])), f"A {type(model).__name__}", "model")


def task_saved_for(found: Located) -> str:
    """Return the task of the class that a checkpoint says it was saved from; timm's are classifiers.

    Raises:
        ValueError: it names none, or one of several tasks.
    """
    content = found.content()
    config = AutoConfig.class_of(content, found.name)
    if config.model_type == "timm_wrapper":
        return "image-classification"
    names = content.get("architectures") or []
    what = (
        f"{found.name!r}, which was saved as {listing(names)},"
        if names
        else f"{found.name!r}, which does not say what it is,"
    )
    return _only(_tasks_of(columns_of(config, names)), what, repr(found.name))


def _only(tasks: Sequence[str], what: str, model: str) -> str:
    if len(tasks) == 1:
        return tasks[0]
    raise ValueError(
        f"{what} does {listing(tasks) or 'no task that is known here'}; name the task: pipeline(task, model={model}). Tasks are "
        f"{listing(sorted(TASKS))}."
    )


def check_fit(task: str, model: Any) -> None:
    """Raise ValueError for a model of another task. Classes that the registry does not know are taken at their word."""
    columns = columns_of(model.config, [type(model).__name__])
    if columns and not set(columns) & set(TASKS[task].columns):
        raise ValueError(
            f"{type(model).__name__} does not do {task!r}; it does {listing(_tasks_of(columns)) or 'no task of pipeline()'}. Load the "
            f"model with {auto_name(TASKS[task].columns[0])}, or name it: pipeline({task!r}, model=name)."
        )
