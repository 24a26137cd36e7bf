"""What slow and fast tokenizers share: the call, padding, special tokens, decoding and files."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.errors import did_you_mean
from vertebra.hub import CheckpointFiles
from vertebra.push import PushToHubMixin
from vertebra.text.tokenization.added_tokens import AddedToken, read_token
from vertebra.text.tokenization.calling import Calling
from vertebra.text.tokenization.decoding import Decoding
from vertebra.text.tokenization.files import load_tokenizer, save_tokenizer
from vertebra.text.tokenization.rows import Rows
from vertebra.text.tokenization.strategies import check_limit, check_side

if TYPE_CHECKING:
    from typing_extensions import Self

CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "model_max_length": check_limit,
    "padding_side": check_side,
    "truncation_side": check_side,
}
"""Attributes whose values are checked whenever they are assigned."""


class TokenizerBase(Calling, Rows, Decoding, PushToHubMixin):
    """Text to ids and back. `PreTrainedTokenizer` and `PreTrainedTokenizerFast` derive from it.

    Args:
        model_max_length: Tokens that the model takes at most; None where there is no limit.
        padding_side: `"right"` or `"left"`: where padding goes.
        truncation_side: Which side is shortened.
        model_input_names: The entries that a call returns by itself; the first holds the ids.
        clean_up_tokenization_spaces: Whether decoding takes out the spaces before punctuation.
        split_special_tokens: Whether special tokens in a text are split like any other text.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: Strings or `AddedToken`s; those that the
            vocabulary lacks are added.
        additional_special_tokens: More of them, as a list; as a dictionary under `extra_special_tokens` they get names.
        **settings: Further arguments of subclasses, which are saved and given to the constructor again.

    Raises:
        ValueError: a side that is none, a length below 1, or an argument that is called like a method.
        TypeError: a special token that is no token.
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {}
    """Constructor argument to the name of its file."""
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    is_fast: ClassVar[bool]
    saved_as: str | None = None
    """Name of the class that files give the tokenizer, where it is not that of the class itself."""

    def __init__(self, **settings: Any) -> None:
        for name in settings:
            if callable(getattr(type(self), name, None)):
                raise ValueError(f"{type(self).__name__} has a method {name!r}; an argument cannot be called like it.")
        added = settings.pop("added_tokens_decoder", None) or {}
        self.name_or_path = str(settings.pop("name_or_path", ""))
        self.processor_class = settings.pop("processor_class", None)
        self._take_special(settings)
        self.model_max_length = settings.pop("model_max_length", settings.pop("max_len", None))
        self.padding_side = settings.pop("padding_side", None) or "right"
        self.truncation_side = settings.pop("truncation_side", None) or "right"
        self.model_input_names = list(settings.pop("model_input_names", None) or self.model_input_names)
        self.clean_up_tokenization_spaces = bool(settings.pop("clean_up_tokenization_spaces", False))
        self.split_special_tokens = bool(settings.pop("split_special_tokens", False))
        self.pad_token_type_id = int(settings.pop("pad_token_type_id", 0))
        self.init_kwargs = copy.deepcopy(settings)
        self._add_first({int(index): token for index, token in added.items()})

    def _add_first(self, stored: Mapping[int, Any]) -> None:
        """Add the tokens that a file has beside the vocabulary, in their order, and the special tokens it lacks."""
        special = {token.content: token for token in self.all_special_tokens_extended}
        tokens = []
        for index in sorted(stored):
            token = read_token(stored[index], special=False, name=f"added_tokens_decoder[{index}]")
            token.special = token.special or token.content in special
            tokens.append(token)
        self._add(tokens, {token.content: index for index, token in zip(sorted(stored), tokens, strict=True)})
        added = self._added()
        self._special = {name: added.get(token.content, token) for name, token in self._special.items()}
        self._add([token for token in self.all_special_tokens_extended if token.content not in added])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, CHECKS[name](name, value) if name in CHECKS else value)

    def __getattr__(self, name: str) -> Any:
        special = self.__dict__.get("_special", {})
        if name in special:
            return special[name].content
        if name.removesuffix("_id") in special:
            return self.convert_tokens_to_ids(special[name.removesuffix("_id")].content)
        if name in self.__dict__.get("init_kwargs", {}):
            return self.init_kwargs[name]
        near = did_you_mean(name, dir(type(self)) if not name.startswith("_") else ())
        raise AttributeError(f"{type(self).__name__} has no {name!r}.{near}")

    # the vocabulary

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it; `len(tokenizer)` counts them too."""

    @abstractmethod
    def _added(self) -> dict[str, AddedToken]:
        """The tokens that are matched as they stand, by their text."""

    @abstractmethod
    def _add(self, tokens: Sequence[AddedToken], numbers: Mapping[str, int] | None = None) -> None:
        """Match these tokens as they stand, and add those that the vocabulary lacks.

        Raises:
            ValueError: `numbers`, which they had in a file, are not those that they get.
        """

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens, which are matched as they stand before a text is split.

        Args:
            new_tokens: A string or `AddedToken`, or a list of them.
            special_tokens: Whether they are special: matched before the text is normalized, and left out by
                `skip_special_tokens`.

        Returns:
            By how many tokens the vocabulary grew; the model's embeddings must grow with it
            (`model.resize_token_embeddings(len(tokenizer))`). Tokens it has already are only matched as they stand from now on.

        Raises:
            TypeError: something that is no token.
        """
        listed = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        tokens = [copy.copy(read_token(token, special=special_tokens, name="new_tokens")) for token in listed]
        for token in tokens:
            token.special = token.special or special_tokens
        before = len(self)
        self._add(tokens)
        return len(self) - before

    @property
    def vocab(self) -> dict[str, int]:
        """The same as `get_vocab()`."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are matched as they stand, by their number."""
        tokens = {self.convert_tokens_to_ids(text): token for text, token in self._added().items()}
        return dict(sorted(tokens.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The numbers of the tokens that are matched as they stand."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """The same as `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def __len__(self) -> int:
        return len(self.get_vocab())

    def __bool__(self) -> bool:
        return True

    def _token_of(self, index: int, name: str) -> str:
        token = self.convert_ids_to_tokens(index)
        if token is None:
            raise ValueError(f"{name}={index} is no number of the vocabulary, which has {len(self)} tokens.")
        return str(token)

    # files

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | CheckpointFiles, **kwargs: Any) -> Self:
        """Load a tokenizer.

        Args:
            source: A local folder (the network is never asked), a hub id, or the path of the vocabulary where it is one file.
            **kwargs: Hub options (`revision`, `token`, `subfolder`, …), and arguments of the constructor, which win over what
                the files say.

        Raises:
            OSError: there is no such checkpoint, or it lacks the vocabulary.
            ValueError: a file is damaged, or an argument's value is not allowed.
            TypeError: an argument that nobody takes.
        """
        loaded: Self = load_tokenizer(cls, source, **kwargs)
        return loaded

    @classmethod
    def _from_pipeline(cls, pipeline: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments from the content of a `tokenizer.json`, for slow tokenizers without files of their own.

        Raises:
            ValueError: the class cannot do what the file describes.
        """
        raise ValueError(
            f"{cls.__name__} does not read tokenizer.json; the folder needs {' and '.join(cls.vocab_files_names.values())}."
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        filename_prefix: str | None = None,
        *,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> tuple[str, ...]:
        """Write all files of the tokenizer into a folder, which is made where it does not exist.

        Former tokenizer files there that this one does not have are removed, so that a reader finds one tokenizer.

        Args:
            save_directory: The folder.
            filename_prefix: Put `prefix-` before the names of the files; `from_pretrained` does not look for these.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.

        Returns:
            The paths of the files.

        Raises:
            NotADirectoryError: it is a file.
            TypeError: a setting that JSON cannot hold.
        """
        self._check_saving(push_to_hub, hub)
        paths = save_tokenizer(self, Path(save_directory), filename_prefix)
        if push_to_hub:
            self._push_saved(save_directory, hub)
        return paths

    def _pipeline_text(self) -> str | None:
        """The content of `tokenizer.json`; None for slow tokenizers."""
        return None

    @abstractmethod
    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary's own files into an existing folder, and return their paths."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )
