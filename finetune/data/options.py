"""Options that several data sources take."""

from collections.abc import Sequence


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
