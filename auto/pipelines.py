"""`pipeline()`: a task by its name, with the model and what prepares its inputs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vertebra.auto.config import AutoConfig, as_config, refuse_remote_code
from vertebra.auto.preparers import KINDS
from vertebra.auto.registry import auto_name, classes_of
from vertebra.auto.tasks import TASKS, check_fit, columns_of, task_done_by, task_of, task_saved_for
from vertebra.config import PreTrainedConfig, Source
from vertebra.errors import listing
from vertebra.hub import HubOptions
from vertebra.resolve import Located, locate

if TYPE_CHECKING:
    import torch

    from vertebra.pipelines.base import Pipeline

PIPELINES = "vertebra.pipelines"
LEVELS = ("out_features", "out_indices", "out_strides")
"""Arguments that select levels of a backbone."""
UNTRACKED = "num_batches_tracked"


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: PreTrainedConfig | str | None = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    *,
    device: int | str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int = 1,
    num_workers: int | None = None,
    progress: bool | None = None,
    on_error: str = "raise",
    use_fast: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Pipeline:
    """Make a pipeline: what takes files, texts or recordings and gives answers.

    `pipeline("image-classification", model="microsoft/resnet-50")("cat.jpg")` is all there is to it.

    Args:
        task: `audio-classification`, `automatic-speech-recognition`, `feature-extraction`, `fill-mask`, `image-classification`,
            `image-feature-extraction`, `image-segmentation`, `question-answering`, `text-classification` (or `sentiment-analysis`),
            `token-classification` (or `ner`). None for what the model was saved as.
        model: A local folder, a hub id, the name of a timm architecture, or a model. None for the checkpoint that transformers
            takes for the task.
        config: Another configuration for a model that is named.
        tokenizer: Where it is, if not with the model, or the tokenizer itself.
        feature_extractor: The same of the feature extractor.
        image_processor: The same of the image processor.
        processor: A processor that holds these.
        device: Where the model runs: `"cuda:1"`, the number of a GPU, -1 or `"cpu"`; None for the first GPU there is, or the CPU.
        dtype: Of the weights; None for the checkpoint's. `torch_dtype` is the same.
        batch_size: How many items go through the model at once. Results do not depend on it.
        num_workers: Threads that prepare items while the model runs; None for what suits the task.
        progress: Whether a bar counts the items of a list or a stream; None shows it in terminals, after two seconds.
        on_error: `"raise"` stops at the first bad item and names it, `"skip"` puts None in its place and logs it.
        use_fast: False takes a tokenizer in plain Python.
        model_kwargs: Further arguments of the model's `from_pretrained`.
        **kwargs: Hub options (`revision`, `token`, `cache_dir`, `local_files_only`, …), which hold for everything that is loaded;
            for `image-feature-extraction` the levels of a backbone (`out_features`, `out_indices` or `out_strides`); and options of
            the task (`top_k`, `allow_urls`, …), see its class.

    Returns:
        The pipeline; a function of one item, a list, or anything that can be iterated over.

    Raises:
        ValueError: the task is unknown, or the model does not do it; both say what there is.
        TypeError: an option is unknown, or a part is missing.
        OSError: there is no such checkpoint.
    """
    refuse_remote_code(kwargs)
    options = HubOptions.pop(kwargs)
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
    if "device_map" in kwargs:
        raise TypeError("device_map is not known here: a pipeline runs on one device, e.g. device='cuda:0'.")
    levels = {name: kwargs.pop(name) for name in LEVELS if kwargs.get(name) is not None}
    if task is None and model is None:
        raise TypeError(
            f"pipeline() needs a task, or a model that was saved for one. Tasks are {listing(sorted(TASKS))}."
        )
    where = options
    if task is not None:
        task = task_of(task)
        if model is None:
            model, revision = TASKS[task].default
            where = replace(
                options, revision=options.revision or revision
            )  # which says nothing of what is given beside it
    loads = isinstance(model, str) or hasattr(model, "__fspath__")
    found = locate(model, where) if loads else None
    task = task or (task_saved_for(found) if found else task_done_by(model))
    row = TASKS[task]
    module, _, name = row.pipeline.partition(":")
    kind = getattr(importlib.import_module(f"{PIPELINES}.{module}"), name)
    kind.checked_options(kwargs)
    if found:
        given = as_config(config)
        loading = {"config": given, "dtype": dtype, **levels, **(model_kwargs or {})}
        model = _load(
            task, row.columns, found, options, {key: value for key, value in loading.items() if value is not None}
        )
    else:
        check_fit(task, model)
        if levels:
            raise TypeError(
                f"{listing(levels)} select levels of a model that is named; select them when the model is made."
            )
    parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "image_processor": image_processor}
    return kind(  # type: ignore[no-any-return]
        model,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
        on_error=on_error,
        parts={
            part: _part(part, parts[part] or getattr(processor, part, None), found, model, options, use_fast, task)
            for part in kind.needs
        },
        **kwargs,
    )


def _load(task: str, columns: Sequence[str], found: Located, options: HubOptions, loading: dict[str, Any]) -> Any:
    """Load the model for a task, and refuse a checkpoint that was not trained for it."""
    config = loading.get("config")
    kind = AutoConfig.class_of(found.content(), found.name) if config is None else type(config)
    if set(loading) & set(LEVELS):
        columns = ("backbone",)
    there = classes_of(kind)
    column = next((column for column in columns if column in there), columns[0])
    auto = getattr(importlib.import_module("vertebra"), auto_name(column))
    where = {} if found.files else vars(options)
    source: Source = found.files or str(found.architecture)
    if found.files is None:
        return auto.from_pretrained(source, **where, **loading)
    model, info = auto.from_pretrained(source, output_loading_info=True, **loading)
    if column in ("model", "backbone"):
        return model
    saved = found.content().get("architectures") or []
    fresh = [key for key in info["missing_keys"] if not key.endswith(UNTRACKED)]
    others = columns_of(kind, saved)
    if fresh or (others and not set(others) & set(columns)):
        # heads of several tasks may have the same names and shapes, so that nothing is missing
        why = f"it lacks {listing(fresh, 4)}, which would be random" if fresh else "its head is of another task"
        raise ValueError(
            f"{found.name!r} was not trained for {task!r}: {why}. It was saved as {listing(saved) or 'no head that it names'}. "
            f"Give a checkpoint of a {type(model).__name__}, or train one: pipeline({task!r}, model=trained, …)."
        )
    return model


def _part(
    name: str, given: Any, found: Located | None, model: Any, options: HubOptions, use_fast: bool, task: str
) -> Any:
    """What prepares inputs: as given, or loaded from where it was said to be, or from where the model is."""
    if given is not None and not isinstance(given, str) and not hasattr(given, "__fspath__"):
        return given
    if given is None and found is None and not model.name_or_path:
        raise TypeError(
            f"{task} needs the {name} of this model, which was not loaded by name. Pass it: {name}=…, or where it is."
        )
    auto = getattr(importlib.import_module("vertebra"), KINDS[name].auto)
    how = {"use_fast": use_fast} if name == "tokenizer" else {}
    if given is None and found and found.files:
        return auto.from_pretrained(found.files, **how)
    source = given or (found.name if found else model.name_or_path)
    return auto.from_pretrained(source, **vars(options), **how)
