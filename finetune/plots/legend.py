"""A legend below images: which color stands for which class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finetune.plots.colors import IGNORED, Color, Pixels
from finetune.plots.text import columns, font_path, shorten

INK: Color = (32, 36, 44)
LINE = 24  # pixels: height of a line of text
MAX_CLASSES = 24  # with more classes, the legend shows only those in the images

Entry = tuple[str, Pixels]


def legend_entries(
    masks: Sequence[NDArray[np.integer]], names: Sequence[str], colors: Sequence[Color], ignore_index: int
) -> list[Entry]:
    """Return the name and swatch (14, 14, 3) of each class in the legend, then of ignored pixels."""
    present = {label for mask in masks for label in np.unique(mask).tolist()}
    shown = [k for k in range(len(names)) if len(names) <= MAX_CLASSES or k in present]
    entries = [(names[k], swatch(colors[k])) for k in shown]
    if ignore_index in present:
        entries.append(("ignored", hatched(swatch(IGNORED), np.ones((14, 14), dtype=bool))))
    return entries


def swatch(color: Color) -> Pixels:
    """Return a small square (14, 14, 3) of one color."""
    return np.full((14, 14, 3), color, dtype=np.uint8)


def hatched(image: Pixels, where: NDArray[np.bool_]) -> Pixels:
    """Return an image (H, W, 3) with stripes over some of its pixels (H, W)."""
    height, width = where.shape
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // 3 % 3 == 0
    stripes = np.where(diagonal[..., None], np.array(IGNORED, dtype=np.uint8), np.uint8(240))
    return np.where(where[..., None], stripes, image)


def wrapped(entries: Sequence[Entry], width: int) -> list[list[Entry]]:
    """Split entries into lines that are no wider than `width` pixels, and shorten names that are wider."""
    lines: list[list[Entry]] = [[]]
    used = 0.0
    for name, square in entries:
        entry = _fitted(name, width), square
        entry_width = _entry_width(entry)
        if lines[-1] and used + entry_width > width:
            lines.append([])
            used = 0.0
        lines[-1].append(entry)
        used += entry_width
    return lines


def draw_legend(page: Image.Image, lines: Sequence[Sequence[Entry]], left: int, top: int) -> None:
    """Draw the lines of a legend below each other, from a corner of the page on."""
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        x, y = float(left), top + row * LINE
        for name, square in line:
            page.paste(Image.fromarray(square), (round(x), y + 6))
            draw.text((x + 20, y + 13), name, fill=INK, font=font(13, name), anchor="lm")
            x += _entry_width((name, square))


def font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, which has few letters with accents, for ASCII, and one that has the others for them."""
    others = frozenset(letter for letter in text if not letter.isascii() and letter != "…")
    return ImageFont.truetype(font_path(others), size) if others else ImageFont.load_default(size)


def _fitted(name: str, width: int) -> str:
    """Return the name, shortened so that its entry is no wider than `width` pixels."""
    fitted = shorten(name, columns(name))
    while columns(fitted) > 1 and _entry_width((fitted, swatch(IGNORED))) > width:
        fitted = shorten(name, columns(fitted) - 1)
    return fitted


def _entry_width(entry: Entry) -> float:
    return 20 + font(13, entry[0]).getlength(entry[0]) + 18
