"""Options that several data sources take."""

from collections import Counter
from collections.abc import Sequence

from finetune.data.mask_values import MAX_MASK_VALUE, MIN_MASK_VALUE, MaskValues, value_groups
from finetune.io.messages import shortlist


def named_classes(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes: numbered ones for a count, none for None.

    >>> named_classes(2), named_classes(["sky", "road"]), named_classes(None)
    (('class_0', 'class_1'), ('sky', 'road'), ())

    Raises:
        ValueError: `classes` is a single text.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes='{classes}': expected their number, or a list of names such as [sky,road].")
    if isinstance(classes, int):
        return tuple(f"class_{index}" for index in range(classes))
    return tuple(map(str, classes or ()))


def check_ignore_index(ignore_index: int) -> None:
    """Raise ValueError if a uint8 mask cannot hold the label."""
    if not 0 <= ignore_index <= 255:
        raise ValueError(f"ignore_index={ignore_index}: masks are 8-bit, so expected 0 to 255. Use 255.")


def checked_mask_values(mask_values: MaskValues | None, ignore_index: int, classes: int) -> MaskValues | None:
    """Return the file values of each class as tuples, which can be compared.

    Args:
        mask_values: file values of each class; None if the files hold class indices.
        ignore_index: file value of the pixels to leave out.
        classes: number of classes; 0 if it is not known yet.

    Raises:
        ValueError: a file value stands for two classes, or the values are not those of all classes; or no file can hold
            the ignored value.
    """
    if not MIN_MASK_VALUE <= ignore_index <= MAX_MASK_VALUE:
        raise ValueError(
            f"data.ignore_index={ignore_index}: expected a value of the masks, from {MIN_MASK_VALUE:,} to "
            f"{MAX_MASK_VALUE:,}."
        )
    if mask_values is None:
        return None
    if not mask_values or not all(value_groups(mask_values)):
        raise ValueError(f"data.mask_values={list(mask_values)}: expected the file values of each class.")
    counts = Counter(value for group in value_groups(mask_values) for value in group)
    if repeated := [value for value, count in counts.items() if count > 1]:
        raise ValueError(
            f"data.mask_values={list(mask_values)} has {shortlist(repeated)} more than once: which class is it? List "
            f"each file value once, in the order of the classes; several values of one class as [0,[1,2]]."
        )
    if classes and len(mask_values) != classes:
        raise ValueError(
            f"data.mask_values={list(mask_values)} is for {len(mask_values)} classes, but data.classes says {classes}. "
            f"List one entry per class, in the order of the classes; several values of one class as [0,[1,2]]."
        )
    return tuple(group if isinstance(group, int) else tuple(group) for group in mask_values)
