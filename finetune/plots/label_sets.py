"""Images whose pixels have several classes, drawn with one color per set of classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.plots.colors import Color, as_labels, palette

NONE = 0  # label of the pixels without a class


def label_sets(
    masks: Sequence[Tensor | NDArray[np.integer]], class_names: Sequence[str], ignore_index: int = 255
) -> tuple[list[NDArray[np.integer]], list[str], list[Color]]:
    """Return one label (H, W) per pixel and image for its set of classes, with the name and color of each set.

    A set's name joins its classes with ` + ` and its color is the mean of theirs; label 0 is the empty set, `none`. A
    pixel that is ignored for any class has the label -1.

    Args:
        masks: (K, H, W) each, of 0, 1 and `ignore_index`.
        class_names: of the K classes.
        ignore_index: label of the pixels to leave out.

    >>> labels, names, _ = label_sets([np.array([[[0, 1, 1, 255]], [[0, 0, 1, 0]]])], ["sky", "sea"])
    >>> labels[0].tolist(), names
    ([[0, 1, 2, -1]], ['none', 'sky', 'sky + sea'])
    """
    background, *colors = palette(min(len(class_names), 255) + 1)
    pixels = [as_labels(mask).reshape(len(class_names), -1) for mask in masks]
    members = np.concatenate([np.zeros((len(class_names), 1), dtype=bool), *(mask == 1 for mask in pixels)], axis=1)
    codes = np.zeros(members.shape[1], dtype=np.int64)
    for row in members:  # numbered again after each class, so that codes stay small with any number of classes
        codes = np.unique(2 * codes + row, return_inverse=True)[1]
    _, first, labels = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # the empty set, put in front above, gets the label 0
    labels = np.argsort(order)[labels][1:]
    sets = [np.flatnonzero(members[:, first[k]]).tolist() for k in order]
    names = [" + ".join(class_names[k] for k in chosen) or "none" for chosen in sets]
    mixed = [_mean([colors[k % len(colors)] for k in chosen]) if chosen else background for chosen in sets]
    ignored = np.concatenate([(mask == ignore_index).any(axis=0) for mask in pixels])
    parts = np.split(np.where(ignored, -1, labels), np.cumsum([mask.shape[1] for mask in pixels])[:-1])
    return [part.reshape(mask.shape[1:]) for part, mask in zip(parts, masks, strict=True)], names, mixed


def _mean(colors: Sequence[Color]) -> Color:
    red, green, blue = np.mean(colors, axis=0).round().astype(int).tolist()
    return red, green, blue
