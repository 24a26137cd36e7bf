"""Image processors as files: which keys of them name a class, and which backend that asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vertebra.image_processing.processor_files import PART, TYPE_KEYS, processor_type
from vertebra.image_processing.settings import read_use_fast
from vertebra.preprocessor import Preprocessor


class ImageProcessingMixin(Preprocessor):
    """Settings of an image processor: attributes that print as JSON, and are loaded from and saved to a checkpoint's files."""

    _part: ClassVar[str] = PART
    _type_keys: ClassVar[Sequence[str]] = TYPE_KEYS
    _example: ClassVar[str] = "size=…"

    @classmethod
    def _elsewhere(cls) -> str:
        return " A timm checkpoint is read by TimmWrapperImageProcessor.from_pretrained."

    @classmethod
    def _read_stored(
        cls, settings: Mapping[str, Any], overrides: dict[str, Any], known: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        stored, overrides = super()._read_stored(settings, overrides, known)
        if "backend" not in known:
            return stored, overrides
        if (backend := processor_type(settings)[1]) is not None:
            stored.setdefault("backend", backend)
        return stored, read_use_fast(overrides)
