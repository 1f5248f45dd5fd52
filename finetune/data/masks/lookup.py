"""Look up the classes of the values in a mask."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.data.masks.snapping import snap_unknown
from finetune.data.masks.values import (
    IgnoredValues,
    MaskValues,
    check_codes,
    has_colors,
    ignored_label,
    labels_by_code,
    value_groups,
    value_name,
)
from finetune.data.records import DataError
from finetune.io.messages import shortlist

Labels = npt.NDArray[np.int16]
UNKNOWN = -1


def move_ignored(
    values: npt.NDArray[np.integer], ignored: list[int], label: int, path: Path | str
) -> npt.NDArray[np.int64]:
    """Return class indices with one label instead of all ignored values.

    Raises:
        DataError: the mask has the label for something that is not ignored.
    """
    if label not in ignored and (values == label).any():
        raise DataError(
            f"mask '{path}' has the value {label} next to data.ignore_index={shortlist(ignored)}, and 8-bit labels "
            f"have no room for both. List the file's values in data.mask_values, in the order of the classes."
        )
    return np.where(np.isin(values, ignored), label, values).astype(np.int64)


def class_indices(
    values: npt.NDArray[np.integer],
    mask_values: MaskValues,
    ignored: IgnoredValues,
    path: Path | str,
    snap: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return the values of a mask as class indices.

    Args:
        values: gray values, palette indices, or 24-bit colors with red first (H, W).
        mask_values: values of each class.
        ignored: values of the pixels to leave out.
        path: of the mask, for messages.
        snap: whether other values become the most similar listed one; see `snap_unknown`.

    Returns:
        uint8 (H, W), with `ignored_label(mask_values, ignored)` for the pixels to leave out.

    Raises:
        DataError: a value is not listed, unless they are snapped.
    """
    by_code, others = labels_by_code(mask_values, ignored)
    check_codes(by_code, f"data.mask_values={plain(mask_values)}")
    colored = has_colors(mask_values)
    labels = _by_color(values, by_code, others) if colored else _by_number(values, by_code, others)
    if others == UNKNOWN and (labels < 0).any():
        if not snap:
            raise DataError(_unlisted(values, by_code, mask_values, ignored, path))
        labels = snap_unknown(labels, values, by_code, colored, ignored_label(mask_values, ignored))
    return labels.astype(np.uint8)


def _by_number(values: npt.NDArray[np.integer], by_code: Mapping[int, int], others: int) -> Labels:
    low, high = min(0, *by_code), max(*by_code, 65_535)
    # long enough for the settings and for 16 bit, whatever the file holds; the last entry stands for all other values
    table: Labels = np.full(high - low + 2, others, dtype=np.int16)
    for number, label in by_code.items():
        table[number - low] = label
    is_in_range = low == 0 and values.itemsize < 4
    labels: Labels = table[values if is_in_range else _positions(values, low, high)]
    return labels


def _positions(values: npt.NDArray[np.integer], low: int, high: int) -> npt.NDArray[np.int64]:
    """Return the position of each value in a table from low to high; all others have the position after the last."""
    inside = (values >= low) & (values <= high)
    return np.where(inside, values.astype(np.int64) - low, high - low + 1)


def _by_color(values: npt.NDArray[np.integer], by_code: Mapping[int, int], others: int) -> Labels:
    if len(by_code) > 255:
        raise DataError(
            f"{len(by_code)} colors stand for classes; at most 255 are told apart. Merge some in the masks."
        )
    labels: Labels = np.array([others, *by_code.values()], dtype=np.int16)[_color_table(tuple(by_code))[values]]
    return labels


@lru_cache(maxsize=4)
def _color_table(codes: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return color -> its position in codes, from 1; 0 for others. Memory pages that no color is in stay unused."""
    table = np.zeros(1 << 24, dtype=np.uint8)
    for position, number in enumerate(codes, start=1):
        table[number & 0xFFFFFF] = position
    return table


def _unlisted(
    values: npt.NDArray[np.integer],
    by_code: Mapping[int, int],
    mask_values: MaskValues,
    ignored: IgnoredValues,
    path: Path | str,
) -> str:
    distinct, counts = np.unique(values, return_counts=True)
    colored = has_colors(mask_values)
    counted = sorted(zip(distinct.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1] if colored else 0)
    unknown = shortlist(f"{value_name(v, colored)} ({n:,} px)" for v, n in counted if v not in by_code)
    return (
        f"mask '{path}' has values that are neither in data.mask_values={plain(mask_values)} nor "
        f"data.ignore_index={ignored}: {unknown}. Add them, or correct the mask; data.snap=true makes each the most "
        f"similar listed value."
    )


def plain(mask_values: MaskValues) -> list[object]:
    """Return mask values as lists, as a setting has them."""
    return [group[0] if len(group) == 1 else group for group in value_groups(mask_values)]
