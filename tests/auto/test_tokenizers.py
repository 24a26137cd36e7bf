"""AutoTokenizer: which class, for which files; and what importing and using it loads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tiny_vocab import WORDS, write_vocab

from vertebra import (
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    BertTokenizerFast,
    CLIPTokenizer,
    CLIPTokenizerFast,
    DistilBertTokenizer,
    DistilBertTokenizerFast,
    GPT2TokenizerFast,
    LayoutLMv2TokenizerFast,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)


def write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_vocab(tmp_path)


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "vocab.json",
        **{"a": 0, "b</w>": 1, "ab</w>": 2, "a</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5},
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "fast", "slow"),
    [
        ({"model_type": "bert"}, None, BertTokenizerFast, BertTokenizer),
        ({"model_type": "distilbert"}, None, DistilBertTokenizerFast, DistilBertTokenizer),
        ({"model_type": "electra"}, None, BertTokenizerFast, BertTokenizer),
        ({"model_type": "layoutlmv2"}, None, LayoutLMv2TokenizerFast, None),
        (
            {"model_type": "bert", "tokenizer_class": "DistilBertTokenizer"},
            None,
            DistilBertTokenizerFast,
            DistilBertTokenizer,
        ),
        (
            {"model_type": "bert"},
            {"tokenizer_class": "DistilBertTokenizerFast"},
            DistilBertTokenizerFast,
            DistilBertTokenizer,
        ),
        (None, {"tokenizer_class": "BertTokenizer"}, BertTokenizerFast, BertTokenizer),
    ],
)
def test_the_class(config: Any, tokenizer_config: Any, fast: type[Any], slow: type[Any] | None, bert: Path) -> None:
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if content is not None:
            write(bert, name, **content)
    assert type(AutoTokenizer.from_pretrained(bert)) is fast
    if slow is not None:
        assert type(AutoTokenizer.from_pretrained(bert, use_fast=False)) is slow


def test_the_class_that_the_caller_says(bert: Path) -> None:
    assert type(AutoTokenizer.from_pretrained(bert, tokenizer_type="distilbert")) is DistilBertTokenizerFast
    assert type(AutoTokenizer.from_pretrained(bert, config=BertConfig())) is BertTokenizerFast
    assert AutoTokenizer.from_pretrained(bert, tokenizer_type="bert", do_lower_case=False).tokenize("Hello") == [
        "[UNK]"
    ]
    with pytest.raises(ValueError, match=r"tokenizer_type='brt' is not known\. Did you mean 'bert'"):
        AutoTokenizer.from_pretrained(bert, tokenizer_type="brt")


def test_one_file(bert: Path) -> None:
    vocab = bert / "vocab.txt"
    assert type(AutoTokenizer.from_pretrained(vocab, tokenizer_type="bert")) is BertTokenizerFast
    assert type(AutoTokenizer.from_pretrained(vocab, config=BertConfig(), use_fast=False)) is BertTokenizer
    BertTokenizerFast.from_pretrained(bert).save_pretrained(bert)
    pipeline = bert / "tokenizer.json"
    assert type(AutoTokenizer.from_pretrained(pipeline)) is PreTrainedTokenizerFast
    slow = AutoTokenizer.from_pretrained(pipeline, tokenizer_type="distilbert", use_fast=False)
    assert type(slow) is DistilBertTokenizer
    assert slow("hello")["input_ids"] == [2, WORDS.index("hello"), 3]
    with pytest.raises(ValueError, match=r"use_fast=False, and '.*tokenizer\.json' is one file.*tokenizer_type='bert'"):
        AutoTokenizer.from_pretrained(pipeline, use_fast=False)
    with pytest.raises(OSError, match=r"vocab\.txt' is one file, and PreTrainedTokenizerFast needs tokenizer\.json"):
        AutoTokenizer.from_pretrained(vocab)


def test_vocabulary_and_merges(bpe: Path) -> None:
    write(bpe, "config.json", model_type="clip")
    for use_fast, kind in ((True, CLIPTokenizerFast), (False, CLIPTokenizer)):
        tokenizer = AutoTokenizer.from_pretrained(bpe, use_fast=use_fast)
        assert type(tokenizer) is kind
        assert tokenizer("AB a")["input_ids"] == [4, 2, 3, 5]
        assert tokenizer.decode([4, 2, 3, 5], skip_special_tokens=True) == "ab a"
    assert type(AutoTokenizer.from_pretrained(bpe, tokenizer_type="gpt2")) is GPT2TokenizerFast


def test_classes_read_from_their_pipeline_alone(tmp_path: Path) -> None:
    pipeline = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<s>": 0, "<pad>": 1, "a": 2, "<unk>": 3}, unk_token="<unk>")
    )
    pipeline.save(str(tmp_path / "tokenizer.json"))
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is PreTrainedTokenizerFast
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    write(tmp_path, "config.json", model_type="roberta")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token, tokenizer.cls_token_id) == ("<pad>", 0)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "RobertaTokenizer"
    with pytest.raises(
        ValueError, match="has the tokenizer RobertaTokenizer, and there is none of these in plain Python"
    ):
        AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has a RobertaTokenizer, which vertebra reads from 'tokenizer\.json' alone"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_nothing_says_how_the_vocabulary_is_used(bert: Path) -> None:
    with pytest.raises(
        OSError,
        match=r"has no 'tokenizer\.json', no 'tokenizer_config\.json' that names a class.*tokenizer_type='bert'",
    ):
        AutoTokenizer.from_pretrained(bert)
    with pytest.raises(OSError, match="is not constructed itself"):
        AutoTokenizer()
    with pytest.raises(ValueError, match="trust_remote_code=True is refused"):
        AutoTokenizer.from_pretrained(bert, trust_remote_code=True)


class OwnConfig(PreTrainedConfig):
    """A configuration of one's own."""

    model_type = "own-text"


class OwnTokenizer(BertTokenizer):
    """A tokenizer of one's own."""


class OwnTokenizerFast(BertTokenizerFast):
    """A fast one."""


def test_register(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a class that derives from vertebra\.PreTrainedTokenizer\."):
        AutoTokenizer.register(OwnConfig, slow_tokenizer_class=dict)
    with pytest.raises(ValueError, match="register needs slow_tokenizer_class"):
        AutoTokenizer.register(OwnConfig)
    AutoTokenizer.register(OwnConfig, OwnTokenizer)
    with pytest.raises(ValueError, match="OwnConfig has a tokenizer already; pass exist_ok=True"):
        AutoTokenizer.register(OwnConfig, OwnTokenizer)
    write(bert, "config.json", model_type="own-text")
    assert type(AutoTokenizer.from_pretrained(bert)) is OwnTokenizer
    AutoTokenizer.register(OwnConfig, OwnTokenizer, OwnTokenizerFast, exist_ok=True)
    assert type(AutoTokenizer.from_pretrained(bert)) is OwnTokenizerFast
    AutoTokenizer.from_pretrained(bert).save_pretrained(bert)
    (bert / "config.json").unlink()
    assert type(AutoTokenizer.from_pretrained(bert)) is OwnTokenizerFast
    assert type(AutoTokenizer.from_pretrained(bert, use_fast=False)) is OwnTokenizer
    with pytest.raises(ValueError, match="BertConfig has a tokenizer already"):
        AutoTokenizer.register(BertConfig, tokenizer_class=OwnTokenizerFast)


@pytest.mark.parametrize("use_fast", [True, False])
def test_no_torch(use_fast: bool, bert: Path) -> None:
    write(bert, "config.json", model_type="bert")
    code = (
        "import sys; from vertebra import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(bert)!r}, use_fast={use_fast})\n"
        "batch = tokenizer(['a', 'a b'], padding=True, return_tensors='np')\n"
        "tokenizer.pad([{'input_ids': [1]}], return_tensors='np')\n"
        "print(tokenizer.batch_decode(batch['input_ids']), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[CLS] a b [SEP]" in done.stdout
    assert not {"torch", "timm", "torchvision", "PIL", "transformers"} & set(done.stdout.split())
    assert ("tokenizers" in done.stdout.split()) == use_fast


def test_without_the_library(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'vertebra\[text\]'.*use_fast=False"):
        AutoTokenizer.from_pretrained(bert, tokenizer_type="bert")
    tokenizer = AutoTokenizer.from_pretrained(bert, tokenizer_type="bert", use_fast=False)
    assert tokenizer("hello")["input_ids"] == [2, WORDS.index("hello"), 3]
