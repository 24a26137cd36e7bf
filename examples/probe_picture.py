"""The picture that probe_features.py draws: a table for each probe, one row a backbone, its levels from shallow to deep."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, TOP = (112, 56), 4, 46
PALE, DEEP, MARK = (236, 242, 248), (16, 72, 132), (224, 130, 20)
INK, GREY, PAPER = (28, 28, 30), (112, 112, 118), (255, 255, 255)
TITLES = {"knn": "nearest neighbours", "linear": "linear probe"}


def draw_table(rows: Sequence[dict[str, Any]], probes: Sequence[str], task: str, chance: float) -> Image.Image:
    """Accuracies in per cent, from pale (`chance`) to deep blue (the best of all); the best of each table has a frame.

    Args:
        rows: With `store`, `level`, `channels`, and the accuracy 0..1 under the name of each probe.
        probes: Names of the probes.
        task: What was probed, for the title.
        chance: Accuracy of guessing, 0..1.
    """
    stores = list(dict.fromkeys(row["store"] for row in rows))
    levels = {store: [row for row in rows if row["store"] == store] for store in stores}
    title, name = ImageFont.load_default(17), ImageFont.load_default(14)
    margin = 24 + int(max(name.getlength(store) for store in stores))
    right = margin + max(map(len, levels.values())) * (CELL[0] + GAP)
    panel = TOP + len(stores) * (CELL[1] + GAP)
    size = (max(right, int(title.getlength(task)) + 12) + 12, 38 + len(probes) * panel + 12)
    most = max(chance + 1e-9, *(row[probe] for row in rows for probe in probes))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((12, 14), task, INK, title)
    for number, probe in enumerate(probes):
        top = 38 + number * panel
        best = max(row[probe] for row in rows)
        caption = f"{TITLES.get(probe, probe)}: accuracy in %, below it level · channels"
        draw.text((margin, top + 30), caption, GREY, name, anchor="lm")
        for line, store in enumerate(stores):
            y = top + TOP + line * (CELL[1] + GAP)
            draw.text((margin - 12, y + CELL[1] / 2), store, INK, name, anchor="rm")
            for column, row in enumerate(levels[store]):
                place = (margin + column * (CELL[0] + GAP), y)
                draw_cell(draw, place, row, row[probe], max(0.0, (row[probe] - chance) / (most - chance)))
                if row[probe] == best:
                    draw.rectangle((*place, place[0] + CELL[0], place[1] + CELL[1]), outline=MARK, width=3)
    return page


def draw_cell(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], row: dict[str, Any], accuracy: float, depth: float
) -> None:
    """An accuracy on its colour, `depth` 0 (pale) to 1, above the level and its channels."""
    colour = tuple(round(pale + depth**2 * (deep - pale)) for pale, deep in zip(PALE, DEEP, strict=True))
    left, top = place
    draw.rectangle((left, top, left + CELL[0], top + CELL[1]), colour)
    ink = PAPER if sum(colour) < 480 else INK
    middle = left + CELL[0] / 2
    draw.text((middle, top + 21), f"{100 * accuracy:.1f}", ink, ImageFont.load_default(20), anchor="mm")
    caption = f"{row['level']} · {row['channels']}"
    draw.text((middle, top + 43), caption, ink, ImageFont.load_default(12), anchor="mm")
