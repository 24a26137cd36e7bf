"""CLIP's tokenizers: byte-level BPE of small letters, with an end to each word."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from vertebra.text.tokenization import byte_bpe
from vertebra.text.tokenization.byte_level import ByteLevelTokenizer, ByteLevelTokenizerFast
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned, composed, lowered
from vertebra.text.tokenization.surrounded import SurroundedTokenizerFast

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a word is, as the library reads it."""


class CLIPTokenizer(ByteLevelTokenizer):
    """CLIP's tokenizer in plain Python; it gives what `CLIPTokenizerFast` gives.

    The arguments are those of `ByteLevelTokenizer`; unless they say otherwise, `bos_token` is `<|startoftext|>`, and `unk_token`,
    `eos_token` and `pad_token` are `<|endoftext|>`.
    """

    usual_tokens = {"bos_token": START, **dict.fromkeys(("unk_token", "eos_token", "pad_token"), END)}
    word_pattern = byte_bpe.CLIP_WORDS
    word_end = WORD_END
    single = ("bos_token", 0, "eos_token")
    pair = ("bos_token", 0, "eos_token", "eos_token", 1, "eos_token")
    pair_types = (0, 0, 0, 0, 0, 0)

    def _normalize(self, text: Aligned) -> Aligned:
        return lowered(composed(text))

    def _words(self, text: Aligned) -> Iterator[Aligned]:
        for word in super()._words(text):
            end = len(word.text)
            bounds = (
                (0, 2, end - 2, end) if word.text in (START, END) else (0, end)
            )  # the library splits these once more
            yield from (word.part(first, last) for first, last in pairwise(bounds))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text, with a space at the end of each word but the last."""
        return without_word_ends(super().convert_tokens_to_string(tokens))


class CLIPTokenizerFast(ByteLevelTokenizerFast, SurroundedTokenizerFast):
    """CLIP's tokenizer, run by the `tokenizers` library.

    The arguments are those of `ByteLevelTokenizerFast`; special tokens as in `CLIPTokenizer`.
    """

    slow_tokenizer_class = CLIPTokenizer
    around = ("bos_token", "eos_token")

    def _split_words(self, pipeline: Any) -> None:
        tokenizers = import_tokenizers()
        normalizers, splitters = tokenizers.normalizers, tokenizers.pre_tokenizers
        one_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        pipeline.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
        words = splitters.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
        pipeline.pre_tokenizer = splitters.Sequence([words, splitters.ByteLevel(add_prefix_space=False)])

    def _row_of(self, first: tuple[str, int], last: tuple[str, int]) -> Any:
        row = import_tokenizers().processors.RobertaProcessing
        return row(last, first, trim_offsets=False, add_prefix_space=False)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text, with a space at the end of each word but the last."""
        return without_word_ends(super().convert_tokens_to_string(tokens))

    def _cleaned(self, text: str, chosen: bool | None) -> str:
        return super()._cleaned(without_word_ends(text), chosen)


def without_word_ends(text: str) -> str:
    """Put spaces in place of the ends of words."""
    return text.replace(WORD_END, " ").strip()
