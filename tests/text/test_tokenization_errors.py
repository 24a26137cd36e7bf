"""What tokenizers say of bad input: which text, which value, and what to do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_vocab import WORDS, write_vocab

from vertebra import AddedToken, BertTokenizer, BertTokenizerFast, PreTrainedTokenizer, PreTrainedTokenizerFast

BOTH = [BertTokenizer, BertTokenizerFast]


@pytest.fixture(params=BOTH, ids=lambda kind: kind.__name__)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param.from_pretrained(write_vocab(tmp_path / "tokenizer"))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([None], {}, "text is None; give a str"),
        ([3], {}, r"text is 3 \(int\), not a str"),
        ([b"a"], {}, r"text is b'a' \(bytes\), not a str\. Decode it: value\.decode\('utf-8'\)"),
        ([["a", None]], {}, r"text\[1\] is None, not a str"),
        ([["a", ["b", "c", "d"]]], {}, r"text\[1\] is \['b', 'c', 'd'\] \(list\), not a str"),
        ([[["a", ["b"]]]], {}, r"text\[0\]\[1\] is \['b'\] \(list\), not a str"),
        ([["a"], "b"], {}, r"text is a batch of 1, and text_pair is 'b' \(str\); it must be a list too"),
        ([["a", "b"], ["c", 4]], {}, r"text_pair\[1\] is 4 \(int\), not a str"),
        (
            ["a b"],
            {"is_split_into_words": True},
            r"text is a str, and is_split_into_words=True takes a list of words: text\.split",
        ),
        ([["a", 1]], {"is_split_into_words": True}, r"text\[1\] is 1 \(int\), not a str"),
        ([[["a"], "b"]], {"is_split_into_words": True}, r"text\[1\] is a str, and is_split_into_words"),
    ],
)
def test_what_is_no_text(arguments: list[Any], options: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(TypeError, match=message):
        tokenizer(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([["a", "b"], ["c"]], {}, "text has 2 entries and text_pair has 1; each text needs its pair"),
        (["a\ud83d"], {}, r"text holds half of a surrogate pair, '\\ud83d' at index 1, which is no character"),
        (["a"], {"padding": "longst"}, r"padding='longst' must be one of True, False, 'longest'.*Did you mean 'longest'"),
        (["a"], {"padding": None}, "padding=None must be one of"),
        (["a"], {"truncation": "first"}, "truncation='first' must be one of True, False, None, 'longest_first', 'only_first'"),
        (["a"], {"padding_side": "top"}, "padding_side='top' must be 'right' or 'left'"),
        (["a"], {"max_length": -1}, "max_length=-1 must be a whole number of at least 0"),
        (["a"], {"max_length": 2.5}, "max_length=2.5 must be a whole number"),
        (["a"], {"stride": "1"}, "stride='1' must be a whole number"),
        (["a"], {"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 must be a whole number of at least 1"),
        (["a"], {"padding": "max_length"}, "padding='max_length' needs a length, and this tokenizer has no model_max_length"),
        (["a"], {"truncation": True, "max_length": 1}, "max_length=1 has no room for the 2 special tokens of a text; give"),
        (["a", "b"], {"truncation": True, "max_length": 2}, "max_length=2 has no room for the 3 special tokens of a pair"),
        (["a"], {"truncation": True, "max_length": 4, "stride": 2}, "stride=2 must be less than the 2 tokens that max_length=4"),
        (["a b c"], {"truncation": "only_second", "max_length": 4}, "Text 0: truncation='only_second' shortens the second"),
        (
            [["a", "a b c"], ["b", "a"]],
            {"truncation": "only_second", "max_length": 5},
            "Text 1: truncation='only_second' has to take 2 tokens off the second text, which has 1. Raise max_length, or use "
            "truncation='longest_first' or 'only_first'",
        ),
        (
            ["a b c", "a b c d e"],
            {"truncation": "only_second", "max_length": 8, "stride": 3},
            "Text 0: stride=3 must be less than the 2 tokens that max_length leaves of the text that is shortened",
        ),
        (
            ["a b c d", "a b c d e"],
            {"truncation": True, "max_length": 7, "stride": 4},
            "Text 0: stride=4 must be less than the 2 tokens that max_length leaves",
        ),
        (
            ["a"],
            {"truncation": True, "padding": True, "max_length": 10, "pad_to_multiple_of": 8},
            "max_length=10 is not a multiple of pad_to_multiple_of=8, so rows cannot be both; max_length=8 is one",
        ),
        (["a"], {"return_tensors": "tf"}, r"return_tensors='tf' is not supported; it is 'pt' \(torch\.Tensor\), 'np'"),
        ([["a", "a b"]], {"return_tensors": "pt"}, "'input_ids' cannot become one tensor: its rows have 3, 4 entries. Pass"),
        ([["a", "a b"]], {"return_tensors": "np"}, "'input_ids' cannot become one tensor"),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed(
    arguments: list[Any], options: dict[str, Any], message: str, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    message = message if tokenizer.is_fast else message.replace("Text 0: ", "").replace("Text 1: ", "")
    with pytest.raises(ValueError, match=message):
        tokenizer(*arguments, **options)
    assert "panicked" not in capfd.readouterr().err
    assert tokenizer("a b")["input_ids"] == [2, 5, 6, 3]


def test_padding_without_a_padding_token(tokenizer: Any) -> None:
    tokenizer.pad_token = None
    with pytest.raises(
        ValueError, match=r"padding=True needs a padding token.*add_special_tokens\(\{'pad_token': '\[PAD\]'\}\)"
    ):
        tokenizer(["a", "a b"], padding=True)


def test_arguments_nobody_takes(tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_lenght'"):
        tokenizer("a", max_lenght=3)
    with pytest.raises(TypeError, match=r"has no argument 'do_lowercase'\. Did you mean 'do_lower_case'"):
        type(tokenizer).from_pretrained(tokenizer.name_or_path, do_lowercase=False)
    with pytest.raises(ValueError, match=r"never_split=\['x'\] is not supported; tokenizer\.add_tokens"):
        type(tokenizer)(dict.fromkeys(["[UNK]"], 0), never_split=["x"])
    with pytest.raises(ValueError, match="do_basic_tokenize=False is not supported"):
        type(tokenizer)({"[UNK]": 0}, do_basic_tokenize=False)
    with pytest.raises(ValueError, match="has a method 'decode'; an argument cannot be called like it"):
        type(tokenizer)({"[UNK]": 0}, decode=3)
    with pytest.raises(ValueError, match="padding_side='middle' must be 'right' or 'left'"):
        type(tokenizer)({"[UNK]": 0}, padding_side="middle")
    with pytest.raises(ValueError, match="model_max_length=0 must be a number of at least 1"):
        type(tokenizer)({"[UNK]": 0}, model_max_length=0)


def test_settings_that_are_assigned(tokenizer: Any) -> None:
    for side in ("padding_side", "truncation_side"):
        with pytest.raises(ValueError, match=f"{side}='top' must be 'right' or 'left'"):
            setattr(tokenizer, side, "top")
        assert getattr(tokenizer, side) == "right"
    for limit in ("5", 0, float("nan")):
        with pytest.raises(ValueError, match=r"model_max_length=.* must be a number of at least 1, or None"):
            tokenizer.model_max_length = limit
    tokenizer.model_max_length = 4
    tokenizer.model_max_length = None
    assert len(tokenizer("a b c d", truncation=True)["input_ids"]) == 6


def test_what_files_alone_say_cannot_be_changed(tokenizer: Any) -> None:
    folder = Path(tokenizer.name_or_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_eos_token": False, "legacy": True}))
    assert type(tokenizer).from_pretrained(folder, legacy=True).legacy is True
    with pytest.raises(
        TypeError, match="has no argument 'add_eos_token'; its files say False, which is kept for other"
    ):
        type(tokenizer).from_pretrained(folder, add_eos_token=True)


def test_special_tokens_that_are_none(tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"pad_token='<pad>' is not in the vocabulary of \d+ tokens\. tokenizer\.add_special_tokens"
    ):
        tokenizer.pad_token = "<pad>"
    with pytest.raises(ValueError, match="pad_token_id=999 is no number of the vocabulary"):
        tokenizer.pad_token_id = 999
    with pytest.raises(TypeError, match="cls_token=3 is no token: it is a string or an AddedToken"):
        tokenizer.cls_token = 3
    with pytest.raises(ValueError, match=r"add_special_tokens has no key 'padd_token'\. Did you mean 'pad_token'"):
        tokenizer.add_special_tokens({"padd_token": "x"})
    with pytest.raises(TypeError, match="additional_special_tokens='<a>' must be a list of tokens"):
        tokenizer.add_special_tokens({"additional_special_tokens": "<a>"})
    with pytest.raises(TypeError, match="new_tokens=5 is no token"):
        tokenizer.add_tokens([AddedToken("x"), 5])
    with pytest.raises(AttributeError, match=r"has no 'pad_tokn'\. Did you mean 'pad_token"):
        _ = tokenizer.pad_tokn


def test_ids_that_are_none(tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"token_ids\[1\] is -100, which no token has\. Where it marks what is no label"
    ):
        tokenizer.decode([5, -100])
    with pytest.raises(TypeError, match=r"token_ids\[0\] is 'a', not a whole number"):
        tokenizer.decode(["a"])
    with pytest.raises(
        TypeError, match=r"token_ids\[0\] is 0\.5, not a whole number\. Scores become ids by logits\.argmax"
    ):
        tokenizer.decode([[0.5, 0.2]])
    assert tokenizer.decode([5, 10_000, 2**31, 2**40]) == "a"
    assert tokenizer.convert_ids_to_tokens([-1, 10_000, 2**40, 5]) == [None, None, None, "a"]
    assert tokenizer.convert_ids_to_tokens(2**40) is None


def test_pad_of_what_is_no_row(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"pad\(\) needs 'input_ids', and these rows have 'ids'"):
        tokenizer.pad({"ids": [1]})
    with pytest.raises(ValueError, match="Row 1 has 'input_ids', and row 0 has 'input_ids', 'labels'"):
        tokenizer.pad([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}])
    with pytest.raises(
        ValueError, match="Row 0 has 1 entries of 'token_type_ids' and 2 of 'input_ids'; they must be as many"
    ):
        tokenizer.pad({"input_ids": [[1, 2]], "token_type_ids": [[0]]})
    with pytest.raises(TypeError, match=r"pad\(\) takes what the tokenizer returns.*this is a list"):
        tokenizer.pad([[1, 2]])


@pytest.mark.parametrize("kind", BOTH)
def test_missing_vocabulary(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs a vocabulary: {kind.__name__}\('vocab\.txt'\)"):
        kind()
    with pytest.raises(FileNotFoundError, match=r"vocab_file='nowhere\.txt' does not exist"):
        kind("nowhere.txt")
    with pytest.raises(IsADirectoryError, match=rf"is a folder: {kind.__name__}\.from_pretrained\('.*'\)"):
        kind(tmp_path)
    with pytest.raises(TypeError, match="vocab_file=3 is neither a path nor a dictionary of tokens and their numbers"):
        kind(3)
    with pytest.raises(ValueError, match=rf"The vocabulary of {kind.__name__} gives 'a' the number 'x'"):
        kind({"[UNK]": 0, "a": "x"})
    with pytest.raises(ValueError, match=r"has no unk_token='\[UNK\]', which stands for words that it cannot make"):
        kind({"[unk]": 0})
    (tmp_path / "model.bin").write_bytes(b"x")
    (tmp_path / "vocab.pkl").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(
        FileNotFoundError, match=r"has neither 'tokenizer\.json' nor vocab\.txt.*The folder has model\.bin, vocab\.pkl"
    ):
        kind.from_pretrained(tmp_path)
    assert not Path("hacked").exists()
    with pytest.raises(OSError, match=r"is not an existing folder"):
        kind.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*WORDS, "hello"],
            r"has 'hello' twice, in lines 11 and 26.*make one of them another token, e\.g\. \[unused25\]",
        ),
        ([], "is empty; a vocabulary has one token a line"),
    ],
)
def test_damaged_vocabulary(kind: Any, words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    with pytest.raises(ValueError, match=message):
        kind.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(ValueError, match="is not a vocabulary: it is no text in UTF-8"):
        kind(tmp_path / "vocab.txt")


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}', "[]", '{"model": {"type": "Other"}}'])
def test_damaged_pipeline(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"is not a tokenizer\.json that tokenizers [\d.]+ reads: .*Fetch the file again"
    ):
        BertTokenizerFast.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape("tokenizer.json") if content.startswith('{"') else "JSON"):
        BertTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="PreTrainedTokenizerFast needs tokenizer_file="):
        PreTrainedTokenizerFast()


@pytest.mark.parametrize("kind", BOTH)
def test_files_of_two_tokenizers(kind: Any, tmp_path: Path) -> None:
    folder = write_vocab(tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"new": 40}))
    if kind is BertTokenizerFast:
        with pytest.raises(
            ValueError, match=r"'new' has number 40 in added_tokens_decoder or added_tokens\.json, and got 25"
        ):
            kind.from_pretrained(folder)
    else:  # numbers may have gaps here
        assert kind.from_pretrained(folder).convert_tokens_to_ids("new") == 40
    (folder / "added_tokens.json").write_text(json.dumps({"hello": 3}))
    with pytest.raises(
        ValueError, match=r"'hello' has number 3 in added_tokens_decoder or added_tokens\.json, and (got )?"
    ):
        kind.from_pretrained(folder)
    (folder / "added_tokens.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"added_tokens\.json' holds a JSON list"):
        kind.from_pretrained(folder)


def test_a_tokenizer_of_ones_own_that_lacks_parts_is_told_which() -> None:
    class Half(PreTrainedTokenizer):
        def _tokenize(self, text: str) -> list[str]:
            return text.split()

    with pytest.raises(TypeError, match=r"abstract class Half.*_convert_id_to_token.*_convert_token_to_id.*get_vocab"):
        Half()
