"""Image, truth, prediction and errors side by side, drawn with Pillow: fast enough for every validation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.plots.colors import Color, Labels, Pixels, as_labels, colorize
from finetune.plots.legend import INK, LINE, draw_legend, font, hatched, legend_entries, swatch, wrapped

WRONG: Color = (214, 39, 40)
TITLES = ("image", "truth", "prediction", "errors")

GAP, MARGIN = 6, 14  # pixels: between images, around the page
MAX_ASPECT_RATIO = 1.5  # largest height of an image, in widths of its column

Row = tuple[Tensor | Pixels, Labels, Labels]
ScaledRow = tuple[Pixels, NDArray[np.integer], NDArray[np.integer]]


def panel(
    image: Tensor | Pixels,
    truth: Labels,
    prediction: Labels,
    colors: Sequence[Color],
    ignore_index: int = 255,
) -> Image.Image:
    """Return a row of four images at full size: image, truth, prediction, errors.

    Args:
        image: uint8, (C, H, W) as a tensor or (H, W, C) as an array; 1, 3 or more channels.
        truth: class indices (H, W); ignored pixels are hatched.
        prediction: class indices (H, W).
        colors: one color per class.
        ignore_index: label of the ignored pixels.
    """
    pixels = as_rgb(image)
    columns = (
        pixels,
        hatched(colorize(truth, colors, ignore_index), as_labels(truth) == ignore_index),
        colorize(prediction, colors, ignore_index),
        error_map(pixels, truth, prediction, ignore_index),
    )
    height, width = pixels.shape[:2]
    row = Image.new("RGB", (4 * width + 3 * GAP, height), "white")
    for index, column in enumerate(columns):
        row.paste(Image.fromarray(column), (index * (width + GAP), 0))
    return row


def error_map(image: Pixels, truth: Labels, prediction: Labels, ignore_index: int = 255) -> Pixels:
    """Return the image (H, W, 3) in light gray, with wrong pixels in red and ignored pixels hatched."""
    ignored = as_labels(truth) == ignore_index
    wrong = as_labels(truth) != as_labels(prediction)
    return hatched(np.where(wrong[..., None], np.array(WRONG, dtype=np.uint8), light_gray(image)), ignored)


def uncertainty_map(image: Pixels, values: NDArray[np.floating]) -> Pixels:
    """Return the image (H, W, 3) in light gray, the redder the more uncertain; values (h, w), 0..1, are resized."""
    size = image.shape[1], image.shape[0]
    scaled = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    share = scaled.clip(0, 1)[..., None]
    mixed: Pixels = np.rint((1 - share) * light_gray(image) + share * np.array(WRONG)).astype(np.uint8)
    return mixed


def light_gray(image: Pixels) -> Pixels:
    """Return an image (H, W, 3) in light gray, to color parts of it."""
    gray = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return np.repeat(gray // 2 + 112, 3, axis=-1)


def preview(
    rows: Sequence[Row],
    class_names: Sequence[str],
    colors: Sequence[Color],
    ignore_index: int = 255,
    titles: Sequence[str] = TITLES,
    width: int = 260,
    uncertainty: Sequence[NDArray[np.floating]] = (),
) -> Image.Image:
    """Return a page of panels below each other, with titles above and a legend below.

    Args:
        rows: image, truth and prediction of each panel, as in `panel`; sizes may differ.
        class_names: names of the K classes.
        colors: one color per class.
        ignore_index: label of the ignored pixels.
        titles: titles of the four columns.
        width: width of an image on the page, in pixels.
        uncertainty: of the pixels (H, W) of each panel, 0..1, for a fifth column; empty for four columns.
    """
    scaled = [scaled_row(row, width) for row in rows]
    panels = [panel(*row, colors, ignore_index) for row in scaled]
    titles = (*titles, "uncertainty") if len(uncertainty) else titles
    inner = len(titles) * (width + GAP) - GAP
    entries = legend_entries([mask for _, *masks in scaled for mask in masks], class_names, colors, ignore_index)
    lines = wrapped([*entries, ("wrong", swatch(WRONG))], inner)

    body = sum(row.height + GAP for row in panels)
    page = Image.new("RGB", (inner + 2 * MARGIN, 2 * MARGIN + LINE + body + LINE * len(lines)), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + GAP), MARGIN), title, fill=INK, font=font(16, title))
    y = MARGIN + LINE
    for index, row in enumerate(panels):
        _paste_in_columns(page, row, y, width)
        if len(uncertainty):
            last = uncertainty_map(scaled[index][0], uncertainty[index])
            page.paste(Image.fromarray(last), (MARGIN + len(TITLES) * (width + GAP), y))
        y += row.height + GAP
    draw_legend(page, lines, MARGIN, y)
    return page


def as_rgb(image: Tensor | Pixels) -> Pixels:
    """Return an array (H, W, 3) from a tensor (C, H, W) or an array (H, W, C) or (H, W), with at most 3 channels.

    Raises:
        ValueError: the image is not uint8.
    """
    pixels = image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) else np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8:
        raise ValueError(f"the image is {pixels.dtype}, expected uint8 in 0..255. Undo its normalization first.")
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def scaled_row(row: Row, width: int) -> ScaledRow:
    """Scale a row to the width of a column; labels are scaled by nearest neighbor."""
    image, truth, prediction = as_rgb(row[0]), as_labels(row[1]), as_labels(row[2])
    height = image.shape[0] / image.shape[1] * width
    scale = min(1.0, MAX_ASPECT_RATIO * width / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return pixels, _nearest(truth, size), _nearest(prediction, size)


def _nearest(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    height, width = labels.shape
    rows = (np.arange(size[1]) + 0.5) * height / size[1]
    columns = (np.arange(size[0]) + 0.5) * width / size[0]
    nearest: NDArray[np.integer] = labels[rows.astype(int)[:, None], columns.astype(int)]
    return nearest


def _paste_in_columns(page: Image.Image, row: Image.Image, y: int, width: int) -> None:
    """Paste each image of a row under its title; tall images are narrower than their column."""
    image_width = (row.width - 3 * GAP) // 4
    for column in range(4):
        left = column * (image_width + GAP)
        page.paste(row.crop((left, 0, left + image_width, row.height)), (MARGIN + column * (width + GAP), y))
