"""A tokenizer's files: reading those of any version of transformers, and writing them."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.change import changing
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.text.tokenization.added_tokens import AddedToken
from vertebra.text.tokenization.special_tokens import MORE, NAMES

PIPELINE_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
OURS = (PIPELINE_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE)

ABOUT_FILES = {
    "added_tokens_decoder", "auto_map", "backend", "files_loaded", "init_inputs", "is_local", "local_files_only", "max_length",
    "merges_file", "name_or_path", "pad_to_multiple_of", "slow_tokenizer_class", "special_tokens_map_file", "stride",
    "tokenizer_class", "tokenizer_file", "truncation_strategy", "vocab_file",
}  # fmt: skip
"""Keys of tokenizer_config.json that say how it came about, not what the tokenizer does; a path in a file is never opened."""
COMMON = (
    "additional_special_tokens", "clean_up_tokenization_spaces", "extra_special_tokens", "model_input_names", "model_max_length",
    "max_len", "model_specific_special_tokens", "pad_token_type_id", "padding_side", "processor_class", "split_special_tokens",
    "truncation_side", *NAMES,
)  # fmt: skip
"""What every tokenizer's constructor takes."""


def load_tokenizer(
    cls: Any,
    source: str | os.PathLike[str] | CheckpointFiles,
    *,
    usual: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Load a tokenizer of the class `cls`; see `TokenizerBase.from_pretrained`. `usual` is what files need not say."""
    options = HubOptions.pop(kwargs)
    if not isinstance(source, CheckpointFiles) and Path(source).expanduser().is_file():
        return _from_one_file(cls, Path(source).expanduser(), kwargs)
    files = CheckpointFiles.open(source, options)
    stored = read_settings(files)
    known = accepted(cls)
    own = {
        name: value
        for name, value in stored.items()
        if name.endswith("_token") and name not in known and isinstance(value, (str, Mapping))
    }
    if own:  # a token of the model, by its name, as transformers 5 writes it
        stored = {name: value for name, value in stored.items() if name not in own} | {
            "model_specific_special_tokens": own
        }
    found = {name: files.find(filename) for name, filename in cls.vocab_files_names.items()}
    vocabulary = {name: path for name, path in found.items() if path is not None and name not in kwargs}
    pipeline = vocabulary.get("tokenizer_file") or (None if cls.is_fast else files.find(PIPELINE_FILE))
    if cls.is_fast and pipeline is not None:
        vocabulary = {"tokenizer_file": pipeline}
        if "add_bos_token" in known:
            stored.pop("add_bos_token", None)  # transformers 4 writes false there, whatever the pipeline does
    elif not cls.is_fast and len(vocabulary) < len(cls.vocab_files_names) and pipeline is not None:
        content = read_json(pipeline)
        vocabulary = cls._from_pipeline(content)
        stored.setdefault("added_tokens_decoder", {token["id"]: token for token in content.get("added_tokens", ())})
    missing = [name for name in cls.vocab_files_names if name not in (*vocabulary, *kwargs, "tokenizer_file")]
    if missing and not (vocabulary.keys() & {"tokenizer_file", "vocab"}) and "tokenizer_object" not in kwargs:
        raise _missing(cls, files, [cls.vocab_files_names[name] for name in missing])
    return _construct(cls, {**vocabulary, **(usual or {}), **stored}, kwargs, files.source)


def read_settings(files: CheckpointFiles) -> dict[str, Any]:
    """The constructor's arguments that a checkpoint stores, `added_tokens_decoder` among them.

    Raises:
        ValueError: a file is not a JSON object.
    """
    config = _read(files, CONFIG_FILE)
    settings = {name: value for name, value in config.items() if name not in ABOUT_FILES}
    if config.get("added_tokens_decoder"):
        return {**settings, "added_tokens_decoder": config["added_tokens_decoder"]}
    settings |= _read(files, SPECIAL_FILE)
    added = _read(files, ADDED_FILE)
    if added:
        named = [settings.get(name) for name in NAMES]
        special = {_content(token) for token in (*named, *(settings.get(MORE[0]) or ()))}
        settings["added_tokens_decoder"] = {
            index: AddedToken(text, special=text in special) for text, index in added.items()
        }
    return settings


def accepted(cls: Any) -> set[str]:
    """Names of the arguments that a tokenizer's constructor, and those of its bases, name."""
    written = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    parameters = [parameter for init in written for parameter in inspect.signature(init).parameters.values()]
    named = {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD}
    return (named | set(COMMON) | {"added_tokens_decoder"}) - {"self", "args"}


def _construct(cls: Any, stored: Mapping[str, Any], given: Mapping[str, Any], name: str) -> Any:
    """Build the tokenizer; what a file says beside the constructor's arguments is kept and written again."""
    known = accepted(cls)
    for argument in given:
        if argument in stored and argument not in known and given[argument] != stored[argument]:
            raise TypeError(
                f"{cls.__name__} has no argument {argument!r}; its files say {stored[argument]!r}, which is kept for other readers "
                f"and changes nothing."
            )
        if argument not in known and argument not in stored:
            raise TypeError(
                f"{cls.__name__} has no argument {argument!r}.{did_you_mean(argument, known)} Its arguments are "
                f"{listing(sorted(known))}."
            )
    settings = {**stored, **given}
    tokenizer = cls(**{key: value for key, value in settings.items() if key in known}, name_or_path=name)
    tokenizer.init_kwargs |= {key: value for key, value in settings.items() if key not in known}
    return tokenizer


def _from_one_file(cls: Any, path: Path, given: Mapping[str, Any]) -> Any:
    names = [name for name in cls.vocab_files_names if name != "tokenizer_file"]
    if path.suffix == ".json" and "tokenizer_file" in cls.vocab_files_names and len(names) != 1:
        return _construct(cls, {"tokenizer_file": path}, given, str(path))
    if path.name == PIPELINE_FILE:
        stored = {"tokenizer_file": path} if cls.is_fast else cls._from_pipeline(read_json(path))
        return _construct(cls, stored, given, str(path))
    if len(names) != 1:
        raise OSError(
            f"{str(path)!r} is one file, and {cls.__name__} needs {listing(cls.vocab_files_names.values())}; give the folder that "
            f"holds them: {str(path.parent)!r}."
        )
    return _construct(cls, {names[0]: path}, given, str(path))


def _missing(cls: Any, files: CheckpointFiles, names: list[str]) -> OSError:
    either = f"neither {PIPELINE_FILE!r} nor " if cls.is_fast or "vocab_file" in cls.vocab_files_names else "no "
    there = ""
    if files.folder is not None and files.folder.is_dir():
        there = f" The folder has {listing(sorted(path.name for path in files.folder.iterdir())) or 'no files'}."
    return FileNotFoundError(
        f"{files} has {either}{listing(names) or repr(PIPELINE_FILE)}, so {cls.__name__} has no vocabulary.{there}"
        f"{files.offline_hint()} Copy the file there, or load from where the tokenizer was saved."
    )


def _read(files: CheckpointFiles, name: str) -> dict[str, Any]:
    path = files.find(name)
    return {} if path is None else read_json(path)


def _content(token: Any) -> str | None:
    if isinstance(token, Mapping):
        return token.get("content")
    return None if token is None else str(token)


def save_tokenizer(tokenizer: Any, folder: Path, prefix: str | None) -> tuple[str, ...]:
    """Write a tokenizer's files into a folder, all or none; see `TokenizerBase.save_pretrained`."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"save_pretrained({str(folder)!r}): this is a file; give a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    before = f"{prefix}-" if prefix else ""
    texts = {CONFIG_FILE: _json(_config(tokenizer), tokenizer), SPECIAL_FILE: _json(_special(tokenizer), tokenizer)}
    beyond = {text: index for text, index in tokenizer.added_tokens_encoder.items() if index >= tokenizer.vocab_size}
    pipeline = tokenizer._pipeline_text()
    if beyond:
        texts[ADDED_FILE] = _json(beyond, tokenizer)
    if pipeline is not None:
        texts[PIPELINE_FILE] = pipeline
    with tempfile.TemporaryDirectory(prefix="vertebra-vocabulary-") as name, changing(folder) as change:
        vocabulary = [Path(path) for path in tokenizer.save_vocabulary(name, prefix)]
        for text_name, text in texts.items():
            change.write_text(before + text_name, text)
        for path in vocabulary:
            with change.write(path.name) as temporary:
                temporary.write_bytes(path.read_bytes())
        for stale in () if prefix else set(OURS) - texts.keys():
            change.remove(stale)
    return tuple(
        str(folder / name) for name in (*(before + name for name in texts), *(path.name for path in vocabulary))
    )


def _config(tokenizer: Any) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    settings = {name: getattr(tokenizer, name, value) for name, value in tokenizer.init_kwargs.items()}
    special = tokenizer.special_tokens_map
    named = {name: special.pop(name) for name in list(special) if name not in (*NAMES, *MORE)}
    common = {name: getattr(tokenizer, name) for name in ("model_max_length", "padding_side", "truncation_side")}
    cleaning = {"clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces}
    config = {**settings, **common, **cleaning, **special, "extra_special_tokens": named}
    if list(tokenizer.model_input_names) != list(type(tokenizer).model_input_names):
        config["model_input_names"] = list(tokenizer.model_input_names)
    if tokenizer.split_special_tokens:
        config["split_special_tokens"] = True
    if tokenizer.processor_class is not None:
        config["processor_class"] = tokenizer.processor_class
    if tokenizer.pad_token_type_id:
        config["pad_token_type_id"] = tokenizer.pad_token_type_id
    added = {str(index): token.to_dict() for index, token in tokenizer.added_tokens_decoder.items()}
    name = type(tokenizer).__name__
    plain_name = tokenizer.saved_as or (name if name == "PreTrainedTokenizerFast" else name.removesuffix("Fast"))
    return {**config, "added_tokens_decoder": added, "tokenizer_class": plain_name}


def _special(tokenizer: Any) -> dict[str, Any]:
    """The content of special_tokens_map.json."""

    def as_file(token: Any) -> Any:
        if isinstance(token, list):
            return [as_file(one) for one in token]
        return {name: value for name, value in token.to_dict().items() if name != "special"}

    return {name: as_file(token) for name, token in tokenizer.special_tokens_map_extended.items()}


def _json(content: Mapping[str, Any], tokenizer: Any) -> str:
    def refuse(value: Any) -> Any:
        if isinstance(value, AddedToken):
            return {**value.to_dict(), "__type": "AddedToken"}
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        raise TypeError(
            f"{type(tokenizer).__name__} has the setting {value!r}, a {type(value).__name__}, which JSON cannot hold; keep it "
            f"out of the arguments of super().__init__(…), or make it a string or number."
        )

    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, default=refuse) + "\n"
