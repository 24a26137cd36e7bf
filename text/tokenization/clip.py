"""CLIP's tokenizers: byte-level BPE of small letters, with an end to each word."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from vertebra.text.tokenization import byte_bpe
from vertebra.text.tokenization.added_tokens import AddedToken
from vertebra.text.tokenization.byte_level import ByteLevelTokenizer, Merges, Vocabulary, byte_level_pipeline
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned, composed, lowered
from vertebra.text.tokenization.surrounded import SurroundedTokenizerFast

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a word is, as the library reads it."""


class CLIPTokenizer(ByteLevelTokenizer):
    """CLIP's tokenizer in plain Python; it gives what `CLIPTokenizerFast` gives.

    Args:
        vocab_file: The path of a `vocab.json`, or the vocabulary itself.
        merges_file: The path of a `merges.txt`, or the merges themselves.
        errors: What decoding makes of bytes that are no text, as in `bytes.decode`.
        unk_token: Stands for bytes that the vocabulary lacks.
        bos_token: Begins a row.
        eos_token: Ends a row.
        pad_token: Fills rows.
        **settings: As in `ByteLevelTokenizer`.
    """

    word_pattern = byte_bpe.CLIP_WORDS
    word_end = WORD_END
    single = ("bos_token", 0, "eos_token")
    pair = ("bos_token", 0, "eos_token", "eos_token", 1, "eos_token")
    pair_types = (0, 0, 0, 0, 0, 0)

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        errors: str = "replace",
        unk_token: str | AddedToken = END,
        bos_token: str | AddedToken = START,
        eos_token: str | AddedToken = END,
        pad_token: str | AddedToken = END,
        **settings: Any,
    ) -> None:
        super().__init__(
            vocab_file,
            merges_file,
            errors,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **settings,
        )

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


class CLIPTokenizerFast(SurroundedTokenizerFast):
    """CLIP's tokenizer, run by the `tokenizers` library.

    Args:
        vocab_file: As in `CLIPTokenizer`.
        merges_file: As in `CLIPTokenizer`.
        tokenizer_file: The path of a `tokenizer.json`, which goes first.
        unk_token: Stands for bytes that the vocabulary lacks.
        bos_token: Begins a row.
        eos_token: Ends a row.
        pad_token: Fills rows.
        vocab: The vocabulary under transformers 5's name.
        merges: The merges under transformers 5's name.
        tokenizer_object: A `tokenizers.Tokenizer` in place of files.
        **settings: As in `TokenizerBase`.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    slow_tokenizer_class: ClassVar[type[CLIPTokenizer]] = CLIPTokenizer
    around = ("bos_token", "eos_token")

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        unk_token: str | AddedToken = END,
        bos_token: str | AddedToken = START,
        eos_token: str | AddedToken = END,
        pad_token: str | AddedToken = END,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        tokenizer_object: Any = None,
        **settings: Any,
    ) -> None:
        if tokenizer_file is None and tokenizer_object is None:
            first, second = vocab_file if vocab is None else vocab, merges_file if merges is None else merges
            tokenizer_object = clip_pipeline(type(self).__name__, first, second, str(unk_token))
        super().__init__(
            tokenizer_object,
            tokenizer_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **settings,
        )
        self._special_changed()

    def _row_of(self, first: tuple[str, int], last: tuple[str, int]) -> Any:
        row = import_tokenizers().processors.RobertaProcessing
        return row(last, first, trim_offsets=False, add_prefix_space=False)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text, with a space at the end of each word but the last."""
        return without_word_ends(super().convert_tokens_to_string(tokens))

    def _cleaned(self, text: str, chosen: bool | None) -> str:
        return super()._cleaned(without_word_ends(text), chosen)


def clip_pipeline(owner: str, vocab: Vocabulary | None, merges: Merges | None, unknown: str) -> Any:
    """Build the library's tokenizer for CLIP's vocabulary and merges."""
    tokenizers = import_tokenizers()
    normalizers, splitters = tokenizers.normalizers, tokenizers.pre_tokenizers
    pipeline = byte_level_pipeline(owner, vocab, merges, WORD_END, unknown)
    one_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    pipeline.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    words = splitters.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    pipeline.pre_tokenizer = splitters.Sequence([words, splitters.ByteLevel(add_prefix_space=False)])
    return pipeline


def without_word_ends(text: str) -> str:
    """Put spaces in place of the ends of words."""
    return text.replace(WORD_END, " ").strip()
