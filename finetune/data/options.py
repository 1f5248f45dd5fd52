"""Options that several data sources take: classes, and how masks encode them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.files import MaskFile
from finetune.data.masks.values import (
    COLOR,
    MAX_MASK_VALUE,
    MIN_MASK_VALUE,
    OTHERS,
    VOID,
    IgnoredValues,
    MaskValues,
    Value,
    as_values,
    ignored_label,
    is_color,
    value_groups,
)
from finetune.io.messages import shortlist

Classes = int | Sequence[str] | Mapping[str, Any] | None  # a mapping gives the file values of each name


def named_classes(classes: Classes) -> tuple[str, ...]:
    """Return the names of the classes: numbered ones for a count, none for None.

    >>> named_classes(2), named_classes(["sky", "road"]), named_classes({"sky": 7}), named_classes(None)
    (('class_0', 'class_1'), ('sky', 'road'), ('sky',), ())

    Raises:
        ValueError: `classes` is a single text.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes='{classes}': expected their number, or a list of names such as [sky,road].")
    if isinstance(classes, int):
        return tuple(f"class_{index}" for index in range(classes))
    return tuple(map(str, classes or ()))


@dataclass(frozen=True)
class MaskEncoding:
    """How the values in mask files encode classes.

    Attributes:
        class_names: names of the classes; empty if not known yet.
        mask_values: file values of each class; None if the files hold class indices.
        ignored: file values of the pixels to leave out.
        snap: whether other values become the most similar one nearby.
        divisor: as for `MaskFile`.
    """

    class_names: tuple[str, ...]
    mask_values: MaskValues | None
    ignored: IgnoredValues
    snap: bool
    divisor: int = 1

    @property
    def ignore_index(self) -> int:
        """Label of the pixels to leave out, in decoded masks."""
        return ignored_label(self.mask_values, self.ignored)

    def file(self, path: Path) -> MaskFile:
        """Return a mask file in this encoding."""
        return MaskFile(path, self.mask_values, self.ignored, self.snap, self.divisor)


def mask_encoding(
    classes: Classes,
    ignore_index: IgnoredValues | None = None,
    mask_values: MaskValues | None = None,
    snap: bool | None = None,
    divisor: int = 1,
) -> MaskEncoding:
    """Check the options of a source, and return the encoding that they describe.

    Args:
        classes: as for `named_classes`; a mapping gives what `mask_values` gives, by name.
        ignore_index: as for `read_mask`; None for 255.
        mask_values: as for `read_mask`.
        snap: as for `read_mask`; None for no.
        divisor: as for `read_mask`.

    Raises:
        ValueError: options that contradict each other, or values that no file can have.
    """
    if isinstance(classes, Mapping):
        if mask_values is not None:
            raise ValueError(f"data.mask_values={list(mask_values)}: data.classes gives the values too. Leave one out.")
        mask_values = list(classes.values())
    names, ignored = named_classes(classes), VOID if ignore_index is None else ignore_index
    checked = _checked_mask_values(mask_values, ignored, len(names))
    if snap and checked is None:
        raise ValueError("data.snap=true needs the values to snap to: list them in data.mask_values.")
    if divisor < 1 or (snap and divisor > 1):
        raise ValueError(f"divisor={divisor}: expected 1, or 1000 for class * 1000 + number, without data.snap.")
    return MaskEncoding(names, checked, ignored, bool(snap), divisor)


def check_ignore_index(ignore_index: int) -> None:
    """Raise ValueError if a uint8 mask cannot hold the label."""
    if not 0 <= ignore_index <= 255:
        raise ValueError(f"ignore_index={ignore_index}: masks are 8-bit, so expected 0 to 255. Use 255.")


def _checked_mask_values(
    mask_values: MaskValues | None, ignored: IgnoredValues, classes: int
) -> tuple[Value | tuple[Value, ...], ...] | None:
    """Return the file values of each class as tuples, which can be compared.

    Args:
        mask_values: file values of each class; None if the files hold class indices.
        ignored: file values of the pixels to leave out.
        classes: number of classes; 0 if it is not known yet.

    Raises:
        ValueError: a file value stands for two classes, or the values are not those of all classes; or no file can hold
            the ignored value.
    """
    for value in as_values(ignored):
        _check_value("data.ignore_index", value)
    if mask_values is None:
        if colors := [value for value in as_values(ignored) if is_color(value)]:
            raise ValueError(
                f"data.ignore_index has the color {colors[0]}, but the masks are read by their numbers. Give its "
                f"number, or list the colors of the classes in data.mask_values."
            )
        return None
    if not mask_values or not all(value_groups(mask_values)):
        raise ValueError(f"data.mask_values={list(mask_values)}: expected the file values of each class.")
    values = [value for group in value_groups(mask_values) for value in group]
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            _check_value("data.mask_values", value)
    told = [value for value in values if value != OTHERS] + [value for value in as_values(ignored) if value != 255]
    if len(set(map(is_color, told))) > 1:
        raise ValueError(
            f"data.mask_values={list(mask_values)} with data.ignore_index={ignored} mixes colors and numbers. Give all "
            f"as colors such as '#ff00ff', or all as numbers."
        )
    counts = Counter(value.lower() if isinstance(value, str) else value for value in values)
    if repeated := [value for value, count in counts.items() if count > 1]:
        raise ValueError(
            f"data.mask_values={list(mask_values)} has {shortlist(repeated)} more than once: which class is it? List "
            f"each file value once, in the order of the classes; several values of one class as [0,[1,2]], and a color "
            f"as '#ff00ff'."
        )
    if classes and len(mask_values) != classes:
        raise ValueError(
            f"data.mask_values={list(mask_values)} is for {len(mask_values)} classes, but data.classes says {classes}. "
            f"List one entry per class, in the order of the classes; several values of one class as [0,[1,2]]."
        )
    return tuple(group if isinstance(group, int | str) else tuple(group) for group in mask_values)


def _check_value(setting: str, value: object) -> None:
    if isinstance(value, str) and (value == OTHERS or COLOR.fullmatch(value)):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"{setting} has {value}: expected a number, a color such as '#ff00ff', or '*' for all values not listed."
        )
    if not MIN_MASK_VALUE <= value <= MAX_MASK_VALUE:
        raise ValueError(
            f"{setting}={value}: expected a value of the masks, from {MIN_MASK_VALUE:,} to {MAX_MASK_VALUE:,}."
        )
