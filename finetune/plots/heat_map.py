"""Image, prediction and heat map side by side, drawn with Pillow."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from finetune.plots.colors import Color, Labels, Pixels, as_labels, overlay, palette
from finetune.plots.label_sets import NONE, label_sets
from finetune.plots.legend import INK, LINE, draw_legend, font, legend_entries, swatch, wrapped
from finetune.plots.panels import GAP, MARGIN, WRONG, light_gray, scaled_row
from finetune.plots.text import shorten

HIGH, LOW, NEUTRAL = WRONG, (0, 114, 178), (190, 190, 190)  # colors; the last one stands for the gray of the image
WIDTH = 360  # pixels: of an image on the page


def heat_map_page(
    image: Tensor, prediction: Labels, heat: NDArray[np.float32], region: Labels, names: Sequence[str], title: str
) -> Image.Image:
    """Return a page of an image, its prediction, and a heat map in which a region is outlined.

    Args:
        image: uint8, (C, H, W).
        prediction: class indices (H, W), or masks (K, H, W) of 0 and 1.
        heat: (H, W), any values.
        region: 1 in the pixels (H, W) that are explained, 0 elsewhere.
        names: of the K classes.
        title: of the heat map.
    """
    labels, colors, unlabeled = as_labels(prediction), palette(len(names)), -1
    if labels.ndim == 3:
        ((labels,), names, colors), unlabeled = label_sets([labels], names), NONE
    pixels, scaled, inside = scaled_row((image, labels, region), WIDTH)
    outline = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.FIND_EDGES)) > 0
    shown = np.asarray(Image.fromarray(heat).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))
    heated = np.where(outline[..., None], np.array(INK, dtype=np.uint8), heat_overlay(pixels, shown))
    columns = {
        "image": pixels,
        "prediction": overlay(pixels, scaled, colors, ignore_index=unlabeled),
        shorten(title, 40): heated,
    }

    lowest, highest = heat.min(), heat.max()
    extremes: list[tuple[float, Color]] = [
        (highest, HIGH if highest > 0 else NEUTRAL),
        (lowest, LOW if lowest < 0 else NEUTRAL),
    ]
    entries = [*((f"{value:.3g}", swatch(color)) for value, color in extremes), ("explained", swatch(INK))]
    inner, top = 3 * WIDTH + 2 * GAP, MARGIN + LINE
    lines = wrapped([*legend_entries([scaled], names, colors, -1), *entries], inner)
    bottom = top + len(pixels) + GAP
    page = Image.new("RGB", (inner + 2 * MARGIN, bottom + LINE * len(lines) + MARGIN), "white")
    for index, (text, column) in enumerate(columns.items()):
        left = MARGIN + index * (WIDTH + GAP)
        ImageDraw.Draw(page).text((left, MARGIN), text, fill=INK, font=font(16, text))
        page.paste(Image.fromarray(column), (left, top))
    draw_legend(page, lines, MARGIN, bottom)
    return page


def heat_overlay(image: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Return the image (H, W, 3) in light gray, with high values (H, W) in red, and those below 0 in blue.

    Gray stands for 0, or for the lowest value if that is higher.
    """
    shifted = heat - max(float(heat.min()), 0.0)
    opacity = (np.abs(shifted) / max(float(np.abs(shifted).max()), 1e-30))[..., None]
    color = np.where(shifted[..., None] > 0, np.array(HIGH), np.array(LOW))
    blend: Pixels = np.rint((1 - opacity) * light_gray(image) + opacity * color).astype(np.uint8)
    return blend
