"""Tokenizers over bytes: what GPT-2's and CLIP's have in common, in plain Python and run by the library."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vertebra.text.tokenization import byte_bpe
from vertebra.text.tokenization.aligned import AlignedTokenizer
from vertebra.text.tokenization.fast import PreTrainedTokenizerFast
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned
from vertebra.text.tokenization.vocabularies import Vocabulary, vocabulary_of

Merges = str | os.PathLike[str] | Sequence[Any]


class ByteLevelTokenizer(AlignedTokenizer):
    """Base of byte-level BPE in plain Python.

    Args:
        vocab_file: The path of a `vocab.json`, or the vocabulary itself: tokens and their numbers.
        merges_file: The path of a `merges.txt`, or the merges themselves: pairs of tokens, first come first.
        errors: What decoding makes of bytes that are no text, as in `bytes.decode`.
        vocab: The vocabulary under transformers 5's name.
        merges: The merges under transformers 5's name.
        **settings: As in `TokenizerBase`; special tokens that they do not say are `usual_tokens`.

    Raises:
        OSError: there is no such file.
        ValueError: a file holds something else.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    usual_tokens: ClassVar[Mapping[str, str]] = {}
    """Special tokens of the family: name to token."""
    word_pattern: ClassVar[str] = byte_bpe.GPT2_WORDS
    """What a word is, in the shape of a text (`byte_bpe.split_words`)."""
    word_end: ClassVar[str] = ""
    """What the last token of a word carries."""

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        errors: str = "replace",
        *,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        self._vocab, self._pairs = read_model(
            name, vocab_file if vocab is None else vocab, merges_file if merges is None else merges
        )
        self._tokens = {index: token for token, index in self._vocab.items()}
        self._merge = byte_bpe.Merges(self._pairs, self.word_end)
        self.errors = errors
        super().__init__(errors=errors, **{**self.usual_tokens, **settings})

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it; `len(tokenizer)` counts them too."""
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their numbers."""
        return {**self._vocab, **self._added_ids}

    def _words(self, text: Aligned) -> Iterator[Aligned]:
        return (text.part(start, end) for start, end in byte_bpe.split_words(text.text, self.word_pattern))

    def _subwords(self, word: Aligned) -> list[tuple[str, int, int]]:
        origins = [at for char, at in zip(word.text, word.origins, strict=True) for _ in char.encode()]
        tokens = self._merge("".join(byte_bpe.CHARACTERS[byte] for byte in word.text.encode()))
        found = []
        start = 0
        for number, token in enumerate(tokens, 1):
            end = start + len(token) - (len(self.word_end) if number == len(tokens) else 0)
            known = token if token in self._vocab or self.unk_token is None else self.unk_token
            found.append((known, origins[start], origins[end - 1] + 1))
            start = end
        return found

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._vocab.get(token, self._vocab.get(self.unk_token or ""))

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to the text of their bytes."""
        return byte_bpe.to_text(tokens, self.errors)

    def _cleaned(self, text: str, chosen: bool | None) -> str:
        return super()._cleaned(text, bool(chosen))  # bytes hold all spaces as they were: a stored setting is of no use

    @classmethod
    def _from_pipeline(cls, pipeline: Mapping[str, Any]) -> dict[str, Any]:
        return byte_bpe.model_of(pipeline, cls.word_end)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `vocab.json` and `merges.txt` into an existing folder, and return their paths."""
        paths = []
        for name, text in byte_bpe.files_of(self._vocab, self._pairs).items():
            path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
            path.write_text(text, encoding="utf-8")
            paths.append(str(path))
        return tuple(paths)


class ByteLevelTokenizerFast(PreTrainedTokenizerFast):
    """Base of byte-level BPE that the `tokenizers` library runs.

    Args:
        vocab_file: As in `ByteLevelTokenizer`.
        merges_file: As in `ByteLevelTokenizer`.
        tokenizer_file: The path of a `tokenizer.json`, which goes first.
        vocab: The vocabulary under transformers 5's name.
        merges: The merges under transformers 5's name.
        tokenizer_object: A `tokenizers.Tokenizer` in place of files.
        **settings: As in `ByteLevelTokenizer`.

    Raises:
        ImportError: the library is not installed.
        OSError: there is no such file.
        ValueError: a file is damaged, or merges do not fit the vocabulary.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    slow_tokenizer_class: ClassVar[type[ByteLevelTokenizer]]

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        *,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        tokenizer_object: Any = None,
        **settings: Any,
    ) -> None:
        family = self.slow_tokenizer_class
        settings = {**family.usual_tokens, **settings}
        if tokenizer_file is None and tokenizer_object is None:
            first, second = vocab_file if vocab is None else vocab, merges_file if merges is None else merges
            unknown = str(settings["unk_token"])
            tokenizer_object = byte_level_pipeline(type(self).__name__, first, second, family.word_end, unknown)
            self._split_words(tokenizer_object)
        super().__init__(tokenizer_object, tokenizer_file, **settings)

    @abstractmethod
    def _split_words(self, pipeline: Any) -> None:
        """Say in a new pipeline how texts are normalized and split."""


def byte_level_pipeline(
    owner: str, vocab: Vocabulary | None, merges: Merges | None, word_end: str, unknown: str | None
) -> Any:
    """Build the library's tokenizer for a byte-level BPE; how texts are split is left to the caller."""
    tokenizers = import_tokenizers()
    tokens, pairs = read_model(owner, vocab, merges)
    try:
        model = tokenizers.models.BPE(
            vocab=tokens, merges=pairs, end_of_word_suffix=word_end, unk_token=unknown if unknown in tokens else None
        )
    except Exception as error:  # the library raises nothing more special
        raise ValueError(
            f"{owner}: the merges do not fit the vocabulary ({error}); they are files of two tokenizers."
        ) from error
    pipeline = tokenizers.Tokenizer(model)
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    return pipeline


def read_model(
    owner: str, vocab: Vocabulary | None, merges: Merges | None
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges, read where paths are given. Raises ValueError where one is missing."""
    files = "'vocab.json', 'merges.txt'"
    tokens = vocabulary_of(owner, vocab, byte_bpe.read_vocab, files)
    if merges is None:
        raise ValueError(f"{owner} needs merges: {owner}({files}), or {owner}.from_pretrained('folder or hub id').")
    if isinstance(merges, (str, os.PathLike)):
        return tokens, byte_bpe.read_merges(merges)
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
    for at, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(token, str) and token for token in pair):
            raise ValueError(f"merges[{at}] is {merges[at]!r}; it must be two tokens, ('t', 'h') or 't h'.")
    return tokens, pairs
