"""Names of the classes."""

from collections.abc import Sequence

MOST_CLASSES = 255  # masks are 8-bit, with one value to ignore


def class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes; numbered ones if only their number is known.

    Raises:
        ValueError: if there are none or more than 255, or a name repeats.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes='{classes}': expected a number of classes, or a list of names such as [sky,road].")
    count = classes if isinstance(classes, int) else len(classes)
    if not 1 <= count <= MOST_CLASSES:
        raise ValueError(f"{count} classes: expected 1 to {MOST_CLASSES}.")
    names = tuple(f"class_{i}" for i in range(classes)) if isinstance(classes, int) else tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise ValueError(f"class names repeat: {', '.join(names)}. Give each class its own name.")
    return names
