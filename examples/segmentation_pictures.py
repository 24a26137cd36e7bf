"""The pictures that train_segmentation.py writes: predictions beside labels, and the curves of loss and metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

GREY, BLACK = (205, 205, 205), (40, 40, 40)
COLOURS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (140, 60, 160))
TITLES = {"loss": "loss", "miou": "mIoU", "pq": "PQ"}
Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], gap: int = 6) -> Image.Image:
    """Pictures of one height in rows, below their titles."""
    height = rows[0][0].height
    width = max(sum(picture.width + gap for picture in row) for row in rows) + gap
    page = Image.new("RGB", (width, 24 + len(rows) * (height + gap)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for number, row in enumerate(rows):
        left = gap
        for title, picture in zip(titles, row, strict=True):
            if number == 0:
                draw.text((left + picture.width // 2, 12), title, BLACK, font, anchor="mm")
            page.paste(picture, (left, 24 + number * (height + gap)))
            left += picture.width + gap
    return page


def write_png(picture: Image.Image, path: Path, colours: int = 192) -> None:
    """Write a small PNG: colours from a palette made for the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def draw_curves(logs: Mapping[str, Sequence[dict[str, Any]]], title: str) -> Image.Image:
    """The loss on a logarithmic scale, and mIoU and PQ from 0 to 1 where they were measured, against the steps, of some runs."""
    curves = {
        key: {run: [(line["step"], line[key]) for line in log if key in line] for run, log in logs.items()}
        for key in TITLES
    }
    curves = {key: runs for key, runs in curves.items() if any(runs.values())}
    page = Image.new("RGB", (20 + 310 * len(curves), 300), "white")
    draw = ImageDraw.Draw(page)
    draw.text((page.width // 2, 14), title, BLACK, ImageFont.load_default(15), anchor="mm")
    for number, (key, runs) in enumerate(curves.items()):
        box = (60 + 310 * number, 50, 310 + 310 * number, 250)
        values = [value for points in runs.values() for _, value in points]
        place, ticks = scale(values) if key == "loss" else (float, {f"{tick / 5:g}": tick / 5 for tick in range(6)})
        steps = max(step for points in runs.values() for step, _ in points)
        axes(draw, box, ticks, steps, TITLES[key])
        for run, colour in zip(runs, COLOURS, strict=False):
            trace(draw, box, colour, [(step / steps, place(value)) for step, value in runs[run]])
        for line, (run, colour) in enumerate(zip(runs, COLOURS, strict=False)):
            at = (box[2] - 8, (box[1] + 14 if key == "loss" else box[3] - 14 * len(runs)) + 15 * line)
            draw.text(at, run, colour, ImageFont.load_default(13), anchor="rm")
    return page


def scale(values: Sequence[float]) -> tuple[Callable[[float], float], dict[str, float]]:
    """A logarithmic scale: from a value to its place, and the places of round values."""
    low, high = (math.log10(max(pick(values), 1e-9)) for pick in (min, max))
    low, high = low - 0.05, high + 0.05

    def place(value: float) -> float:
        return (math.log10(max(value, 1e-9)) - low) / (high - low)

    round_values = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
    return place, {f"{value:g}": place(value) for value in round_values if 0 <= place(value) <= 1}


def axes(draw: ImageDraw.ImageDraw, box: Box, ticks: Mapping[str, float], steps: int, title: str) -> None:
    """Axes with grid lines at `ticks` (0 at the bottom, 1 at the top), a title, and the steps below."""
    left, top, right, bottom = box
    font = ImageFont.load_default(12)
    for text, height in ticks.items():
        y = bottom - height * (bottom - top)
        draw.line((left, y, right, y), GREY)
        draw.text((left - 6, y), text, BLACK, font, anchor="rm")
    draw.rectangle(box, outline=BLACK)
    for part in range(5):
        draw.text((left + part * (right - left) / 4, bottom + 12), f"{steps * part / 4:g}", BLACK, font, anchor="mm")
    draw.text(((left + right) / 2, bottom + 32), "step", BLACK, font, anchor="mm")
    draw.text(((left + right) / 2, top - 12), title, BLACK, ImageFont.load_default(14), anchor="mm")


def trace(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, points: Sequence[tuple[float, float]]) -> None:
    """A curve through points of 0 to 1 in both directions."""
    left, top, right, bottom = box
    places = [(left + x * (right - left), bottom - y * (bottom - top)) for x, y in points]
    for start, end in pairwise(places):
        draw.line((*start, *end), colour, 2)
    for x, y in places if len(places) < 60 else ():
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
