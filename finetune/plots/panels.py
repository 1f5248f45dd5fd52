"""Image, truth, prediction and error side by side, drawn with Pillow alone: fast enough for every validation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from finetune.plots.colors import IGNORED, Color, Labels, Pixels, as_labels, colorise

WRONG: Color = (214, 39, 40)
INK: Color = (32, 36, 44)
TITLES = ("image", "truth", "prediction", "error")

GAP, MARGIN, LINE = 6, 14, 24  # pixels: between pictures, around the page, height of a line of text
TALLEST = 1.5  # a picture may be this many times as tall as wide
MOST_NAMES = 24  # beyond so many classes, the legend keeps to those in the pictures

Row = tuple[Tensor | Pixels, Labels, Labels]
Fitted = tuple[Pixels, NDArray[np.integer], NDArray[np.integer]]
Entry = tuple[str, Pixels]


def panel(
    image: Tensor | Pixels,
    truth: Labels,
    prediction: Labels,
    colors: Sequence[Color],
    ignore_index: int = 255,
) -> Image.Image:
    """One row of four pictures at full size: image, truth, prediction, error.

    Args:
        image: uint8, (C, H, W) as a tensor or (H, W, C) as an array; 1, 3 or more channels.
        truth: class indices (H, W); ignored pixels are hatched.
        prediction: class indices (H, W).
        colors: one a class.
        ignore_index: label of the pixels that do not count.
    """
    pixels = as_rgb(image)
    pictures = (
        pixels,
        _hatched(colorise(truth, colors, ignore_index), as_labels(truth) == ignore_index),
        colorise(prediction, colors, ignore_index),
        error_map(pixels, truth, prediction, ignore_index),
    )
    height, width = pixels.shape[:2]
    row = Image.new("RGB", (4 * width + 3 * GAP, height), "white")
    for column, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture), (column * (width + GAP), 0))
    return row


def error_map(image: Pixels, truth: Labels, prediction: Labels, ignore_index: int = 255) -> Pixels:
    """The image (H, W, 3) in pale gray, wrong pixels in red, ignored ones hatched."""
    ignored = as_labels(truth) == ignore_index
    wrong = as_labels(truth) != as_labels(prediction)
    gray = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    pale = np.repeat(gray // 2 + 112, 3, axis=-1)
    return _hatched(np.where(wrong[..., None], np.array(WRONG, dtype=np.uint8), pale), ignored)


def preview(
    rows: Sequence[Row],
    class_names: Sequence[str],
    colors: Sequence[Color],
    ignore_index: int = 255,
    titles: Sequence[str] = TITLES,
    width: int = 260,
) -> Image.Image:
    """A page of panels, one below the other, with titles above and the classes' colors below.

    Args:
        rows: image, truth and prediction each, as `panel` takes them; sizes may differ.
        class_names: of the K classes.
        colors: one a class.
        ignore_index: label of the pixels that do not count.
        titles: of the four columns.
        width: of one picture on the page, in pixels.
    """
    small = [_fitted(row, width) for row in rows]
    panels = [panel(*row, colors, ignore_index) for row in small]
    inner = 4 * width + 3 * GAP
    lines = _wrapped(_legend_entries(small, class_names, colors, ignore_index), inner)

    body = sum(row.height + GAP for row in panels)
    page = Image.new("RGB", (inner + 2 * MARGIN, 2 * MARGIN + LINE + body + LINE * len(lines)), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + GAP), MARGIN), title, fill=INK, font=_font(16))
    y = MARGIN + LINE
    for row in panels:
        _paste_in_columns(page, row, y, width)
        y += row.height + GAP
    for line in lines:
        _draw_legend_line(page, draw, line, y)
        y += LINE
    return page


def as_rgb(image: Tensor | Pixels) -> Pixels:
    """Picture (H, W, 3) of a tensor (C, H, W) or an array (H, W, C) or (H, W); beyond 3 channels the first 3."""
    pixels = image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) else np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8:
        raise ValueError(f"the image holds {pixels.dtype}, expected uint8 in 0..255. Undo its normalization first.")
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _hatched(picture: Pixels, where: NDArray[np.bool_]) -> Pixels:
    height, width = where.shape
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // 3 % 3 == 0
    stripes = np.where(diagonal[..., None], np.array(IGNORED, dtype=np.uint8), np.uint8(240))
    return np.where(where[..., None], stripes, picture)


def _fitted(row: Row, width: int) -> Fitted:
    """The row scaled to the width of a column; labels by the nearest pixel."""
    image, truth, prediction = as_rgb(row[0]), as_labels(row[1]), as_labels(row[2])
    height = image.shape[0] / image.shape[1] * width
    scale = min(1.0, TALLEST * width / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return pixels, _nearest(truth, size), _nearest(prediction, size)


def _nearest(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    height, width = labels.shape
    rows = (np.arange(size[1]) + 0.5) * height / size[1]
    columns = (np.arange(size[0]) + 0.5) * width / size[0]
    picked: NDArray[np.integer] = labels[rows.astype(int)[:, None], columns.astype(int)]
    return picked


def _paste_in_columns(page: Image.Image, row: Image.Image, y: int, width: int) -> None:
    """A tall picture is narrower than its column: keep each under its title."""
    own = (row.width - 3 * GAP) // 4
    for column in range(4):
        picture = row.crop((column * (own + GAP), 0, column * (own + GAP) + own, row.height))
        page.paste(picture, (MARGIN + column * (width + GAP), y))


def _legend_entries(
    rows: Sequence[Fitted], names: Sequence[str], colors: Sequence[Color], ignore_index: int
) -> list[Entry]:
    """Name and swatch (14, 14, 3) of every class shown, then of the ignored and the wrong pixels."""
    seen = {label for _, *masks in rows for mask in masks for label in np.unique(mask).tolist()}
    shown = [k for k in range(len(names)) if len(names) <= MOST_NAMES or k in seen]
    entries = [(names[k], _swatch(colors[k])) for k in shown]
    if ignore_index in seen:
        entries.append(("ignored", _hatched(_swatch(IGNORED), np.ones((14, 14), dtype=bool))))
    return [*entries, ("wrong", _swatch(WRONG))]


def _swatch(color: Color) -> Pixels:
    return np.full((14, 14, 3), color, dtype=np.uint8)


def _wrapped(entries: Sequence[Entry], width: int) -> list[list[Entry]]:
    """Entries in lines that are no wider than `width` pixels."""
    lines: list[list[Entry]] = [[]]
    used = 0.0
    for entry in entries:
        wide = _entry_width(entry)
        if lines[-1] and used + wide > width:
            lines.append([])
            used = 0.0
        lines[-1].append(entry)
        used += wide
    return lines


def _entry_width(entry: Entry) -> float:
    return 20 + _font(13).getlength(entry[0]) + 18


def _draw_legend_line(page: Image.Image, draw: ImageDraw.ImageDraw, line: Sequence[Entry], y: int) -> None:
    x = float(MARGIN)
    for entry in line:
        name, swatch = entry
        page.paste(Image.fromarray(swatch), (round(x), y + 6))
        draw.text((x + 20, y + 13), name, fill=INK, font=_font(13), anchor="lm")
        x += _entry_width(entry)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
