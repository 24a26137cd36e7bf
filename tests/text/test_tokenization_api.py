"""What a tokenizer and its batches offer beside ids: special tokens, places in the text, copies, threads."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vocab import WORDS, write_vocab

from vertebra import (
    AddedToken,
    BatchEncoding,
    BertTokenizer,
    BertTokenizerFast,
    DistilBertTokenizer,
    PreTrainedTokenizer,
)

BOTH = [BertTokenizer, BertTokenizerFast]


@pytest.fixture(params=BOTH, ids=lambda kind: kind.__name__)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param.from_pretrained(write_vocab(tmp_path / "tokenizer"))


class TestSpecialTokens:
    def test_names_and_numbers(self, tokenizer: Any) -> None:
        assert (tokenizer.cls_token, tokenizer.cls_token_id) == ("[CLS]", 2)
        assert tokenizer.bos_token is tokenizer.bos_token_id is None
        assert tokenizer.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
        assert tokenizer.all_special_ids == [1, 3, 0, 2, 4]
        assert tokenizer.special_tokens_map["mask_token"] == "[MASK]"
        assert tokenizer.num_special_tokens_to_add() == 2
        assert tokenizer.num_special_tokens_to_add(pair=True) == 3

    def test_assigning(self, tokenizer: Any) -> None:
        tokenizer.pad_token = tokenizer.sep_token
        assert tokenizer.pad_token_id == 3
        assert tokenizer(["a", "a b"], padding=True)["input_ids"][0] == [2, 5, 3, 3]
        tokenizer.pad_token_id = 0
        assert tokenizer.pad_token == "[PAD]"
        tokenizer.cls_token = "[MASK]"
        assert tokenizer("a", "b")["input_ids"] == [4, 5, 3, 6, 3]
        tokenizer.pad_token = None
        assert tokenizer.pad_token_id is None

    def test_adding(self, tokenizer: Any) -> None:
        size = len(tokenizer)
        assert tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<x>", "hello"]}) == 2
        assert (len(tokenizer), tokenizer.vocab_size) == (size + 2, size)
        assert tokenizer.bos_token_id == size
        assert tokenizer.additional_special_tokens_ids == [size + 1, WORDS.index("hello")]
        assert tokenizer.extra_special_tokens == ["<x>", "hello"]
        assert tokenizer.decode(tokenizer("a <x> hello world")["input_ids"], skip_special_tokens=True) == "a world"
        assert (
            tokenizer.add_special_tokens(
                {"additional_special_tokens": ["<y>"]}, replace_additional_special_tokens=False
            )
            == 1
        )
        assert tokenizer.additional_special_tokens == ["<x>", "hello", "<y>"]
        assert tokenizer.add_tokens(["<y>", "b"]) == 0
        assert tokenizer.get_added_vocab()["<x>"] == size + 1

    def test_named_ones_of_a_model(self, tokenizer: Any) -> None:
        vocab = {word: at for at, word in enumerate(WORDS)}
        own = type(tokenizer)(vocab, extra_special_tokens={"image_token": "<image>"})
        assert own.image_token == "<image>"
        assert own.image_token_id == len(WORDS)
        assert own("a <image>")["input_ids"] == [2, 5, len(WORDS), 3]

    def test_masks_and_segments_of_ids(self, tokenizer: Any) -> None:
        assert tokenizer.build_inputs_with_special_tokens([3, 6], [7]) == [2, 3, 6, 3, 7, 3]
        assert tokenizer.create_token_type_ids_from_sequences([3, 6], [7]) == [0, 0, 0, 0, 1, 1]
        assert tokenizer.get_special_tokens_mask([3, 6], [7]) == [1, 0, 0, 1, 0, 1]
        assert tokenizer.get_special_tokens_mask([2, 5, 3], already_has_special_tokens=True) == [1, 0, 1]


class TestBatches:
    def test_places_in_the_text(self, tokenizer: Any) -> None:
        batch = tokenizer(["Hello, unaffable  cat"], ["a b"])
        assert batch.tokens() == "[CLS] hello , un ##aff ##able [UNK] [SEP] a b [SEP]".replace("[UNK]", "cat").split()
        assert batch.word_ids() == [None, 0, 1, 2, 2, 2, 3, None, 0, 1, None]
        assert batch.sequence_ids() == [None, 0, 0, 0, 0, 0, 0, None, 1, 1, None]
        assert batch.word_to_tokens(2) == (3, 6) == batch.word_to_tokens(0, 2)
        assert batch.word_to_chars(2) == (7, 16)
        assert batch.token_to_chars(4) == (9, 12)
        assert batch.token_to_chars(0) is None
        assert batch.char_to_token(16) is None
        assert batch.char_to_token(2, sequence_index=1) == 9
        assert batch.char_to_word(0, 8) == 2
        assert batch.token_to_word(0, 3) == 2
        assert batch.token_to_sequence(9) == 1
        assert batch.n_sequences == 2
        assert batch.is_fast is tokenizer.is_fast
        with pytest.raises(IndexError, match="token 30 does not exist; the row has 11"):
            batch.token_to_chars(30)
        with pytest.raises(IndexError, match="Row 3 does not exist; this batch has 1"):
            batch.tokens(3)

    def test_it_is_a_dict_with_attributes(self, tokenizer: Any) -> None:
        batch = tokenizer(["a", "a b"], padding=True)
        assert isinstance(batch, dict)
        assert batch.input_ids == batch["input_ids"] == [[2, 5, 3, 0], [2, 5, 6, 3]]
        assert batch[1].tokens == ["[CLS]", "a", "b", "[SEP]"]
        assert batch[:1]["input_ids"] == [[2, 5, 3, 0]]
        assert {**batch} == batch.data
        with pytest.raises(AttributeError, match=r"This batch has no 'input_id'.*Did you mean 'input_ids'"):
            _ = batch.input_id
        with pytest.raises(KeyError, match="'labels' is not in this batch, which has 'input_ids'"):
            _ = batch["labels"]
        with pytest.raises(ValueError, match="This batch has no encodings"):
            BatchEncoding({"input_ids": [1]}).tokens()

    @pytest.mark.parametrize(
        "copied", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch)), BatchEncoding.copy]
    )
    def test_copies(self, copied: Any, tokenizer: Any) -> None:
        batch = tokenizer(["a b"], return_tensors="np")
        other = copied(batch)
        assert type(other) is BatchEncoding
        assert other.word_ids() == batch.word_ids()
        assert np.array_equal(other["input_ids"], batch["input_ids"])

    def test_tensors(self, tokenizer: Any) -> None:
        batch = tokenizer("a b", return_tensors="pt", return_offsets_mapping=True)
        assert batch.input_ids.shape == (1, 4)
        assert batch.input_ids.dtype == torch.int64
        assert batch.offset_mapping.tolist() == [[[0, 0], [0, 1], [2, 3], [0, 0]]]
        assert batch.to("meta").input_ids.device.type == "meta"
        assert tokenizer([], return_tensors="pt")["input_ids"].shape == (0,)
        assert tokenizer("", add_special_tokens=False, return_tensors="np")["input_ids"].dtype == np.int64

    def test_left_padding_and_targets(self, tokenizer: Any) -> None:
        tokenizer.padding_side = "left"
        batch = tokenizer(["a", "a b"], padding=True, text_target=["b", "a b"])
        assert batch["input_ids"][0] == [0, 2, 5, 3]
        assert batch["attention_mask"][0] == [0, 1, 1, 1]
        assert batch["labels"] == [[0, 2, 6, 3], [2, 5, 6, 3]]
        assert batch.word_ids(0) == [None, None, 0, None]

    def test_an_empty_second_text_is_one(self, tokenizer: Any) -> None:
        assert tokenizer("a", "")["input_ids"] == tokenizer(["a"], [""])["input_ids"][0] == [2, 5, 3, 3]


class TestTokenizers:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
    def test_copies(self, copied: Any, tokenizer: Any) -> None:
        tokenizer.add_tokens(["zz"])
        other = copied(tokenizer)
        assert other("a zz un")["input_ids"] == tokenizer("a zz un")["input_ids"]
        other.add_tokens(["yy"])
        assert len(other) == len(tokenizer) + 1

    def test_threads_do_not_disturb_each_other(self, tokenizer: Any) -> None:
        text = "a b c d e " * 20

        def rows(length: int) -> bool:
            kept = tokenizer(text, truncation=True, max_length=length)["input_ids"]
            return len(kept) == length and len(tokenizer(text)["input_ids"]) == 102

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(rows, [5, 17, 40, 99] * 50))

    def test_conversions(self, tokenizer: Any) -> None:
        assert tokenizer.tokenize("Hello unaffable") == ["hello", "un", "##aff", "##able"]
        assert tokenizer.tokenize("a", "b", add_special_tokens=True) == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
        assert tokenizer.convert_tokens_to_ids(["a", "nothing"]) == [5, 1]
        assert tokenizer.convert_tokens_to_ids("b") == 6
        assert tokenizer.convert_ids_to_tokens([2, 5, 999]) == ["[CLS]", "a", None]
        assert tokenizer.convert_ids_to_tokens(torch.tensor([2, 5]), skip_special_tokens=True) == ["a"]
        assert tokenizer.convert_tokens_to_string(["un", "##aff", "##able", "!"]) == "unaffable!"
        assert tokenizer.encode("a", "b") == [2, 5, 3, 6, 3]
        assert tokenizer.encode("a", return_tensors="pt").tolist() == [[2, 5, 3]]
        assert tokenizer.encode_plus("a") == tokenizer("a")
        assert tokenizer.batch_encode_plus([("a", "b")])["input_ids"] == [[2, 5, 3, 6, 3]]
        assert tokenizer.batch_decode(torch.tensor([[5, 6], [6, 5]])) == ["a b", "b a"]
        assert tokenizer.decode(5) == "a"
        assert tokenizer.vocab == tokenizer.get_vocab()
        assert len(tokenizer.get_vocab()) == len(tokenizer) == len(WORDS)
        assert tokenizer
        assert "vocab_size=25" in repr(tokenizer)

    def test_model_max_length(self, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
        assert len(tokenizer("a " * 9, truncation=True)["input_ids"]) == 11  # there is no limit
        tokenizer.model_max_length = 6
        assert len(tokenizer("a " * 9, truncation=True)["input_ids"]) == 6
        assert len(tokenizer("a", padding="max_length")["input_ids"]) == 6
        assert (tokenizer.max_len_single_sentence, tokenizer.max_len_sentences_pair) == (4, 3)
        for _ in range(2):
            tokenizer("a " * 9)
        assert caplog.text.count("A row has 11 tokens, and this tokenizer's model takes 6") == 1


def test_constructor_as_in_the_guide(tmp_path: Path) -> None:
    write_vocab(tmp_path)
    tokenizer = DistilBertTokenizer(vocab_file=str(tmp_path / "vocab.txt"), do_lower_case=False, padding_side="left")
    assert not tokenizer.is_fast
    batch = tokenizer(["a", "Hello hello"], padding=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["input_ids"] == [[0, 2, 5, 3], [2, 1, 10, 3]]


class Letters(PreTrainedTokenizer):
    """A tokenizer as people write them over transformers."""

    vocab_files_names = {"vocab_file": "letters.txt"}

    def __init__(
        self,
        vocab_file: str,
        upper: bool = False,
        unk_token: str = "?",
        bos_token: str = "<",
        pad_token: str = "_",
        **kwargs: Any,
    ) -> None:
        self.letters = {letter: at for at, letter in enumerate(Path(vocab_file).read_text())}
        self.upper = upper
        super().__init__(unk_token=unk_token, bos_token=bos_token, pad_token=pad_token, upper=upper, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.letters, **self.added_tokens_encoder)

    def _tokenize(self, text: str) -> list[str]:
        return list(text.upper() if self.upper else text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.get(token, self.letters["?"])

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.letters)[index] if index < len(self.letters) else "?"

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [self.bos_token_id, *token_ids_0, *(token_ids_1 or [])]  # type: ignore[list-item]

    def save_vocabulary(self, save_directory: Any, filename_prefix: str | None = None) -> tuple[str, ...]:
        path = Path(save_directory) / "letters.txt"
        path.write_text("".join(self.letters))
        return (str(path),)


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("?<ABCabc")
    tokenizer = Letters.from_pretrained(tmp_path, upper=True)
    assert tokenizer("abz<c")["input_ids"] == [1, 2, 3, 0, 1, 4]
    batch = tokenizer(["a", "ab"], ["b", "c"], padding=True, return_special_tokens_mask=True, return_tensors="np")
    assert batch["input_ids"].tolist() == [[1, 2, 3, 8], [1, 2, 3, 4]]
    assert batch["special_tokens_mask"].tolist() == [[1, 0, 0, 1], [1, 0, 0, 0]]
    assert batch.sequence_ids(0) == [None, 0, 1, None]
    assert tokenizer("ab", return_attention_mask=False, truncation=True, max_length=2)["input_ids"] == [1, 2]
    assert tokenizer(["ab", "c"], is_split_into_words=True).word_ids() == [None, 0, 0, 1]
    with pytest.raises(
        ValueError, match="return_offsets_mapping=True needs a tokenizer that knows where its tokens come from"
    ):
        tokenizer("ab", return_offsets_mapping=True)
    with pytest.raises(ValueError, match="This batch has no word_ids: its tokenizer defines _tokenize"):
        tokenizer("ab").word_ids()
    tokenizer.add_tokens([AddedToken("xyz")])
    tokenizer.save_pretrained(tmp_path / "saved")
    again = Letters.from_pretrained(tmp_path / "saved")
    assert again.upper
    assert again("axyz")["input_ids"] == [1, 2, 9]
    assert again.decode([1, 2, 9], skip_special_tokens=True) == "Axyz"
