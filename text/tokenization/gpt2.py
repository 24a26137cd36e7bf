"""GPT-2's tokenizers: byte-level BPE as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from vertebra.text.tokenization.added_tokens import AddedToken
from vertebra.text.tokenization.byte_level import ByteLevelTokenizer, Merges, Vocabulary, byte_level_pipeline
from vertebra.text.tokenization.fast import PreTrainedTokenizerFast
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned

END = "<|endoftext|>"


class GPT2Tokenizer(ByteLevelTokenizer):
    """GPT-2's tokenizer in plain Python; it gives what `GPT2TokenizerFast` gives.

    Args:
        vocab_file: The path of a `vocab.json`, or the vocabulary itself.
        merges_file: The path of a `merges.txt`, or the merges themselves.
        errors: What decoding makes of bytes that are no text, as in `bytes.decode`.
        unk_token: Stands for bytes that the vocabulary lacks.
        bos_token: Begins a text.
        eos_token: Ends a text.
        pad_token: Fills rows; GPT-2 has none.
        add_prefix_space: Put a space before a text that begins with none.
        **settings: As in `ByteLevelTokenizer`.
    """

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        errors: str = "replace",
        unk_token: str | AddedToken = END,
        bos_token: str | AddedToken = END,
        eos_token: str | AddedToken = END,
        pad_token: str | AddedToken | None = None,
        add_prefix_space: bool = False,
        **settings: Any,
    ) -> None:
        self.add_prefix_space = add_prefix_space
        super().__init__(
            vocab_file,
            merges_file,
            errors,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            add_prefix_space=add_prefix_space,
            **settings,
        )

    def _words(self, text: Aligned) -> Any:
        if self.add_prefix_space and text.text and not text.text.startswith(" "):
            text = Aligned(f" {text.text}", [text.origins[0], *text.origins])
        return super()._words(text)


class GPT2TokenizerFast(PreTrainedTokenizerFast):
    """GPT-2's tokenizer, run by the `tokenizers` library.

    Args:
        vocab_file: As in `GPT2Tokenizer`.
        merges_file: As in `GPT2Tokenizer`.
        tokenizer_file: The path of a `tokenizer.json`, which goes first.
        unk_token: Stands for bytes that the vocabulary lacks.
        bos_token: Begins a text.
        eos_token: Ends a text.
        pad_token: Fills rows; GPT-2 has none.
        add_prefix_space: Put a space before a text that begins with none; None is what the file says, and else False.
        vocab: The vocabulary under transformers 5's name.
        merges: The merges under transformers 5's name.
        tokenizer_object: A `tokenizers.Tokenizer` in place of files.
        **settings: As in `TokenizerBase`.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    slow_tokenizer_class: ClassVar[type[GPT2Tokenizer]] = GPT2Tokenizer

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        unk_token: str | AddedToken = END,
        bos_token: str | AddedToken = END,
        eos_token: str | AddedToken = END,
        pad_token: str | AddedToken | None = None,
        add_prefix_space: bool | None = None,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        tokenizer_object: Any = None,
        **settings: Any,
    ) -> None:
        splitter = import_tokenizers().pre_tokenizers.ByteLevel
        if tokenizer_file is None and tokenizer_object is None:
            first, second = vocab_file if vocab is None else vocab, merges_file if merges is None else merges
            tokenizer_object = byte_level_pipeline(type(self).__name__, first, second, "", str(unk_token))
            tokenizer_object.pre_tokenizer = splitter(add_prefix_space=False)
        super().__init__(
            tokenizer_object,
            tokenizer_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **settings,
        )
        current = self._tokenizer.pre_tokenizer
        if isinstance(current, splitter):
            if add_prefix_space is not None and add_prefix_space != current.add_prefix_space:
                self._tokenizer.pre_tokenizer = splitter(add_prefix_space=add_prefix_space)
            add_prefix_space = self._tokenizer.pre_tokenizer.add_prefix_space
        self.add_prefix_space = bool(add_prefix_space)
        self.init_kwargs["add_prefix_space"] = self.add_prefix_space
