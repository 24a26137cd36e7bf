"""Special tokens by what they are for: `cls_token`, `pad_token_id`, `all_special_ids` and the like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from vertebra.errors import did_you_mean, listing
from vertebra.text.tokenization.added_tokens import AddedToken, read_token

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE = ("additional_special_tokens", "extra_special_tokens")
"""transformers 4's and 5's name of the special tokens without a name; a dictionary under the second gives names to them."""


class _Token:
    """A special token as text; None where the tokenizer has none for this."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> _Token: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type[Any]) -> str | None: ...
    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        token = instance._special.get(self.name)
        return None if token is None else token.content

    def __set__(self, instance: SpecialTokens, value: str | AddedToken | None) -> None:
        instance._assign(self.name, value)


class _TokenId:
    """The number of a special token; None where the tokenizer has none for this. Assigning a number chooses the token."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> _TokenId: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type[Any]) -> int | None: ...
    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        token = instance._special.get(self.name)
        return None if token is None else instance.convert_tokens_to_ids(token.content)

    def __set__(self, instance: SpecialTokens, value: int | None) -> None:
        instance._assign(self.name, None if value is None else instance._token_of(value, f"{self.name}_id"))


class SpecialTokens(ABC):
    """The part of a tokenizer that knows its special tokens."""

    SPECIAL_TOKENS_ATTRIBUTES: Sequence[str] = NAMES

    bos_token, bos_token_id = _Token(), _TokenId()
    eos_token, eos_token_id = _Token(), _TokenId()
    unk_token, unk_token_id = _Token(), _TokenId()
    sep_token, sep_token_id = _Token(), _TokenId()
    pad_token, pad_token_id = _Token(), _TokenId()
    cls_token, cls_token_id = _Token(), _TokenId()
    mask_token, mask_token_id = _Token(), _TokenId()

    _special: dict[str, AddedToken]
    _additional: list[AddedToken]

    @abstractmethod
    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the number of a token, or the list of them."""

    @abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their numbers."""

    @abstractmethod
    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary; return by how many it grew."""

    @abstractmethod
    def _token_of(self, index: int, name: str) -> str:
        """The token of a number. Raises ValueError where the vocabulary has none."""

    def _special_changed(self) -> None:  # noqa: B027 - most families have nothing to do
        """Called after a special token was assigned; families whose rows depend on it extend it."""

    def _take_special(self, settings: dict[str, Any]) -> None:
        """Take the special tokens out of a constructor's arguments. Raises TypeError for what is no token."""
        named = settings.pop("model_specific_special_tokens", None) or {}
        more = [settings.pop(name, None) or () for name in MORE]
        for tokens in more:
            named = {**named, **(tokens if isinstance(tokens, Mapping) else {})}
        given = {name: settings.pop(name, None) for name in NAMES} | dict(named)
        self._special = {
            name: read_token(value, special=True, name=name) for name, value in given.items() if value is not None
        }
        lists = [token for tokens in more if not isinstance(tokens, Mapping) for token in _as_list(tokens, MORE[0])]
        self._additional = list(dict.fromkeys(read_token(token, special=True, name=f"{MORE[0]}[…]") for token in lists))

    def _assign(self, name: str, value: Any) -> None:
        """Choose another token, of the vocabulary, for what `name` says."""
        if value is None:
            self._special.pop(name, None)
        else:
            token = read_token(value, special=True, name=name)
            self._check_known([token], name)
            self._special[name] = token
            self._register([token])
        self._special_changed()

    def _register(self, tokens: Iterable[AddedToken]) -> None:
        """See to it that special tokens are never split, and left out by `skip_special_tokens`."""
        self.add_tokens(list(tokens), special_tokens=True)

    def _check_known(self, tokens: Iterable[AddedToken], name: str) -> None:
        vocab = self.get_vocab()
        for token in tokens:
            if token.content not in vocab:
                raise ValueError(
                    f"{name}={token.content!r} is not in the vocabulary of {len(vocab)} tokens. "
                    f"tokenizer.add_special_tokens({{{name!r}: {token.content!r}}}) adds it, and "
                    f"model.resize_token_embeddings(len(tokenizer)) gives it a row of weights."
                )

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Choose special tokens, and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: `{"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<b>"]}`: what each is for, and the
                token, a string or an `AddedToken`.
            replace_additional_special_tokens: False keeps the additional ones there are. Those replaced stay in the vocabulary.
            replace_extra_special_tokens: The same, as transformers 5 calls it.

        Returns:
            By how many tokens the vocabulary grew; the model's embeddings must grow with it
            (`model.resize_token_embeddings(len(tokenizer))`).

        Raises:
            ValueError: a key that no special token is called by.
            TypeError: a value that is no token.
        """
        known = [*self._all_names(), *MORE]
        for name in special_tokens_dict:
            if name not in known:
                raise ValueError(
                    f"add_special_tokens has no key {name!r}.{did_you_mean(name, known)} Its keys are {listing(known)}."
                )
        replace = replace_additional_special_tokens and replace_extra_special_tokens
        tokens: list[AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name in MORE:
                new = [read_token(token, special=True, name=f"{name}[…]") for token in _as_list(value, name)]
                self._additional = list(dict.fromkeys(new if replace else [*self._additional, *new]))
                tokens += new
            else:
                token = read_token(value, special=True, name=name)
                self._special[name] = token
                tokens.append(token)
        added = self.add_tokens(tokens, special_tokens=True)
        self._special_changed()
        return added

    def _all_names(self) -> list[str]:
        return list(dict.fromkeys([*NAMES, *self._special]))

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens beside the named ones."""
        return [token.content for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        read = [read_token(token, special=True, name=MORE[0]) for token in _as_list(tokens or (), MORE[0])]
        self._check_known(read, MORE[0])
        self._additional = read
        self._register(read)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Numbers of `additional_special_tokens`."""
        return [self.convert_tokens_to_ids(token) for token in self.additional_special_tokens]

    @property
    def extra_special_tokens(self) -> list[str]:
        """The same as `additional_special_tokens`, under transformers 5's name."""
        return self.additional_special_tokens

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self.additional_special_tokens = tokens

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """Numbers of `extra_special_tokens`."""
        return self.additional_special_tokens_ids

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """What each special token is for, and its text; the additional ones as a list, where there are any."""
        named = {name: self._special[name].content for name in self._all_names() if name in self._special}
        return {**named, **({MORE[0]: self.additional_special_tokens} if self._additional else {})}

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """`special_tokens_map` with `AddedToken`s."""
        named = {name: self._special[name] for name in self._all_names() if name in self._special}
        return {**named, **({MORE[0]: list(self._additional)} if self._additional else {})}

    @property
    def all_special_tokens_extended(self) -> list[AddedToken]:
        """All special tokens, each once."""
        named = [self._special[name] for name in self._all_names() if name in self._special]
        first: dict[str, AddedToken] = {}
        for token in (*named, *self._additional):
            first.setdefault(token.content, token)
        return list(first.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens as text, each once."""
        return [token.content for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """Numbers of all special tokens."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]


def _as_list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}={value!r} must be a list of tokens.")
    return value
