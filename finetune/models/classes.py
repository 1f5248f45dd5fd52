"""Names of the classes."""

from collections.abc import Sequence


def class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Names of the classes; numbered ones where only their count is known.

    Raises:
        ValueError: fewer than 2, more than 255 (masks are 8-bit, and one value is left to ignore), or a name twice.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes='{classes}': expected how many there are, or a list of names such as [sky,road].")
    count = classes if isinstance(classes, int) else len(classes)
    if not 2 <= count <= 255:
        raise ValueError(f"{count} classes: between 2 and 255 are possible. Background counts as a class.")
    names = tuple(f"class_{i}" for i in range(classes)) if isinstance(classes, int) else tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise ValueError(f"class names repeat: {', '.join(names)}. Give each class a name of its own.")
    return names
