"""AutoTokenizer: the tokenizer that a checkpoint names, or that its `config.json` implies. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.preparers import KINDS, preparer_class
from vertebra.auto.registry import FAMILIES
from vertebra.config import CONFIG_NAME, PreTrainedConfig, Source
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles, HubOptions, read_json

KIND = "tokenizer"
TOKENIZER_CONFIG, PIPELINE = "tokenizer_config.json", "tokenizer.json"
GENERAL = "PreTrainedTokenizerFast"

SAME_AS = {
    "ElectraTokenizer": "BertTokenizer",
    "LayoutLMTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
    "TokenizersBackend": GENERAL,
}
"""Class names in files, and the class that does the same."""
MODEL_TYPES = {
    "clip": "CLIPTokenizer",
    "electra": "ElectraTokenizer",
    "gpt2": "GPT2Tokenizer",
    "layoutlm": "LayoutLMTokenizer",
    "layoutlmv2": "LayoutLMv2Tokenizer",
    "mobilebert": "MobileBertTokenizer",
    "roberta": "RobertaTokenizer",
    "squeezebert": "SqueezeBertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
"""Tokenizers of families that `registry.FAMILIES` has no row of."""

_END = "<|endoftext|>"
_GPT2 = {"unk_token": _END, "bos_token": _END, "eos_token": _END}
_ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "mask_token": "<mask>",
}  # fmt: skip
USUAL_TOKENS: dict[str, Mapping[str, str]] = {
    "BartTokenizer": _ROBERTA,
    "RobertaTokenizer": _ROBERTA,
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "WhisperTokenizer": _GPT2,
    "XLMRobertaTokenizer": _ROBERTA,
}
"""Special tokens of classes that are read from tokenizer.json alone, where the files do not say them."""

Classes = tuple[type[Any] | None, type[Any] | None]
_own: dict[str, Classes] = {}


class AutoTokenizer:
    """Chooses the tokenizer that a checkpoint names, or that its `config.json` implies. Not constructed itself."""

    def __init__(self) -> None:
        raise OSError("AutoTokenizer is not constructed itself: call AutoTokenizer.from_pretrained(name or folder).")

    @classmethod
    def from_pretrained(
        cls,
        source: Source,
        *,
        use_fast: bool = True,
        config: PreTrainedConfig | None = None,
        tokenizer_type: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a tokenizer.

        `tokenizer.json` goes first; without it, the tokenizer is built from `vocab.txt`, or `vocab.json` and `merges.txt`.

        Args:
            source: A local folder (the network is never asked), a hub id, or the path of a `tokenizer.json`, or of a `vocab.txt`
                with a `tokenizer_type`.
            use_fast: False takes the tokenizer in plain Python, which gives the same; where a class has only one of both, True
                takes that.
            config: Its `model_type` instead of that in `config.json`.
            tokenizer_type: A `model_type` (`"bert"`) that decides the class, whatever the files say.
            **kwargs: Hub options (`revision`, `token`, `subfolder`, …), and arguments of the tokenizer's constructor
                (`do_lower_case`, `padding_side`, `pad_token`, …).

        Raises:
            OSError: there is no such checkpoint, or it has no vocabulary.
            ValueError: no class is known for it, none in plain Python, or a file is damaged.
            TypeError: an argument that the tokenizer does not take.
            ImportError: the package `tokenizers` is not installed.
        """
        refuse_remote_code(kwargs)
        options = HubOptions.pop(kwargs)
        if not isinstance(source, CheckpointFiles) and Path(source).expanduser().is_file():
            return _class_for_file(source, config, tokenizer_type, use_fast).from_pretrained(source, **kwargs)
        from vertebra.text.tokenization.files import load_tokenizer

        files = CheckpointFiles.open(source, options)
        name = _class_name(files, config, tokenizer_type)
        slow, fast = _classes(name)
        chosen = (fast or slow) if use_fast else slow
        if chosen is None and use_fast and files.find(PIPELINE):
            chosen = preparer_class(KIND, GENERAL)
        if chosen is None:
            raise _unknown(files, name, fast)
        tokenizer = load_tokenizer(chosen, files, usual=USUAL_TOKENS.get(name or "", {}), **kwargs)
        if name not in (None, GENERAL, *_own):
            tokenizer.saved_as = name
        return tokenizer

    @classmethod
    def register(
        cls,
        config_class: type[PreTrainedConfig],
        slow_tokenizer_class: type[Any] | None = None,
        fast_tokenizer_class: type[Any] | None = None,
        exist_ok: bool = False,
        *,
        tokenizer_class: type[Any] | None = None,
    ) -> None:
        """Make tokenizer classes of one's own known for a configuration class, and under their own names.

        Args:
            config_class: The configuration class.
            slow_tokenizer_class: A class that derives from `PreTrainedTokenizer`.
            fast_tokenizer_class: A class that derives from `PreTrainedTokenizerFast`.
            exist_ok: Replace what there is.
            tokenizer_class: Either of both, as transformers 5 has it.

        Raises:
            ValueError: none is given, one derives from something else, or the configuration has a tokenizer already.
        """
        from vertebra.text.tokenization.fast import PreTrainedTokenizerFast
        from vertebra.text.tokenization.slow import PreTrainedTokenizer

        if tokenizer_class is not None and issubclass(tokenizer_class, PreTrainedTokenizerFast):
            fast_tokenizer_class = tokenizer_class
        elif tokenizer_class is not None:
            slow_tokenizer_class = tokenizer_class
        pair = ((slow_tokenizer_class, PreTrainedTokenizer), (fast_tokenizer_class, PreTrainedTokenizerFast))
        for given, base in pair:
            if given is not None and not (isinstance(given, type) and issubclass(given, base)):
                raise ValueError(f"{given!r} must be a class that derives from vertebra.{base.__name__}.")
        classes = (slow_tokenizer_class, fast_tokenizer_class)
        if not any(classes):
            raise ValueError("register needs slow_tokenizer_class=… or fast_tokenizer_class=….")
        model_type = config_class.model_type
        if not exist_ok and _of_model(model_type) is not None:
            raise ValueError(f"{config_class.__name__} has a tokenizer already; pass exist_ok=True to replace it.")
        names = [given.__name__.removesuffix("Fast") for given in classes if given is not None]
        _own.update(dict.fromkeys([model_type, *names], classes))


def _class_for_file(source: Any, config: PreTrainedConfig | None, model_type: str | None, use_fast: bool) -> type[Any]:
    """The class for a single file, of which nothing is known but what the caller says."""
    slow, fast = _classes(_class_name(None, config, model_type) or GENERAL)
    chosen = (fast or slow) if use_fast else slow
    if chosen is None:
        raise ValueError(
            f"use_fast=False, and {str(source)!r} is one file, which does not say which tokenizer in plain Python reads it; say "
            f"tokenizer_type='bert'."
        )
    return chosen


def _class_name(files: CheckpointFiles | None, config: PreTrainedConfig | None, model_type: str | None) -> str | None:
    """Name of the tokenizer's class, without `Fast`, or a `model_type` that a user registered; None where no file says it."""
    if model_type is not None:
        name = _of_model(model_type)
        if name is None:
            known = sorted({*MODEL_TYPES, *(key for key, row in FAMILIES.items() if row.tokenizer), *_own})
            raise ValueError(
                f"tokenizer_type={model_type!r} is not known.{did_you_mean(model_type, known)} Known are {listing(known)}."
            )
        return name
    path = files.find(TOKENIZER_CONFIG) if files is not None else None
    named = read_json(path).get("tokenizer_class") if path else None
    if named is None:
        path = files.find(CONFIG_NAME) if config is None and files is not None else None
        content = config.to_dict() if config is not None else read_json(path) if path else {}
        named = content.get("tokenizer_class") or _of_model(content.get("model_type"))
    return None if named is None else str(named) if named == GENERAL else str(named).removesuffix("Fast")


def _of_model(model_type: Any) -> str | None:
    if model_type in _own:
        return str(model_type)
    family = FAMILIES.get(model_type)
    return (family.tokenizer if family else None) or MODEL_TYPES.get(model_type)


def _classes(name: str | None) -> Classes:
    """The classes of that name, in plain Python and fast; None for what there is not."""
    if name in _own:
        return _own[name]
    known = KINDS[KIND].modules
    base = SAME_AS.get(name or "", name or "")
    if base == GENERAL:
        return None, preparer_class(KIND, GENERAL)
    slow = preparer_class(KIND, base) if base in known else None
    return slow, preparer_class(KIND, f"{base}Fast") if f"{base}Fast" in known else None


def _unknown(files: CheckpointFiles, name: str | None, fast: type[Any] | None) -> Exception:
    """The error where there is no class, or none in plain Python."""
    known = sorted({key.removesuffix("Fast") for key in KINDS[KIND].modules} - {"PreTrainedTokenizer"} | _own.keys())
    if fast is not None or files.find(PIPELINE):
        return ValueError(
            f"{files} has the tokenizer {name or GENERAL}, and there is none of these in plain Python; load it with use_fast=True. "
            f"In plain Python there are {listing(known)}."
        )
    if name is None:
        return OSError(
            f"{files} has no {PIPELINE!r}, no {TOKENIZER_CONFIG!r} that names a class, and no {CONFIG_NAME!r} with a known "
            f"model_type, so how its vocabulary is used is not known.{files.offline_hint()} Say it: "
            f"AutoTokenizer.from_pretrained(…, tokenizer_type='bert'), or load it with its class, e.g. BertTokenizerFast."
        )
    return ValueError(
        f"{files} has a {name}, which vertebra reads from {PIPELINE!r} alone, and there is none.{did_you_mean(name, known)} Built "
        f"from their vocabularies are {listing(known)}. transformers makes the file with its own "
        f"AutoTokenizer.from_pretrained(…).save_pretrained(…)."
    )
