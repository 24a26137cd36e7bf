"""GPT-2's tokenizers: byte-level BPE as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.text.tokenization.byte_level import ByteLevelTokenizer, ByteLevelTokenizerFast, Merges
from vertebra.text.tokenization.library import import_tokenizers
from vertebra.text.tokenization.normalize import Aligned
from vertebra.text.tokenization.vocabularies import Vocabulary

END = "<|endoftext|>"


class GPT2Tokenizer(ByteLevelTokenizer):
    """GPT-2's tokenizer in plain Python; it gives what `GPT2TokenizerFast` gives.

    Args:
        vocab_file: The path of a `vocab.json`, or the vocabulary itself.
        merges_file: The path of a `merges.txt`, or the merges themselves.
        errors: What decoding makes of bytes that are no text, as in `bytes.decode`.
        add_prefix_space: Put a space before a text that begins with none.
        add_bos_token: Begin each text of a row with `bos_token`.
        **settings: As in `ByteLevelTokenizer`. `unk_token`, `bos_token` and `eos_token` are `<|endoftext|>` unless they say
            otherwise; there is no `pad_token`.
    """

    usual_tokens = dict.fromkeys(("unk_token", "bos_token", "eos_token"), END)

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        errors: str = "replace",
        *,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        **settings: Any,
    ) -> None:
        self.add_prefix_space = add_prefix_space
        self.add_bos_token = add_bos_token
        if add_bos_token:
            self.single, self.pair, self.pair_types = ("bos_token", 0), ("bos_token", 0, "bos_token", 1), (0, 0, 1, 1)
        settings |= {"add_prefix_space": add_prefix_space, "add_bos_token": add_bos_token}
        super().__init__(vocab_file, merges_file, errors, **settings)

    def _words(self, text: Aligned) -> Any:
        if self.add_prefix_space and text.text and not text.text.startswith(" "):
            text = Aligned(f" {text.text}", [text.origins[0], *text.origins])
        return super()._words(text)

    @classmethod
    def _from_pipeline(cls, pipeline: Mapping[str, Any]) -> dict[str, Any]:
        row = (pipeline.get("post_processor") or {}).get("single") or [{}]
        return {**super()._from_pipeline(pipeline), "add_bos_token": "SpecialToken" in row[0]}


class GPT2TokenizerFast(ByteLevelTokenizerFast):
    """GPT-2's tokenizer, run by the `tokenizers` library.

    Args:
        vocab_file: As in `GPT2Tokenizer`.
        merges_file: As in `GPT2Tokenizer`.
        tokenizer_file: The path of a `tokenizer.json`, which goes first.
        add_prefix_space: Put a space before a text that begins with none; None is what the file says, and else False.
        add_bos_token: Begin each text of a row with `bos_token`; None likewise.
        **settings: As in `ByteLevelTokenizerFast`; special tokens as in `GPT2Tokenizer`.
    """

    slow_tokenizer_class = GPT2Tokenizer

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        merges_file: Merges | None = None,
        tokenizer_file: Any = None,
        *,
        add_prefix_space: bool | None = None,
        add_bos_token: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(vocab_file, merges_file, tokenizer_file, **settings)
        splitter, current = import_tokenizers().pre_tokenizers.ByteLevel, self._tokenizer.pre_tokenizer
        if isinstance(current, splitter):
            if add_prefix_space is not None and add_prefix_space != current.add_prefix_space:
                self._tokenizer.pre_tokenizer = splitter(add_prefix_space=add_prefix_space)
            add_prefix_space = self._tokenizer.pre_tokenizer.add_prefix_space
        self.add_prefix_space = bool(add_prefix_space)
        begins = self.num_special_tokens_to_add() > 0
        self.add_bos_token = begins if add_bos_token is None else add_bos_token
        if self.add_bos_token != begins:
            self._begin_rows()
        self.init_kwargs |= {"add_prefix_space": self.add_prefix_space, "add_bos_token": self.add_bos_token}

    def _split_words(self, pipeline: Any) -> None:
        pipeline.pre_tokenizer = import_tokenizers().pre_tokenizers.ByteLevel(add_prefix_space=False)

    def _begin_rows(self) -> None:
        """Tell the library whether texts begin with a special token, and with which."""
        first = [self.bos_token] if self.add_bos_token and self.bos_token is not None else []
        self._tokenizer.post_processor = import_tokenizers().processors.TemplateProcessing(
            single=[*first, "$A"],
            pair=[*first, "$A", *(f"{token}:1" for token in first), "$B:1"],
            special_tokens=[(token, int(self.convert_tokens_to_ids(token))) for token in first],
        )

    def _special_changed(self) -> None:
        if self.add_bos_token:
            self._begin_rows()
