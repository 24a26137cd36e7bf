"""The base of tokenizers that the `tokenizers` library runs."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.text.tokenization.added_tokens import FIELDS, AddedToken
from vertebra.text.tokenization.base import TokenizerBase
from vertebra.text.tokenization.inputs import Item
from vertebra.text.tokenization.library import import_tokenizers, read_pipeline
from vertebra.text.tokenization.strategies import Plan
from vertebra.text.tokenization.truncation import check_truncation

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class PreTrainedTokenizerFast(TokenizerBase):
    """A tokenizer of the `tokenizers` library, and the base of those that build theirs from a vocabulary.

    Args:
        tokenizer_object: A `tokenizers.Tokenizer`; it is copied.
        tokenizer_file: The path of a `tokenizer.json`.
        **settings: As in `TokenizerBase`. Special tokens are what these say, not what the file does.

    Raises:
        ImportError: the library is not installed.
        OSError: there is no such file.
        ValueError: neither is given, or the file is damaged.
    """

    is_fast: ClassVar[bool] = True
    vocab_files_names: ClassVar[Mapping[str, str]] = {"tokenizer_file": "tokenizer.json"}

    def __init__(
        self,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        if tokenizer_object is None and tokenizer_file is None:
            raise ValueError(
                f"{type(self).__name__} needs tokenizer_file='tokenizer.json', or tokenizer_object=tokenizers.Tokenizer(…). A "
                f"folder is loaded with from_pretrained."
            )
        self._tokenizer = read_pipeline(tokenizer_file) if tokenizer_object is None else copy.deepcopy(tokenizer_object)
        self._turn = threading.Lock()
        padding = self._tokenizer.padding
        if padding is not None:
            settings = {"pad_token": padding["pad_token"], "padding_side": padding["direction"], **settings}
        truncation = self._tokenizer.truncation
        if truncation is not None:
            settings = {"truncation_side": truncation["direction"], **settings}
        self._tokenizer.no_padding()
        super().__init__(**settings)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=threading.Lock())

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` that does the work."""
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it; `len(tokenizer)` counts them too."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    def __len__(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their numbers."""
        vocab: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocab

    def _added(self) -> dict[str, AddedToken]:
        tokens = self._tokenizer.get_added_tokens_decoder().values()
        return {token.content: AddedToken(**{name: getattr(token, name) for name in FIELDS}) for token in tokens}

    def _add(self, tokens: Sequence[AddedToken], numbers: Mapping[str, int] | None = None) -> None:
        added = import_tokenizers().AddedToken
        self._tokenizer.add_tokens([added(**token.to_dict()) for token in tokens if token.content])
        for text, number in (numbers or {}).items():
            got = self._tokenizer.token_to_id(text)
            if text and got != number:
                raise ValueError(
                    f"The token {text!r} has number {number} in added_tokens_decoder or added_tokens.json, and got {got} after the "
                    f"vocabulary's {self.vocab_size}; the files are of two tokenizers, or tokenizer.json is missing."
                )

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the number of a token, or the list of them; the unknown token's for those that the vocabulary lacks."""
        if tokens is None:
            return None
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        number = self._tokenizer.token_to_id(tokens)
        if number is None and self.unk_token not in (None, tokens):
            return self._tokenizer.token_to_id(self.unk_token)
        return number

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of a number, or the list of them; None for a number that the vocabulary does not have."""
        if not hasattr(ids, "__iter__"):
            return self._token(int(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token(index) for index in map(int, ids) if index not in skipped]

    def _token(self, index: int) -> str | None:
        token: str | None = self._tokenizer.id_to_token(index) if 0 <= index <= LARGEST_ID else None
        return token

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text, as the pipeline's decoder does."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def _decode(
        self, token_ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool | None
    ) -> str:
        known = [index for index in token_ids if index <= LARGEST_ID]
        text = self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)
        return self._cleaned(text, clean_up_tokenization_spaces)

    def _cleaned(self, text: str, chosen: bool | None) -> str:
        if chosen is None and type(self._tokenizer.model).__name__ == "BPE":
            chosen = False  # bytes hold all spaces as they were: a stored setting is of no use
        return super()._cleaned(text, chosen)

    # from text to rows

    def _encode_items(
        self, items: Sequence[Item], plan: Plan, add_special: bool, is_split: bool, split_special: bool
    ) -> list[Any]:
        batch = [first if second is None else (first, second) for first, second in items]
        with self._turn:  # how texts are split and shortened is a state of the library's tokenizer
            self._tokenizer.encode_special_tokens = split_special
            self._tokenizer.no_truncation()
            if plan.truncation is not None and plan.max_length is not None:
                self._check_truncation(items, plan, add_special, is_split)
                self._tokenizer.enable_truncation(
                    plan.max_length, stride=plan.stride, strategy=plan.truncation, direction=plan.truncation_side
                )
            try:
                rows = self._tokenizer.encode_batch(batch, is_pretokenized=is_split, add_special_tokens=add_special)
            except Exception as error:  # the library raises nothing more special
                raise ValueError(
                    f"{type(self).__name__} cannot tokenize this: {error}. Where a token is missing, the model of tokenizer.json "
                    f"must name one that its vocabulary has as its unk_token."
                ) from error
            return list(rows)

    def _check_truncation(self, items: Sequence[Item], plan: Plan, add_special: bool, is_split: bool) -> None:
        """Find what cannot be shortened as asked for: the library aborts there, and does not say which text it is."""
        staying = {"only_second": 0, "only_first": 1}.get(plan.truncation or "")
        if staying is None and not plan.stride:
            return
        nothing: Any = [] if is_split else ""
        kept = [nothing if staying is None or item[staying] is None else item[staying] for item in items]
        for at, (item, length) in enumerate(zip(items, self._lengths(kept, is_split), strict=True)):
            pair = item[1] is not None
            room = (plan.max_length or 0) - (self.num_special_tokens_to_add(pair) if add_special else 0)
            least = room // 2 if pair and staying is None else room - length
            if least > plan.stride and (pair or staying != 0):
                continue  # it works, however long the other text is
            first, *second = self._lengths([text for text in item if text is not None], is_split)
            try:
                check_truncation(first, second[0] if second else None, room, plan.truncation or "", plan.stride)
            except ValueError as error:
                raise ValueError(f"Text {at}: {error}") from error

    def _lengths(self, texts: Sequence[Any], is_split: bool) -> list[int]:
        return list(map(len, self._tokenizer.encode_batch(texts, is_pretokenized=is_split, add_special_tokens=False)))

    # rows

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a row has; with `pair`, one of two texts."""
        number: int = self._tokenizer.num_special_tokens_to_add(pair)
        return number

    def _layout(self, first: list[int], second: list[int] | None) -> list[tuple[int, int]]:
        """As the library arranges a row of texts of one token."""
        with self._turn:
            self._tokenizer.no_truncation()
            probe = self._probe()
            row = self._tokenizer.encode_batch([probe if second is None else (probe, probe)])[0]
        entries = []
        for index, number, text in zip(row.ids, row.type_ids, row.sequence_ids, strict=True):
            ids = [index] if text is None else (first, second or [])[text]
            entries += [(one, number) for one in ids]
        return entries

    def _probe(self) -> str:
        """A text of one token."""
        texts = [self._tokenizer.decode([index]) for index in range(min(len(self), PROBES))]
        rows = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        found = (text for text, row in zip(texts, rows, strict=True) if len(row) == 1)
        text = next(found, None)
        if text is None:
            raise ValueError(
                f"None of the first {PROBES} tokens of this vocabulary is a text of its own; call the tokenizer instead."
            )
        return text

    # files

    def _pipeline_text(self) -> str | None:
        with self._turn:
            self._tokenizer.no_truncation()
            text: str = self._tokenizer.to_str(pretty=True)
        return text

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary's own files, where the class has any beside `tokenizer.json`, and return their paths."""
        if set(self.vocab_files_names) == {"tokenizer_file"}:
            return ()
        return tuple(self._tokenizer.model.save(os.fspath(save_directory), filename_prefix))


PROBES = 1000
LARGEST_ID = 2**32 - 1
"""The library's numbers have 32 bits."""
