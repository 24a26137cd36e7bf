"""Byte-level BPE, GPT-2's and CLIP's, gives what transformers' gives, fast and in plain Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from odd_texts import odd_texts
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from vertebra import CLIPTokenizer, CLIPTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast
from vertebra.text.tokenization.byte_bpe import Merges, to_text
from vertebra.text.tokenization.clip import WORDS

TEXTS = odd_texts(2000)
EVERYTHING = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
CASES: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "clip": (transformers.CLIPTokenizer, [CLIPTokenizer, CLIPTokenizerFast], {}),
    "gpt2": (transformers.GPT2Tokenizer, [GPT2Tokenizer, GPT2TokenizerFast], {}),
    "gpt2 with a space": (transformers.GPT2Tokenizer, [GPT2Tokenizer, GPT2TokenizerFast], {"add_prefix_space": True}),
}


def write_vocabulary(folder: Path, suffix: str) -> Path:
    """Train a small BPE on the texts, and write its vocab.json and merges.txt."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split] * bool(suffix) + [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    if suffix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=alphabet,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[9:], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    for character in sorted(alphabet):
        model["vocab"].setdefault(character + suffix, len(model["vocab"]))
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("byte-level")
    clip, gpt2 = write_vocabulary(home / "clip", "</w>"), write_vocabulary(home / "gpt2", "")
    return {"clip": clip, "gpt2": gpt2, "gpt2 with a space": gpt2}


@pytest.mark.parametrize("case", CASES)
def test_texts(case: str, folders: dict[str, Path]) -> None:
    theirs, ours, settings = CASES[case]
    reference = theirs.from_pretrained(folders[case], **settings)
    expected = reference(TEXTS, **EVERYTHING)
    decoded = [reference.decode(row, skip_special_tokens=True) for row in expected["input_ids"]]
    for kind in ours:
        tokenizer = kind.from_pretrained(folders[case], **settings)
        found = tokenizer(TEXTS, **EVERYTHING)
        assert dict(found) == dict(expected)
        for row in range(len(TEXTS)):
            assert found.tokens(row) == expected.tokens(row), row
            assert found.word_ids(row) == expected.word_ids(row), row
        assert tokenizer.batch_decode(found["input_ids"], skip_special_tokens=True) == decoded


@pytest.mark.parametrize("case", CASES)
def test_pairs_and_padding(case: str, folders: dict[str, Path]) -> None:
    theirs, ours, settings = CASES[case]
    settings = {"pad_token": "<|endoftext|>", "model_max_length": 40, **settings}
    texts = [text for text in odd_texts(300, seed=9) if text and len(text) < 300]
    reference = theirs.from_pretrained(folders[case], **settings)
    options = {"padding": "max_length", "truncation": True, **EVERYTHING}
    expected = reference(texts[:100], texts[100:200], **options)
    for kind in ours:
        assert dict(kind.from_pretrained(folders[case], **settings)(texts[:100], texts[100:200], **options)) == dict(
            expected
        )


@pytest.mark.parametrize("case", ["clip", "gpt2"])
def test_round_trips(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours, _ = CASES[case]
    texts = [*odd_texts(100, seed=3)[9:], "a <new> b"]
    for kind in ours:
        tokenizer = kind.from_pretrained(folders[case])
        tokenizer.add_tokens(["<new>"])
        tokenizer.save_pretrained(tmp_path / kind.__name__)
        expected = tokenizer(texts)["input_ids"]
        for reader in (theirs, *ours):
            assert reader.from_pretrained(tmp_path / kind.__name__)(texts)["input_ids"] == expected
    reference = theirs.from_pretrained(folders[case])
    reference.save_pretrained(tmp_path / "theirs")  # tokenizer.json alone
    for kind in ours:
        found = kind.from_pretrained(tmp_path / "theirs")
        assert found(texts)["input_ids"] == reference(texts)["input_ids"]


@pytest.mark.parametrize("kind", [GPT2Tokenizer, GPT2TokenizerFast])
def test_rows_that_begin(kind: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    """`add_bos_token`, read from files of transformers 5 (which say it in tokenizer.json alone), assigned and saved."""
    theirs = transformers.GPT2Tokenizer.from_pretrained(folders["gpt2"], add_bos_token=True)
    theirs.save_pretrained(tmp_path / "theirs")
    options = {"return_token_type_ids": True, **EVERYTHING}
    expected = dict(theirs(["a b", "é"], ["c", ""], **options))
    ours = kind.from_pretrained(folders["gpt2"], add_bos_token=True)
    ours.save_pretrained(tmp_path / "ours")
    read = [kind.from_pretrained(tmp_path / name) for name in ("theirs", "ours")]
    for tokenizer in (ours, *read, transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")):
        assert dict(tokenizer(["a b", "é"], ["c", ""], **options)) == expected
        assert tokenizer("a")["input_ids"] == theirs("a")["input_ids"]
    plain = kind.from_pretrained(tmp_path / "theirs", add_bos_token=False)
    assert plain("a")["input_ids"] == theirs("a", add_special_tokens=False)["input_ids"]
    ours.bos_token = "<|startoftext|>"
    assert ours("a")["input_ids"][0] == ours.convert_tokens_to_ids("<|startoftext|>")


@pytest.mark.parametrize("kind", [GPT2Tokenizer, GPT2TokenizerFast])
def test_merges_that_are_none(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"merges\[1\] is \('a',\); it must be two tokens"):
        kind({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, [("a", "b"), ("a",)])
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} needs merges: {kind.__name__}\('vocab\.json', 'merges\.txt'\)"
    ):
        kind({"a": 0})
    with pytest.raises(IsADirectoryError, match="is a folder"):
        kind("/")


def test_merges_follow_their_order_whatever_it_is() -> None:
    """The library joins the first of equal pairs, and then looks again: of the pairs (aba, b) and (ab, ab) it makes this one."""
    merge = Merges([("ab", "a"), ("a", "b")])
    assert merge("abab") == ["aba", "b"]
    assert Merges([("a", "a")])("aaaaa") == ["aa", "aa", "a"]
    vocab = {token: number for number, token in enumerate(["a", "b", "ab", "aba"])}
    theirs = Tokenizer(models.BPE(vocab=vocab, merges=[("ab", "a"), ("a", "b")]))
    assert theirs.encode("abab").tokens == ["aba", "b"]


def test_bytes_that_are_no_text() -> None:
    assert to_text(["â"]) == "\ufffd"
    assert to_text(["â"], "ignore") == ""
    assert to_text(["Ġhello", "日本"]) == " hello日本"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[1]", r"vocab\.json' holds a JSON list, not an object"),
        ("vocab.json", '{"a": "x"}', r"gives 'a' the number 'x'; it must be a whole number from 0"),
        ("vocab.json", '{"a": 0, "b": 0}', r"gives 'a' and 'b' the same number 0"),
        (
            "merges.txt",
            "#version: 0.2\na b c\n",
            r"merges\.txt', line 2: 'a b c' is not two tokens with a space between",
        ),
        ("merges.txt", b"\xff\xfe", r"merges\.txt' holds no merges: it is no text in UTF-8"),
    ],
)
def test_damaged_files(name: str, content: str | bytes, message: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["gpt2"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for kind in (GPT2Tokenizer, GPT2TokenizerFast):
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path)


def test_files_of_two_tokenizers(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "<|endoftext|>": 2}')
    (tmp_path / "merges.txt").write_bytes((folders["gpt2"] / "merges.txt").read_bytes())
    with pytest.raises(ValueError, match="the merges do not fit the vocabulary"):
        GPT2TokenizerFast.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither 'tokenizer\.json' nor merges\.txt, so GPT2TokenizerFast"):
        GPT2TokenizerFast.from_pretrained(tmp_path)
