"""From the values in a mask file to class indices, with one label for what is ignored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.data.records import DataError
from finetune.io.messages import shortlist

MAX_MASK_VALUE = 2**24 - 1  # largest file value that may stand for a class
MIN_MASK_VALUE = -32_768  # smallest one, of signed 16-bit files
MaskValues = Sequence[int | Sequence[int]]


def ignored_label(mask_values: MaskValues | None, ignore_index: int) -> int:
    """Return the label of ignored pixels in decoded masks: the file's own if it is no class and fits into 8 bits.

    >>> ignored_label(None, 0), ignored_label([1, 2, 3], 0), ignored_label([0, 1], 9), ignored_label(None, -1)
    (0, 255, 9, 255)
    """
    classes = 0 if mask_values is None else len(mask_values)
    return ignore_index if classes <= ignore_index <= 255 else 255


def move_ignored(values: npt.NDArray[np.integer], ignore_index: int, path: Path) -> npt.NDArray[np.integer]:
    """Return class indices with 255 instead of an ignored value that 8 bits cannot hold."""
    if (values == 255).any():
        raise DataError(
            f"mask '{path}' has the value 255 next to data.ignore_index={ignore_index}, and 8-bit labels have no room "
            f"for both. List the file's values in data.mask_values, in the order of the classes."
        )
    return np.where(values == ignore_index, 255, values)


def class_indices(
    values: npt.NDArray[np.integer], mask_values: MaskValues, ignore_index: int, path: Path
) -> npt.NDArray[np.uint8]:
    """Return file values as class indices, through a lookup table."""
    by_value = {ignore_index: ignored_label(mask_values, ignore_index)}
    by_value |= {value: index for index, group in enumerate(value_groups(mask_values)) for value in group}
    low, high = min(0, *by_value), max(*by_value, 65_535)
    if low < MIN_MASK_VALUE or high > MAX_MASK_VALUE:
        raise DataError(
            f"data.mask_values={_plain(mask_values)}: expected values from {MIN_MASK_VALUE:,} to {MAX_MASK_VALUE:,}."
        )
    # long enough for the settings and for 16 bit, whatever the file holds; the last entry stands for all other values
    table: npt.NDArray[np.int16] = np.full(high - low + 2, -1, dtype=np.int16)
    for value, index in by_value.items():
        table[value - low] = index
    is_in_range = low == 0 and values.itemsize < 4
    classes: npt.NDArray[np.int16] = table[values if is_in_range else _positions(values, low, high)]
    if (classes < 0).any():
        distinct, counts = np.unique(values, return_counts=True)
        counted = zip(distinct.tolist(), counts.tolist(), strict=True)
        unknown = shortlist(f"{v} ({n:,} px)" for v, n in counted if v not in by_value)
        raise DataError(
            f"mask '{path}' has values that are neither in data.mask_values={_plain(mask_values)} nor "
            f"data.ignore_index={ignore_index}: {unknown}. Add them, or correct the mask."
        )
    return classes.astype(np.uint8)


def _positions(values: npt.NDArray[np.integer], low: int, high: int) -> npt.NDArray[np.int64]:
    """Return the position of each value in a table from low to high; all others have the position after the last."""
    inside = (values >= low) & (values <= high)
    return np.where(inside, values.astype(np.int64) - low, high - low + 1)


def value_groups(mask_values: MaskValues) -> list[list[int]]:
    """Return the file values of each class.

    >>> value_groups([0, [1, 2]])
    [[0], [1, 2]]
    """
    return [[group] if isinstance(group, int) else list(group) for group in mask_values]


def _plain(mask_values: MaskValues) -> list[int | list[int]]:
    return [group[0] if len(group) == 1 else group for group in value_groups(mask_values)]
