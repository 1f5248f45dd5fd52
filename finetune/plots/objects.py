"""Objects drawn on their image: masks in colors of their own with outlines, boxes, classes and scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.instances import Objects
from finetune.plots.colors import Color, Pixels, palette
from finetune.plots.legend import INK, LINE, font, hatched
from finetune.plots.panels import GAP, MARGIN, as_rgb

COLORS = palette(31)[1:]  # repeated where there are more objects
Cell = tuple[Tensor, Objects | None]
TITLES = ("image", "truth", "prediction")


def draw_objects(image: Tensor | Pixels, objects: Objects, class_names: Sequence[str], alpha: float = 0.45) -> Pixels:
    """Return an image (H, W, 3), uint8, with its objects.

    Where objects overlap, the one with the higher score is on top. Scores are written unless all are 1, as those of
    true objects. Ignored pixels are hatched.

    Args:
        image: uint8, (C, H, W) as a tensor or (H, W, C) as an array.
        objects: on the CPU.
        class_names: of the K classes; a single one is not written.
        alpha: opacity of the masks, 0 to 1.
    """
    pixels = as_rgb(image).copy()
    if objects.ignored is not None:
        pixels = hatched(pixels, objects.ignored.numpy())
    order, scores = objects.scores.argsort(stable=True).tolist(), bool((objects.scores < 1).any())
    for index in order:
        color, mask = np.array(COLORS[index % len(COLORS)]), objects.masks[index].numpy()
        pixels[mask] = np.rint((1 - alpha) * pixels[mask] + alpha * color).astype(np.uint8)
        pixels[mask & ~_eroded(mask)] = color
    page = Image.fromarray(pixels)
    draw = ImageDraw.Draw(page)
    for index in order:
        _label(draw, objects, index, class_names, scores, page.width)
    return np.array(page)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask (H, W) without the pixels that touch others by a side, or the edge of the image."""
    padded = np.pad(mask, 1)
    inner: NDArray[np.bool_] = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return inner


def _label(
    draw: ImageDraw.ImageDraw, objects: Objects, index: int, class_names: Sequence[str], scores: bool, width: int
) -> None:
    """Draw the box of an object, and its class and score where they are wanted."""
    left, top, right, bottom = objects.boxes[index].tolist()
    color: Color = COLORS[index % len(COLORS)]
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color)
    parts = [class_names[int(objects.labels[index])]] if len(class_names) > 1 else []
    parts += [f"{float(objects.scores[index]):.2f}"] if scores else []
    if text := " ".join(parts):
        own = font(11, text)
        _, _, across, down = draw.textbbox((0, 0), text, font=own)
        x, y = min(left, max(0, width - across - 3)), top - down - 3 if top >= down + 3 else top
        draw.rectangle((x, y, x + across + 3, y + down + 3), fill=color)
        draw.text((x + 2, y), text, fill="white" if sum(color) < 400 else INK, font=own)


def compared(image: Tensor, true: Objects, predicted: Objects) -> list[Cell]:
    """Return a row of a page: an image alone, with its true and with its predicted objects."""
    return [(image, None), (image, true), (image, predicted)]


def object_page(
    rows: Sequence[Sequence[Cell]], class_names: Sequence[str], titles: Sequence[str] = TITLES, width: int = 320
) -> Image.Image:
    """Return a page of images side by side, with their objects drawn on some of them.

    Args:
        rows: image (C, H, W), uint8, and its objects, or None to leave it as it is; those of a row have one size.
        class_names: of the K classes.
        titles: of the columns.
        width: of an image on the page, pixels.
    """
    pictures = [[_picture(*cell, class_names, width) for cell in row] for row in rows]
    columns = max(map(len, rows))
    height = 2 * MARGIN + LINE + sum(row[0].height + GAP for row in pictures)
    page = Image.new("RGB", (columns * (width + GAP) - GAP + 2 * MARGIN, height), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + GAP), MARGIN), title, fill=INK, font=font(16, title))
    y = MARGIN + LINE
    for row in pictures:
        for column, picture in enumerate(row):
            page.paste(picture, (MARGIN + column * (width + GAP), y))
        y += row[0].height + GAP
    return page


def _picture(image: Tensor, objects: Objects | None, class_names: Sequence[str], width: int) -> Image.Image:
    """Return an image, scaled before its objects are drawn, so that texts have one size on the page."""
    factor = width / image.shape[-1]
    size = width, max(1, round(image.shape[-2] * factor))
    pixels = np.asarray(Image.fromarray(as_rgb(image)).resize(size, Image.Resampling.BILINEAR))
    if objects is None:
        return Image.fromarray(pixels)
    return Image.fromarray(draw_objects(pixels, _scaled(objects, size[1], size[0]), class_names))


def _scaled(objects: Objects, height: int, width: int) -> Objects:
    """Return objects of an image that is resized; each pixel is that at its center."""
    rows = ((torch.arange(height) + 0.5) * objects.size[0] / height).long()[:, None]
    columns = ((torch.arange(width) + 0.5) * objects.size[1] / width).long()
    factors = torch.tensor([width / objects.size[1], height / objects.size[0]]).repeat(2)
    ignored = None if objects.ignored is None else objects.ignored[rows, columns]
    return replace(objects, masks=objects.masks[:, rows, columns], boxes=objects.boxes * factors, ignored=ignored)
