"""BERT's tokenizers: WordPiece."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vertebra.text.tokenization import wordpiece
from vertebra.text.tokenization.added_tokens import AddedToken
from vertebra.text.tokenization.aligned import AlignedTokenizer
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned, CharacterMap
from vertebra.text.tokenization.surrounded import SurroundedTokenizerFast
from vertebra.text.tokenization.vocabularies import Vocabulary, vocabulary_of

ROW = ("cls_token", 0, "sep_token")


class BertTokenizer(AlignedTokenizer):
    """BERT's tokenizer in plain Python; it gives what `BertTokenizerFast` gives.

    Args:
        vocab_file: The path of a `vocab.txt`, or the vocabulary itself: tokens and their numbers.
        do_lower_case: Make letters small.
        do_basic_tokenize: Must be True: words are always split at whitespace and punctuation.
        never_split: Must be empty: words that are not to be split are added (`add_tokens`).
        unk_token: Stands for words that the vocabulary cannot make.
        sep_token: Ends a text.
        pad_token: Fills rows.
        cls_token: Begins a row.
        mask_token: Stands for what masked language models guess.
        tokenize_chinese_chars: Make each CJK ideograph a word.
        strip_accents: Take accents off; None where letters are made small.
        vocab: The vocabulary under transformers 5's name.
        **settings: As in `TokenizerBase`.

    Raises:
        OSError: there is no such file.
        ValueError: the file is no vocabulary, or lacks the unknown token.
    """

    vocab_files_names = {"vocab_file": "vocab.txt"}
    model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask")
    single = ROW
    pair = (*ROW, 1, "sep_token")
    pair_types = (0, 0, 0, 1, 1)

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Sequence[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        vocab: Vocabulary | None = None,
        **settings: Any,
    ) -> None:
        check_splitting(do_basic_tokenize, never_split)
        self._vocab = read_vocabulary(type(self).__name__, vocab_file if vocab is None else vocab, str(unk_token))
        self._tokens = {index: token for token, index in self._vocab.items()}
        self.do_lower_case = do_lower_case
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        self._characters = CharacterMap(do_lower_case, strip_accents, tokenize_chinese_chars)
        super().__init__(
            do_lower_case=do_lower_case,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            tokenize_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            **settings,
        )

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it; `len(tokenizer)` counts them too."""
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their numbers."""
        return {**self._vocab, **self._added_ids}

    def _normalize(self, text: Aligned) -> Aligned:
        return self._characters.apply(text)

    def _words(self, text: Aligned) -> Iterator[Aligned]:
        return (text.part(start, end) for start, end in wordpiece.words(text.text))

    def _subwords(self, word: Aligned) -> list[tuple[str, int, int]]:
        found = wordpiece.pieces(word.text, self._vocab, self.unk_token or "[UNK]")
        return [(token, *word.span(start, end)) for token, start, end in found]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._vocab.get(token, self._vocab.get(self.unk_token or ""))

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text; punctuation stands right behind the word before it."""
        return wordpiece.joined(tokens)

    @classmethod
    def _from_pipeline(cls, pipeline: Mapping[str, Any]) -> dict[str, Any]:
        return wordpiece.settings_of(pipeline)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `vocab.txt` into an existing folder, and return its path."""
        name = f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt"
        (path := Path(save_directory) / name).write_text(wordpiece.vocab_text(self._vocab), encoding="utf-8")
        return (str(path),)


class BertTokenizerFast(SurroundedTokenizerFast):
    """BERT's tokenizer, run by the `tokenizers` library.

    Args:
        vocab_file: As in `BertTokenizer`.
        tokenizer_file: The path of a `tokenizer.json`, which goes first. Settings given beside it win over its own; where
            they are None it decides, and without it they are as in `BertTokenizer`.
        do_lower_case: As in `BertTokenizer`.
        do_basic_tokenize: As in `BertTokenizer`.
        never_split: As in `BertTokenizer`.
        unk_token: Stands for words that the vocabulary cannot make.
        sep_token: Ends a text.
        pad_token: Fills rows.
        cls_token: Begins a row.
        mask_token: Stands for what masked language models guess.
        tokenize_chinese_chars: As in `BertTokenizer`.
        strip_accents: As in `BertTokenizer`.
        vocab: The vocabulary under transformers 5's name.
        tokenizer_object: A `tokenizers.Tokenizer` in place of files.
        **settings: As in `TokenizerBase`.

    Raises:
        ImportError: the library is not installed.
        OSError: there is no such file.
        ValueError: a file is damaged, or the vocabulary lacks the unknown token.
    """

    vocab_files_names = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask")
    slow_tokenizer_class: ClassVar[type[BertTokenizer]] = BertTokenizer
    around = ("cls_token", "sep_token")

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool | None = None,
        do_basic_tokenize: bool = True,
        never_split: Sequence[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        tokenize_chinese_chars: bool | None = None,
        strip_accents: bool | None = None,
        vocab: Vocabulary | None = None,
        tokenizer_object: Any = None,
        **settings: Any,
    ) -> None:
        check_splitting(do_basic_tokenize, never_split)
        if tokenizer_file is None and tokenizer_object is None:
            given = read_vocabulary(type(self).__name__, vocab_file if vocab is None else vocab, str(unk_token))
            tokenizer_object = bert_pipeline(given, str(unk_token))
        super().__init__(
            tokenizer_object,
            tokenizer_file,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            **settings,
        )
        self._normalize_like(
            lowercase=do_lower_case, strip_accents=strip_accents, handle_chinese_chars=tokenize_chinese_chars
        )

    def _normalize_like(self, **wanted: bool | None) -> None:
        """Change what the library's normalizer does, and say what it does in the settings."""
        normalizers = import_tokenizers().normalizers
        current = self._tokenizer.normalizer
        if isinstance(current, normalizers.BertNormalizer):
            state = {name: getattr(current, name) for name in ("clean_text", *wanted)}
            asked = {**state, **{name: value for name, value in wanted.items() if value is not None}}
            if asked != state:
                self._tokenizer.normalizer = normalizers.BertNormalizer(**asked)
            wanted = asked
        self.do_lower_case, self.strip_accents = wanted["lowercase"], wanted["strip_accents"]
        self.tokenize_chinese_chars = wanted["handle_chinese_chars"]
        self.init_kwargs |= {
            name: getattr(self, name) for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        }

    def _row_of(self, first: tuple[str, int], last: tuple[str, int]) -> Any:
        return import_tokenizers().processors.TemplateProcessing(
            single=[first[0], "$A", last[0]],
            pair=[first[0], "$A", last[0], "$B:1", f"{last[0]}:1"],
            special_tokens=[first, last],
        )


def bert_pipeline(vocab: Mapping[str, int], unknown: str) -> Any:
    """Build the library's tokenizer for a vocabulary, with BERT's usual settings."""
    tokenizers = import_tokenizers()
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordPiece(dict(vocab), unk_token=unknown))
    pipeline.normalizer = tokenizers.normalizers.BertNormalizer()
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = tokenizers.decoders.WordPiece(prefix=wordpiece.PREFIX)
    return pipeline


def read_vocabulary(owner: str, source: Vocabulary | None, unknown: str) -> dict[str, int]:
    """Return a vocabulary, read where a path is given. Raises as `vocabulary_of`, and ValueError where `unknown` is not in it."""
    vocab = vocabulary_of(owner, source, wordpiece.read_vocab, "'vocab.txt'")
    if unknown not in vocab:
        raise ValueError(
            f"The vocabulary of {owner} has no unk_token={unknown!r}, which stands for words that it cannot make; say which of its "
            f"tokens does: unk_token=…"
        )
    return vocab


def check_splitting(do_basic_tokenize: bool, never_split: Sequence[str] | None) -> None:
    """Refuse settings of transformers' slow tokenizers that its fast ones do not have. Raises ValueError."""
    if not do_basic_tokenize:
        raise ValueError(
            "do_basic_tokenize=False is not supported: words are always split at whitespace and punctuation, as by all fast "
            "tokenizers."
        )
    if never_split:
        raise ValueError(
            f"never_split={never_split!r} is not supported; tokenizer.add_tokens({list(never_split)!r}) keeps these words whole, "
            f"where the vocabulary has them with their own numbers."
        )
