"""The base of processors: a tokenizer beside an image processor or a feature extractor, called, saved and loaded as one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.processor_files import load_parts, save_parts
from vertebra.auto.processor_parts import (
    KINDS,
    TOKENIZER,
    Options,
    check_part,
    named_parts,
    options_by_part,
    own_settings,
)
from vertebra.config import Source
from vertebra.errors import listing
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.preprocessor_files import PREPROCESSOR_FILE, PROCESSOR_FILE
from vertebra.push import PushToHubMixin


class ProcessorMixin(PushToHubMixin):
    """Base of processors. A subclass names its parts as arguments of its constructor, or in `attributes`.

    The parts are attributes: `processor.tokenizer`, and `processor.image_processor` or `processor.feature_extractor`. Further
    arguments of a subclass's constructor are settings: set as attributes of the same name, they are saved and loaded again.

    Args:
        *parts: The parts, in the order of `attributes`.
        **named: The same by name.

    Raises:
        TypeError: a part is missing, is none of its kind, or is not one that the processor has.
    """

    attributes: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        named = named_parts(cls)
        if named and "attributes" not in vars(cls):
            cls.attributes = named

    def __init__(self, *parts: Any, **named: Any) -> None:
        given = {**dict(zip(self.attributes, parts, strict=False)), **named}
        call = f"{type(self).__name__}({', '.join(f'{name}=…' for name in self.attributes)})"
        missing = [name for name in self.attributes if given.get(name) is None]
        unknown = [name for name in given if name not in self.attributes]
        if missing or unknown or len(parts) > len(self.attributes):
            wrong = f"{missing[0]} is missing" if missing else f"{listing(unknown) or 'more'} is no part of it"
            raise TypeError(f"{call}: {wrong}. Its parts are {listing(self.attributes)}.")
        for name, part in given.items():
            check_part(call, name, part)
            setattr(self, name, part)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __call__(self, images: Any = None, text: Any = None, audio: Any = None, **options: Any) -> Any:
        """Prepare texts with images or audio.

        Args:
            images: As the image processor takes them.
            text: As the tokenizer takes it.
            audio: As the feature extractor takes it.
            **options: Options of the parts, each for all parts that have one of that name (`return_tensors`, `padding`, …); those
                of one part alone may stand in `images_kwargs`, `audio_kwargs` or `text_kwargs`.

        Returns:
            A batch with the entries of all parts that were used.

        Raises:
            ValueError: nothing is given, or something for a part that the processor does not have; and as the parts do.
            TypeError: an option that no part has; and as the parts do.
        """
        from vertebra.batch_feature import BatchFeature

        given = {TOKENIZER: text, "image_processor": images, "feature_extractor": audio}
        wanted = {name: value for name, value in given.items() if value is not None}
        for name in wanted:
            if name not in self.attributes:
                raise ValueError(f"{type(self).__name__} has no {name}; its parts are {listing(self.attributes)}.")
        if not wanted:
            inputs = [KINDS[name].group.removesuffix("_kwargs") for name in self.attributes]
            raise ValueError(f"{type(self).__name__}() got nothing to prepare; give {' or '.join(inputs)}.")
        arguments = self._arguments(options)
        batch = BatchFeature()
        for name, value in wanted.items():
            batch.update(getattr(self, name)(value, **arguments[name]))
        return batch

    def _arguments(self, options: Mapping[str, Any]) -> Options:
        """Options of a call by part; see `options_by_part`."""
        parts = {name: getattr(self, name) for name in self.attributes}
        return options_by_part(f"{type(self).__name__}()", parts, options)

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a call returns by itself."""
        return list(dict.fromkeys(name for part in self.attributes for name in getattr(self, part).model_input_names))

    def decode(self, *args: Any, **options: Any) -> Any:
        """Ids to text: the tokenizer's `decode`."""
        return self._tokenizer("decode").decode(*args, **options)

    def batch_decode(self, *args: Any, **options: Any) -> Any:
        """Rows of ids to texts: the tokenizer's `batch_decode`."""
        return self._tokenizer("batch_decode").batch_decode(*args, **options)

    def _tokenizer(self, asked: str) -> Any:
        if TOKENIZER not in self.attributes:
            raise ValueError(f"{type(self).__name__} has no tokenizer, so there is no {asked}.")
        return self.tokenizer

    # files

    @classmethod
    def from_pretrained(cls, source: Source, *, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Load all parts of a checkpoint.

        Args:
            source: A local folder (the network is never asked) or a hub id.
            return_unused_kwargs: Return `(processor, unused)` instead of refusing what no part has a setting for.
            **kwargs: Hub options (`revision`, `token`, …), and settings of the parts that win over the files'; each goes to all
                parts that have it. `use_fast` is for both tokenizers and image processors.

        Raises:
            OSError: there is no such checkpoint, or it lacks a part's files.
            ValueError: a part's class is not known, or a file is damaged.
            TypeError: an argument that no part has.
        """
        refuse_remote_code(kwargs)
        files = CheckpointFiles.open(source, HubOptions.pop(kwargs))
        path = files.find(PROCESSOR_FILE)
        stored = {**(read_json(path) if path else {}), **kwargs}
        own = {name: stored[name] for name in own_settings(cls, cls.attributes) if name in stored}
        given = {name: value for name, value in kwargs.items() if name not in own}
        parts, unused = load_parts(
            f"{cls.__name__}.from_pretrained()", cls.attributes, files, given, return_unused_kwargs
        )
        processor = cls(**parts, **own)
        return (processor, unused) if return_unused_kwargs else processor

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **hub: Any
    ) -> list[str]:
        """Write the files of all parts into a folder, all or none, and return their paths. The folder is made if need be.

        The settings of the other part stand in `processor_config.json`, which transformers from 4.56 reads, and once more in
        `preprocessor_config.json` for earlier ones.

        Args:
            save_directory: The folder.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.

        Raises:
            NotADirectoryError: it is a file.
            TypeError: a setting that JSON cannot hold.
        """
        self._check_saving(push_to_hub, hub)
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_pretrained({str(folder)!r}): this is a file; give a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        texts = {PROCESSOR_FILE: self.to_json_string()}
        settings = [name for name in self.attributes if name != TOKENIZER]
        if len(settings) == 1:
            alone = {**getattr(self, settings[0]).to_dict(), "processor_class": type(self).__name__}
            texts[PREPROCESSOR_FILE] = _json(alone)
        paths = save_parts(folder, getattr(self, TOKENIZER, None), type(self).__name__, texts)
        if push_to_hub:
            self._push_saved(folder, hub)
        return paths

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, and those of the parts but the tokenizer's, as JSON-ready values."""
        parts = {name: getattr(self, name).to_dict() for name in self.attributes if name != TOKENIZER}
        for part in parts.values():
            part.pop("processor_class", None)
        own = {name: getattr(self, name) for name in own_settings(type(self), self.attributes) if hasattr(self, name)}
        return {**own, **parts, "processor_class": type(self).__name__}

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text with sorted keys.

        Raises:
            TypeError: a setting that JSON cannot hold.
        """
        return _json(self.to_dict())

    def __repr__(self) -> str:
        parts = "\n".join(f"- {name}: {getattr(self, name)!r}" for name in self.attributes)
        return f"{type(self).__name__}:\n{parts}\n\n{self.to_json_string()}"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
