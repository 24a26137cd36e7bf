"""A picture of what a backbone sees: the photo, and every stage's map as colours."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.extraction.recipe import size_settings
from vertebra.files import atomic_path
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.inputs import ImageInput
from vertebra.stages import Stage, plain_stride

TILE_HEIGHT, GAP, TITLE_HEIGHT = 256, 20, 56
WIDTH = 1700
BACKGROUND, INK, GREY = (250, 250, 248), (28, 28, 30), (112, 112, 118)


def picture(
    image: ImageInput,
    backbone: Backbone,
    processor: BaseImageProcessor,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
) -> Path:
    """Write one PNG: the photo as the backbone gets it, and one tile per selected stage.

    A tile shows the three directions in which the cells of a map differ most (principal components) as red, green and
    blue: cells of like colour have like features. Colours of different tiles do not compare.

    Args:
        image: One image, in any form that processors take.
        backbone: In evaluation mode; its `out_features` are the tiles.
        processor: The image processor that belongs to the backbone.
        path: The PNG; its folder is made when it does not exist.
        size: `(height, width)` in pixels at which the backbone runs; None leaves it to the processor.

    Returns:
        `path`.

    Raises:
        ValueError: the image cannot be used, or the backbone does not run at this size.
    """
    settings = {} if size is None else size_settings(processor, size)
    pixels = processor(image, return_tensors="pt", **settings)["pixel_values"][:1]
    shown = processor(image, return_tensors="pt", **settings, do_normalize=False)["pixel_values"][0]
    with torch.inference_mode():
        maps = backbone(pixels.to(backbone.device, backbone.dtype), return_dict=True).feature_maps
    height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
    tile = (max(1, round(TILE_HEIGHT * width / height)), TILE_HEIGHT)
    photo = to_image(shown.clamp(0, 1)).resize(tile, Image.Resampling.LANCZOS)
    tiles = [(photo, "photo", f"{height} x {width} pixels")]
    for stage, level in zip(backbone.output_stages, maps, strict=True):
        colours = to_image(component_colours(level[0].float().cpu())).resize(tile, Image.Resampling.NEAREST)
        tiles.append((colours, stage.name, _caption(stage, level)))
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        _arrange(tiles, tile).save(temporary, format="PNG", optimize=True)
    return path


def component_colours(level: Tensor) -> Tensor:
    """Return the first three principal components of the cells of a `(c, h, w)` map as `(3, h, w)` values 0..1.

    See `cell_colours`.
    """
    channels, height, width = level.shape
    return cell_colours(level.reshape(channels, height * width).T).T.reshape(3, height, width)


def cell_colours(cells: Tensor, fitted: Tensor | None = None) -> Tensor:
    """Return the first three principal components of `(n, c)` cells as `(n, 3)` values 0..1.

    Each component is scaled so that its 1st and 99th percentiles are 0 and 1. Cells with fewer than three components have
    0.5 for the missing ones. The sign of each is fixed, so the result is the same on every run.

    Args:
        cells: Of one map, or of several whose colours shall compare.
        fitted: `(m, c)` cells that decide on the components and their scale; None takes `cells` themselves.
    """
    fitted = cells if fitted is None else fitted
    mean = fitted.mean(0)
    directions, largest = principal_directions(fitted - mean)
    fitted_scores, scores = (fitted - mean) @ directions, (cells - mean) @ directions
    peaks = fitted_scores.gather(0, fitted_scores.abs().argmax(0, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0)
    fitted_scores, scores = fitted_scores * signs, scores * signs
    low, high = torch.quantile(fitted_scores, 0.01, 0), torch.quantile(fitted_scores, 0.99, 0)
    flat = high - low <= 1e-6 * max(largest, 1e-12)
    colours = torch.where(flat, 0.5, (scores - low) / torch.where(flat, 1.0, high - low)).clamp(0, 1)
    whole = torch.full((len(cells), 3), 0.5)
    whole[:, : colours.shape[1]] = colours
    return whole


def principal_directions(centred: Tensor) -> tuple[Tensor, float]:
    """The directions `(c, up to 3)` in which `(n, c)` cells of mean 0 differ most, and their largest singular value."""
    if len(centred) <= centred.shape[1]:
        _, scales, right = torch.linalg.svd(centred, full_matrices=False)
        return right[:3].T, float(scales[0])
    wide = centred.double()  # products of many cells: the small directions would drown in float32
    squares, directions = torch.linalg.eigh(wide.T @ wide)
    return directions.flip(1)[:, :3].to(centred.dtype), float(squares[-1].clamp(min=0).sqrt())


def to_image(colours: Tensor) -> Image.Image:
    """A `(3 | 1, h, w)` tensor of values 0..1 as a PIL image."""
    rgb = colours.expand(3, -1, -1).permute(1, 2, 0)  # (h, w, 3)
    return Image.fromarray((rgb * 255).round().to(torch.uint8).contiguous().numpy())


def _caption(stage: Stage, level: Tensor) -> str:
    stride = plain_stride(stage.stride)
    hop = f"{stride[0]} x {stride[1]}" if isinstance(stride, tuple) else str(stride)
    return f"{stage.channels} channels, stride {hop}, {level.shape[-2]} x {level.shape[-1]} cells"


def _arrange(tiles: list[tuple[Image.Image, str, str]], tile: tuple[int, int]) -> Image.Image:
    """Lay tiles out in rows of equal length, a title and a caption above each."""
    title, caption = ImageFont.load_default(22), ImageFont.load_default(15)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    cell = max(tile[0], *(math.ceil(measure.textlength(text, caption)) for _, _, text in tiles))
    rows = math.ceil(len(tiles) / max(1, WIDTH // (cell + GAP)))
    columns = math.ceil(len(tiles) / rows)
    step = (cell + GAP, TITLE_HEIGHT + tile[1] + GAP)
    canvas = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP // 2), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, (image, name, text) in enumerate(tiles):
        left, top = GAP + index % columns * step[0], GAP // 2 + index // columns * step[1]
        draw.text((left, top), name, INK, title)
        draw.text((left, top + 29), text, GREY, caption)
        canvas.paste(image, (left, top + TITLE_HEIGHT))
    return canvas
