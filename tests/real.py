"""Real photos and weights out of installed packages, and a tiny backbone, for the tests that run whole commands."""

import runpy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from vertebra import AutoBackbone, Backbone, ResNetConfig, ViTImageProcessor

ROOT = Path(__file__).parents[1]
_home = tempfile.TemporaryDirectory(prefix="vertebra-real-")


@cache
def example(name: str) -> dict[str, Any]:
    """The names that an example defines."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


@cache
def lite0() -> Path:
    """The EfficientNet-Lite0 checkpoint folder. Tests do not write into it."""
    return Path(example("offline_weights")["write_checkpoint"](Path(_home.name) / "lite0"))


@cache
def photos() -> Path:
    """A folder of five photos. Tests do not write into it."""
    return Path(example("offline_photos")["copy_photos"](Path(_home.name) / "photos"))


def tiny_backbone(**selection: Any) -> Backbone:
    """A ResNet with random weights and stages at strides 2, 4 and 8."""
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", **selection)
    return AutoBackbone.from_config(config).eval()


def tiny_processor(**settings: Any) -> ViTImageProcessor:
    """Stretches images to 32 x 48 pixels unless told otherwise."""
    return ViTImageProcessor(**{"size": {"height": 32, "width": 48}, **settings})
