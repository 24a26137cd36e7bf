"""The tokenizer of models that are trained by connectionist temporal classification: letters, and text from scores of steps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vertebra.errors import did_you_mean, listing
from vertebra.hub import read_json
from vertebra.text.tokenization.added_tokens import AddedToken
from vertebra.text.tokenization.ctc_steps import Run, Wav2Vec2CTCTokenizerOutput, offset, runs, words
from vertebra.text.tokenization.slow import PreTrainedTokenizer
from vertebra.text.tokenization.vocabularies import checked, opened

Letters = Mapping[str, int]


class Wav2Vec2CTCTokenizer(PreTrainedTokenizer):
    """Letters to numbers, and the best tokens of a CTC model's steps to text.

    Decoding takes a token that several steps in a row have once, and leaves out the blank (`pad_token`), so that a doubled letter
    is one with a blank between; blanks are looked at before `skip_special_tokens` takes them out, unlike in transformers, where
    doubled letters are lost by it.

    Args:
        vocab_file: The path of a `vocab.json`, or the vocabulary itself: token to number, or language to such a vocabulary.
        bos_token: Begins a text.
        eos_token: Ends a text.
        unk_token: Stands for letters that the vocabulary lacks.
        pad_token: CTC's blank.
        word_delimiter_token: Stands between words.
        replace_word_delimiter_char: What decoding puts there.
        do_lower_case: Whether text is in small letters, and the vocabulary in capitals.
        target_lang: Which language's vocabulary is used, where there are several.
        **settings: As in `TokenizerBase`.

    Raises:
        OSError: there is no such file.
        ValueError: a vocabulary of several languages without `target_lang`, or one that is not there, or no vocabulary.
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": "vocab.json"}
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        bos_token: str | AddedToken | None = "<s>",
        eos_token: str | AddedToken | None = "</s>",
        unk_token: str | AddedToken | None = "<unk>",
        pad_token: str | AddedToken | None = "<pad>",
        word_delimiter_token: str = "|",
        replace_word_delimiter_char: str = " ",
        do_lower_case: bool = False,
        target_lang: str | None = None,
        **settings: Any,
    ) -> None:
        self._stored = opened(type(self).__name__, vocab_file, read_json, "'vocab.json'")
        self.word_delimiter_token = str(word_delimiter_token)
        self.replace_word_delimiter_char = replace_word_delimiter_char
        self.do_lower_case = do_lower_case
        self.target_lang = target_lang
        self._choose(target_lang)
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            word_delimiter_token=word_delimiter_token,
            replace_word_delimiter_char=replace_word_delimiter_char,
            do_lower_case=do_lower_case,
            target_lang=target_lang,
            **settings,
        )
        self._match_whole()

    def _choose(self, language: str | None) -> None:
        """Use the vocabulary of a language, or the only one."""
        languages = [name for name, letters in self._stored.items() if isinstance(letters, Mapping)]
        if not languages and language is not None:
            raise ValueError(
                f"target_lang={language!r} is for vocabularies of several languages, and this is one of letters."
            )
        if languages and language not in languages:
            raise ValueError(
                f"target_lang={language!r} must be a language of the vocabulary.{did_you_mean(str(language), languages)} It has "
                f"{listing(languages)}."
            )
        letters = self._stored if language is None else self._stored[language]
        self.encoder = checked(letters, f"The vocabulary of {type(self).__name__}")
        self.decoder = {index: token for token, index in self.encoder.items()}

    def _match_whole(self) -> None:
        """See to it that tokens of several letters are not split, and take the spaces around them."""
        special = set(self.all_special_tokens)
        whole = [token for token in self.encoder if len(token) > 1]
        self._add(
            [AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=token in special) for token in whole]
        )

    def set_target_lang(self, target_lang: str) -> None:
        """Use the vocabulary of another language.

        Raises:
            ValueError: there is only one, or not this one.
        """
        self._choose(target_lang)
        self.target_lang = target_lang
        self._forget_added()
        self._add(self.all_special_tokens_extended)
        self._match_whole()

    @property
    def word_delimiter_token_id(self) -> int | None:
        """Number of the token between words."""
        found: int | None = self.convert_tokens_to_ids(self.word_delimiter_token)
        return found

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it."""
        return len(self.decoder)

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their numbers."""
        return {**self.encoder, **self.added_tokens_encoder}

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """Put a space before a word that is given by itself."""
        return f" {text}" if is_split_into_words else text, options

    def _tokenize(self, text: str) -> list[str]:
        text = text.upper() if self.do_lower_case else text
        return list(text.replace(" ", self.word_delimiter_token))

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.encoder.get(token, self.encoder.get(self.unk_token or ""))

    def _convert_id_to_token(self, index: int) -> str | None:
        return self.decoder.get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Read tokens of steps as text."""
        return self._text([run for run in runs(tokens) if run.token != self.pad_token], spaced=False)

    def _decode(  # type: ignore[override]
        self,
        token_ids: list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> Any:
        """Read the tokens of steps.

        Args:
            token_ids: The best token of each step.
            skip_special_tokens: Leave special tokens out.
            clean_up_tokenization_spaces: As in `decode`.
            group_tokens: Take a token that several steps in a row have once; False for the ids of a text.
            spaces_between_special_tokens: Put spaces between all tokens.
            output_char_offsets: Also return where each letter is; the result is a `Wav2Vec2CTCTokenizerOutput`.
            output_word_offsets: The same for words.
        """
        tokens = self.convert_ids_to_tokens(token_ids)
        found = runs(tokens) if group_tokens else [Run(token, at, at + 1) for at, token in enumerate(tokens)]
        skipped = set(self.all_special_tokens) - {self.word_delimiter_token} if skip_special_tokens else set()
        letters = [run for run in found if run.token != self.pad_token and run.token not in skipped]
        text = self._cleaned(self._text(letters, spaces_between_special_tokens), clean_up_tokenization_spaces)
        if not (output_char_offsets or output_word_offsets):
            return text
        shown = [run._replace(token=self._shown(run.token)) for run in letters]
        return Wav2Vec2CTCTokenizerOutput(
            text=text,
            char_offsets=[offset("char", run) for run in shown] if output_char_offsets else None,
            word_offsets=[offset("word", run) for run in words(shown, self.replace_word_delimiter_char)]
            if output_word_offsets
            else None,
        )

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the texts of a batch of ids; arguments as `_decode`. With offsets, one output whose entries are lists."""
        texts = super().batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **options)
        if texts and isinstance(texts[0], Wav2Vec2CTCTokenizerOutput):
            return Wav2Vec2CTCTokenizerOutput({name: [text[name] for text in texts] for name in texts[0]})
        return texts

    def _shown(self, token: str) -> str:
        return self.replace_word_delimiter_char if token == self.word_delimiter_token else token

    def _text(self, letters: Iterable[Run], spaced: bool) -> str:
        text = (" " if spaced else "").join(self._shown(run.token) for run in letters).strip()
        return text.lower() if self.do_lower_case else text

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `vocab.json` into an existing folder, and return its path."""
        path = Path(save_directory) / (
            f"{filename_prefix}-" * bool(filename_prefix) + self.vocab_files_names["vocab_file"]
        )
        text = json.dumps(self._stored, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return (str(path),)
