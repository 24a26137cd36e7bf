"""Tokenizers that transformers 4 wrote, with the ids its fast ones make: `tests/fixtures/v4` says how they were made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vertebra import AutoTokenizer

KINDS = {
    "bert": ("BertTokenizerFast", "BertTokenizer"),
    "bert_fast": ("BertTokenizerFast", "BertTokenizer"),
    "distilbert_fast": ("DistilBertTokenizerFast", "DistilBertTokenizer"),
    "layoutlmv2_fast": ("LayoutLMv2TokenizerFast", "LayoutLMv2Tokenizer"),
    "gpt2": ("GPT2TokenizerFast", "GPT2Tokenizer"),
    "gpt2_fast": ("GPT2TokenizerFast", "GPT2Tokenizer"),
    "gpt2_bos_fast": ("GPT2TokenizerFast", None),  # transformers 4 itself loses the beginning in plain Python
    "clip": ("CLIPTokenizerFast", "CLIPTokenizer"),
    "clip_fast": ("CLIPTokenizerFast", "CLIPTokenizer"),
    "roberta_fast": ("PreTrainedTokenizerFast", None),
}
CASES = [(name, fast) for name, kinds in KINDS.items() for fast in (True, False) if kinds[not fast]]


def check(tokenizer: Any, expected: dict[str, Any]) -> None:
    boxes = {"boxes": [[5, 6, 7, 8]]} if "LayoutLM" in type(tokenizer).__name__ else {}
    for text, row in zip(expected["texts"], expected["input_ids"], strict=True):
        assert tokenizer([text] if boxes else text, **boxes)["input_ids"] == row, text
    assert dict(tokenizer("the cat", ["hello"] if boxes else "hello", **boxes)) == expected["pair"]
    assert tokenizer.batch_decode(expected["input_ids"]) == expected["decoded"]
    assert tokenizer.batch_decode(expected["input_ids"], skip_special_tokens=True) == expected["skipped"]
    assert tokenizer.all_special_tokens == expected["special"]
    assert len(tokenizer) == expected["length"]
    assert (tokenizer.padding_side, tokenizer.model_max_length) == (expected["padding_side"], 77)


@pytest.mark.parametrize(("name", "fast"), CASES)
def test_they_are_read_and_written_to_the_same_ids(name: str, fast: bool, v4: Path, tmp_path: Path) -> None:
    folder = v4 / "tokenizers" / name
    expected = json.loads((folder / "expected.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=fast)
    assert type(tokenizer).__name__ == KINDS[name][not fast]
    check(tokenizer, expected)
    tokenizer.save_pretrained(tmp_path)
    check(AutoTokenizer.from_pretrained(tmp_path, use_fast=fast), expected)


@pytest.mark.parametrize("name", ["bert_fast", "layoutlmv2_fast", "gpt2_fast", "clip_fast"])
@pytest.mark.parametrize("fast", [True, False])
def test_without_tokenizer_json(name: str, fast: bool, v4: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(v4 / "tokenizers" / name, tmp_path / name)
    (folder / "tokenizer.json").unlink()
    check(AutoTokenizer.from_pretrained(folder, use_fast=fast), json.loads((folder / "expected.json").read_text()))


@pytest.mark.parametrize("name", ["bert_fast", "gpt2_fast", "gpt2_bos_fast", "clip_fast"])
def test_plain_python_from_tokenizer_json_alone(name: str, v4: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(v4 / "tokenizers" / name, tmp_path / name)
    for path in (*folder.glob("vocab.*"), *folder.glob("merges.*")):
        path.unlink()
    expected = json.loads((folder / "expected.json").read_text())
    found = AutoTokenizer.from_pretrained(folder, use_fast=False, **({"add_bos_token": True} if "bos" in name else {}))
    assert [found([text])["input_ids"][0] for text in expected["texts"]] == expected["input_ids"]
