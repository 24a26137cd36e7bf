"""How the maps of an image are computed: what a process needs to be told, and what it then is."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

import torch

from vertebra.backbones.base import Backbone
from vertebra.errors import did_you_mean, listing
from vertebra.extraction.images import MAX_BYTES
from vertebra.extraction.reduction import Reduction, level_to_json
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.decode import MAX_PIXELS, check_decoder, load_decoder
from vertebra.stages import Stage

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Dtypes in which maps can be computed and stored."""
PACKAGES = ("vertebra", "torch", "timm", "safetensors", "pillow", "simplejpeg", "pyarrow")
IRRELEVANT = {
    "output_hidden_states", "output_attentions", "return_dict", "architectures", "problem_type", "dtype", "id2label",
    "label2id", "use_pretrained_backbone", "_name_or_path", "transformers_version", "out_features", "out_indices",
    "stage_names",
}  # fmt: skip
"""Keys of configurations that decide no value of a map; the levels are listed apart."""


@dataclass(frozen=True)
class Recipe:
    """How maps are computed. It can be sent to another process.

    Args:
        model: What `AutoBackbone.from_pretrained` takes, or a backbone in evaluation mode, optimized or not.
        options: Keywords of `from_pretrained`, the selection of stages above all. Only for a name.
        processor: The image processor; None takes the one that belongs to the name.
        size: `(height, width)` in pixels that images are brought to, by a processor that crops (timm's) after its usual crop; None
            leaves it to the processor.
        dtype: Of the stored maps, a key of `DTYPES`; None: bfloat16 on a GPU, float16 on a CPU.
        compute_dtype: Of weights and activations; None: the stored dtype on a GPU, the weights' own on a CPU.
        reductions: Level name to what is kept of it; `"*"` stands for all levels that are not named.
        decoder: What decodes image files, one of `vertebra.image_processing.decode.DECODERS`.
        upright: Turn images as their EXIF orientation says.
        allow_nonfinite: Store maps that hold infinities and NaN instead of putting their images into quarantine.
        batch_size: How many images of one size run together.
        max_pixels: Images of more pixels are put into quarantine before they are decoded.
        max_bytes: Image files of more bytes are put into quarantine before they are read.
        device: Where the backbone runs; None takes a GPU where there is one.
        decode_threads: Threads that read, decode and resize; None: one for each core up to 8.
        backend: The engine that computes the forward pass, as `PreTrainedModel.optimize` knows them; None for torch itself. Values
            stay the same within rounding, so a job may go on with another.
        images: Images by id, for sources that hold images in memory; they may be made on demand.

    Raises:
        ValueError: a value that cannot be used; says what can.
    """

    model: str | os.PathLike[str] | Backbone
    options: Mapping[str, Any] = field(default_factory=dict)
    processor: BaseImageProcessor | None = None
    size: tuple[int, int] | None = None
    dtype: str | None = None
    compute_dtype: str | None = None
    reductions: Mapping[str, Reduction] = field(default_factory=dict)
    decoder: str = "pillow"
    upright: bool = True
    allow_nonfinite: bool = False
    batch_size: int = 8
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    device: str | None = None
    decode_threads: int | None = None
    backend: str | None = None
    images: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("dtype", "compute_dtype"):
            value = getattr(self, name)
            if value is not None and value not in DTYPES:
                raise ValueError(f"{name}={value!r} must be one of {listing(DTYPES)}.{did_you_mean(value, DTYPES)}")
        check_decoder(self.decoder)
        for name in ("batch_size", "max_pixels", "max_bytes", "decode_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if isinstance(self.model, Backbone) and self.processor is None:
            raise ValueError("A backbone alone does not say how images are prepared for it; give processor= as well.")

    def to_json(self) -> dict[str, Any] | None:
        """The recipe as JSON holds it, for `recipe_from_json`; None where it has a backbone or a processor that is no name."""
        if isinstance(self.model, Backbone) or self.processor is not None:
            return None
        content = {name: getattr(self, name) for name in STORED}
        reductions = {name: asdict(reduction) for name, reduction in self.reductions.items()}
        return {"model": os.fspath(self.model), "options": dict(self.options), "reductions": reductions, **content}


STORED = (
    "size", "dtype", "compute_dtype", "decoder", "upright", "allow_nonfinite", "batch_size", "max_pixels", "max_bytes",
    "backend",
)  # fmt: skip


def recipe_from_json(content: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_json` wrote."""
    reductions = {name: Reduction(**facts) for name, facts in content["reductions"].items()}
    size = tuple(content["size"]) if content["size"] else None
    return Recipe(**{**content, "reductions": reductions, "size": size})


class Job:
    """A recipe with its backbone and processor at hand: what is computed, in words that two runs can compare.

    Args:
        recipe: How maps are computed.

    Raises:
        ValueError: the backbone is in training mode or selects no stage, does not run at the size asked for, or a reduction
            does not fit.
        ImportError: the decoder is not installed.
        OSError: there is no such model.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        load_decoder(recipe.decoder)
        self.backbone, self.processor = _loaded(recipe)
        if self.backbone.training:
            raise ValueError(
                "The backbone is in training mode, in which maps depend on the batch; call backbone.eval()."
            )
        if recipe.compute_dtype is not None and self.backbone.optimization and self.compute_dtype != self._own_dtype:
            raise ValueError(
                f"compute_dtype={recipe.compute_dtype!r}, and the backbone was optimized to compute in {self._own_dtype}: "
                f"leave compute_dtype away, or optimize(dtype={recipe.compute_dtype!r})."
            )
        if not self.levels:
            raise ValueError(
                "The backbone selects no stage, so there is nothing to store; give out_features, out_indices "
                "or out_strides."
            )
        names = [stage.name for stage in self.levels]
        for name in recipe.reductions:
            if name != "*" and name not in names:
                raise ValueError(
                    f"There is no level {name!r} to reduce.{did_you_mean(name, names)} There is {listing(names)}."
                )
        self.reductions = [recipe.reductions.get(name, recipe.reductions.get("*", Reduction())) for name in names]
        for reduction, stage in zip(self.reductions, self.levels, strict=True):
            reduction.stage(stage)
        if recipe.size is not None:
            self.backbone.output_shapes(*recipe.size)

    @property
    def levels(self) -> tuple[Stage, ...]:
        """The stages whose maps are stored."""
        return self.backbone.output_stages

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The settings that differ from the processor's own."""
        return {} if self.recipe.size is None else size_settings(self.processor, self.recipe.size)

    @cached_property
    def device(self) -> torch.device:
        """Where the backbone runs. Raises ValueError where there is no such device."""
        return pick_device(self.recipe.device)

    @property
    def dtype(self) -> str:
        """Dtype of the stored maps."""
        return self.recipe.dtype or ("float16" if self.device.type == "cpu" else "bfloat16")

    @property
    def compute_dtype(self) -> str:
        """Dtype of weights and activations."""
        if self.recipe.compute_dtype is not None:
            return self.recipe.compute_dtype
        return self._own_dtype if self.device.type == "cpu" or self.backbone.optimization else self.dtype

    @property
    def _own_dtype(self) -> str:
        """What the backbone computes in by itself."""
        return str((self.backbone.optimization or self.backbone).dtype).removeprefix("torch.")

    @property
    def engine(self) -> str | None:
        """What computes the forward pass, where it is not torch itself."""
        made = self.backbone.optimization
        return self.recipe.backend or (f"{made.backend} in {made.dtype}" if made and made.backend != "eager" else None)

    @cached_property
    def channels_last(self) -> bool:
        """Whether maps are computed in channels-last memory format, which suits convolutional nets.

        On a CPU it gains 2 to 30 % for these, nothing for windows and flat transformers, and loses 3 % where convolutions
        are few among linear layers (PVT has five of these to a convolution, ConvNeXt two). An engine chooses for itself.
        """
        if self.engine is not None:
            return False
        modules = list(self.backbone.modules())
        spatial = sum(
            isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 and m.kernel_size != m.stride for m in modules
        )
        return spatial > 0 and sum(isinstance(m, torch.nn.Linear) for m in modules) <= 2 * spatial

    def bytes_per_image(self) -> int:
        """Bytes of the stored maps of one image at the job's size, or of one of the backbone's native size where they vary."""
        return self.bytes_at(*(self.recipe.size or self.processed_size()))

    def bytes_at(self, height: int, width: int) -> int:
        """Bytes of the stored maps of one image that is processed at `height` x `width` pixels.

        Raises:
            ValueError: the backbone does not run at this size.
        """
        maps = [torch.empty(1, *shape, device="meta") for shape in self.backbone.output_shapes(height, width).values()]
        kept = [reduction(level) for reduction, level in zip(self.reductions, maps, strict=True)]
        return sum(level.numel() for level in kept) * DTYPES[self.dtype].itemsize

    def processed_size(self) -> tuple[int, int]:
        """`(height, width)` to which the processor brings a picture of the backbone's native size."""
        picture = torch.zeros(3, *self.backbone.native_size, dtype=torch.uint8)
        batch = self.processor(picture, input_data_format="channels_first", return_tensors="pt")
        height, width = batch["pixel_values"].shape[-2:]
        return int(height), int(width)

    @cached_property
    def meaning(self) -> dict[str, Any]:
        """The facts that decide the stored values, as JSON holds them. Two runs that differ in one are different jobs."""
        config = {key: value for key, value in self.backbone.config.to_dict().items() if key not in IRRELEVANT}
        return plain(
            {
                "model": {
                    "class": type(self.backbone).__name__,
                    "config": config,
                    "weights_sha256": weights_digest(self.backbone),
                },
                "levels": [
                    level_to_json(stage, reduction)
                    for stage, reduction in zip(self.levels, self.reductions, strict=True)
                ],
                "preprocessing": {**self.processor.to_dict(), **self.preprocessing},
                "decoder": self.recipe.decoder,
                "upright": self.recipe.upright,
                "dtype": self.dtype,
                "compute_dtype": self.compute_dtype,
                "nonfinite": "kept" if self.recipe.allow_nonfinite else "refused",
            }
        )

    @property
    def record(self) -> dict[str, Any]:
        """The circumstances, as JSON holds them: what may change between runs of one job, within rounding."""
        recipe = self.recipe
        return plain(
            {
                "model_id": self.backbone.name_or_path
                or ("" if isinstance(recipe.model, Backbone) else str(recipe.model)),
                "recipe": recipe.to_json(),
                "batch_size": recipe.batch_size,
                "device": self.device.type,
                "channels_last": self.channels_last,
                "backend": self.engine,
                "host": platform.node(),
                "versions": versions(),
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `meaning`."""
        return fingerprint(self.meaning)


def _loaded(recipe: Recipe) -> tuple[Backbone, BaseImageProcessor]:
    if isinstance(recipe.model, Backbone):
        assert recipe.processor is not None  # Recipe has checked
        return recipe.model, recipe.processor
    from vertebra.auto.backbone import AutoBackbone
    from vertebra.auto.vision import AutoImageProcessor

    where = {
        key: value
        for key, value in recipe.options.items()
        if key in ("revision", "local_files_only", "token", "cache_dir")
    }
    processor = recipe.processor or AutoImageProcessor.from_pretrained(recipe.model, **where)
    return AutoBackbone.from_pretrained(recipe.model, **recipe.options), processor


def fingerprint(meaning: Mapping[str, Any]) -> str:
    """SHA-256 of the facts that decide values: equal for runs that store the same values."""
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON gives it back: lists for tuples, text for fractions, paths and dtypes.

    Raises:
        TypeError: it holds something that JSON does not.
    """

    def text(item: Any) -> str:
        if isinstance(item, (Fraction, PurePath, torch.dtype)):
            return str(item)
        raise TypeError(f"{item!r} is a {type(item).__name__}, which cannot stand in a plan.")

    return json.loads(json.dumps(value, default=text))


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that take part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def size_settings(processor: BaseImageProcessor, size: tuple[int, int]) -> dict[str, Any]:
    """The settings with which a processor's images come out `(height, width)` pixels large."""
    target = {"height": size[0], "width": size[1]}
    settings: dict[str, Any] = {"do_resize": True, "size": target}
    return settings if processor.crop_size is None else {**settings, "crop_size": target}


def weights_digest(backbone: Backbone) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or for None a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={str(device)!r} cannot be used here: {error}. 'cpu' always works; 'cuda' needs a GPU."
        ) from error
    return chosen
