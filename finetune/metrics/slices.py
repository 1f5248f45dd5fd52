"""Scores of slices of a data set: of the images that have something in common."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from finetune.metrics.evaluator import Row
from finetune.metrics.overlaps import ImageResults, overlap_iou

MOST_NUMBERS = 10  # different numbers that are slices of their own


def slice_rows(images: ImageResults, columns: Mapping[str, Sequence[str | float]]) -> list[Row]:
    """Return one row per slice, the worst first: its images, its mean IoU, and the limits of that, as in `interval`.

    The mean is over the classes that the images of the slice have or that were predicted.

    Args:
        images: results of each image of a data set.
        columns: a value of each image of the data set, by name; "" and NaN leave the image out. A `group` is a name,
            even if all are numbers.
    """
    rows: list[Row] = []
    for column, values in columns.items():
        given = [values[index] for index in images.seen.tolist()]
        labels = list(map(str, given)) if column == "group" else slice_labels(given)
        for label in dict.fromkeys(filter(None, labels)):
            part = ImageResults(images.seen[[each == label for each in labels]], images.overlaps)
            low, high = part.interval or (math.nan, math.nan)
            iou = float(overlap_iou(part.overlaps[part.seen].sum(0)).nanmean())
            row: Row = {"slice": column, "value": label, "images": len(part.seen), "iou": iou, "low": low, "high": high}
            rows.append(row)
    return sorted(rows, key=lambda row: (row["iou"] != row["iou"], row["iou"]))  # NaN != NaN


def slice_labels(values: Sequence[str | float]) -> list[str]:
    """Return the slice of each value: the value itself, or a third of the numbers if there are many; "" for none.

    >>> slice_labels(["day", "night", ""]), slice_labels([*range(12)])[::4]
    (['day', 'night', ''], ['0 to 3', '4 to 7', '8 to 11'])
    """
    texts = [value if isinstance(value, str) else f"{value:.5g}".replace("nan", "") for value in values]
    try:
        numbers = np.array([float(text or "nan") for text in texts])
    except ValueError:
        return texts
    texts = ["" if number != number else text for text, number in zip(texts, numbers.tolist(), strict=True)]
    given = numbers[~np.isnan(numbers)]
    if len(set(given)) <= MOST_NUMBERS:
        return texts
    limits = np.quantile(given, [1 / 3, 2 / 3])
    thirds = [given[np.searchsorted(limits, given) == third] for third in range(3)]
    names = [f"{_shown(third.min())} to {_shown(third.max())}" if len(third) else "" for third in thirds]
    places = np.searchsorted(limits, numbers).tolist()
    return [names[place] if text else "" for place, text in zip(places, texts, strict=True)]


def _shown(number: float) -> str:
    """Return a number with five digits, or all before the point, without which thirds of dates would share a name."""
    return f"{number:.5g}" if abs(number) < 1e5 else f"{number:.0f}"
