"""Augmented training samples with their masks, to see what a training sees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.plots.colors import Color, Pixels, as_labels, overlay, palette
from finetune.plots.label_sets import label_sets
from finetune.plots.legend import INK, LINE, draw_legend, font, hatched, legend_entries, wrapped
from finetune.plots.panels import GAP, MARGIN, scaled_row

PER_ROW = 2  # samples side by side


def augmentation_figure(
    samples: Sequence[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    path: Path,
    ignore_index: int = 255,
    width: int = 220,
) -> None:
    """Write a page of samples: each image, and the image again below the colors of its mask.

    Args:
        samples: image, uint8 (C, H, W), and mask, uint8 (H, W) or (K, H, W); sizes may differ.
        class_names: names of the K classes.
        path: output file; its folder is created.
        ignore_index: label of the ignored pixels, which are hatched.
        width: width of an image on the page, in pixels.
    """
    masks, names, colors, ignored = _single_labels([mask for _, mask in samples], class_names, ignore_index)
    # a row of a preview has two masks
    rows = [scaled_row((image, mask, mask), width)[:2] for (image, _), mask in zip(samples, masks, strict=True)]
    lines = wrapped(
        legend_entries([mask for _, mask in rows], names, colors, ignored), 2 * PER_ROW * (width + GAP) - GAP
    )
    groups = [rows[start : start + PER_ROW] for start in range(0, len(rows), PER_ROW)]
    heights = [max(len(image) for image, _ in group) + GAP for group in groups]
    size = 2 * PER_ROW * (width + GAP) - GAP + 2 * MARGIN, sum(heights) + LINE * (1 + len(lines)) + 2 * MARGIN
    page = Image.new("RGB", size, "white")
    title = "training images as the model sees them, and their masks"
    ImageDraw.Draw(page).text((MARGIN, MARGIN), title, fill=INK, font=font(16, title))
    y = MARGIN + LINE
    for group, height in zip(groups, heights, strict=True):
        for column, (image, mask) in enumerate(group):
            x = MARGIN + 2 * column * (width + GAP)
            page.paste(Image.fromarray(image), (x, y))
            page.paste(Image.fromarray(_colored(image, mask, colors, ignored)), (x + width + GAP, y))
        y += height
    draw_legend(page, lines, MARGIN, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, compress_level=1)  # a quarter of the time


def _single_labels(
    masks: Sequence[Tensor], class_names: Sequence[str], ignore_index: int
) -> tuple[list[NDArray[np.integer]], Sequence[str], Sequence[Color], int]:
    """Return masks (H, W) with the names and colors of their labels, and the label of ignored pixels."""
    if masks[0].dim() == 3:
        return *label_sets(masks, class_names, ignore_index), -1
    return [as_labels(mask) for mask in masks], class_names, palette(len(class_names)), ignore_index


def _colored(image: Pixels, mask: NDArray[np.integer], colors: Sequence[Color], ignored: int) -> Pixels:
    return hatched(overlay(image, mask, colors, 0.6, ignored), mask == ignored)
