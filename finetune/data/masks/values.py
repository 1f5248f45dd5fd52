"""The values that stand for classes in mask files: gray values, palette indices and colors."""

import re
from collections.abc import Iterable, Sequence

from finetune.data.records import DataError

VOID = 255  # the usual value of pixels to leave out
OTHERS = "*"  # all values that are not listed
MAX_MASK_VALUE = 2**24 - 1  # largest file value that may stand for a class
MIN_MASK_VALUE = -32_768  # smallest one, of signed 16-bit files
COLOR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)

Value = int | str  # a gray value or palette index, a color such as "#ff00ff", or OTHERS
MaskValues = Sequence[Value | Sequence[Value]]  # by class: one value, or several
IgnoredValues = Value | Sequence[Value]


def value_groups(mask_values: MaskValues) -> list[list[Value]]:
    """Return the file values of each class.

    >>> value_groups([0, [1, 2], "#ff0000"])
    [[0], [1, 2], ['#ff0000']]
    """
    return [as_values(group) for group in mask_values]


def as_values(values: IgnoredValues) -> list[Value]:
    """Return one value or several as a list.

    >>> as_values(255), as_values([0, 255])
    ([255], [0, 255])

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(values, int | str | Sequence):
        raise ValueError(
            f"{values} is no value of masks: expected a number, a color such as '#ff00ff', or a list of them."
        )
    return [values] if isinstance(values, int | str) else list(values)


def ignored_label(mask_values: MaskValues | None, ignored: IgnoredValues) -> int:
    """Return the label of ignored pixels in decoded masks: the file's own if it is no class and fits into 8 bits.

    >>> ignored_label(None, 0), ignored_label([1, 2, 3], 0), ignored_label([0, 1], 9), ignored_label(None, -1)
    (0, 255, 9, 255)
    >>> ignored_label(None, [0, 255]), ignored_label(["#000000", "#ff0000"], "#ffffff")
    (0, 255)
    """
    classes = 0 if mask_values is None else len(mask_values)
    fitting = [value for value in as_values(ignored) if isinstance(value, int) and classes <= value <= 255]
    return fitting[0] if fitting else 255


def is_color(value: Value) -> bool:
    """Return whether a value is a color, such as `#ff00ff`."""
    return isinstance(value, str) and COLOR.fullmatch(value) is not None


def has_colors(mask_values: MaskValues) -> bool:
    """Return whether classes are told apart by colors instead of numbers."""
    return any(is_color(value) for group in value_groups(mask_values) for value in group)


def color_name(code: int) -> str:
    """Return a color of 24 bits, red first, as text.

    >>> color_name(0x00FF10)
    '#00ff10'
    """
    return f"#{code:06x}"


def gray_level(value: Value) -> Value:
    """Return a gray color as the number that it has in a gray mask; other values as they are.

    >>> gray_level("#ffffff"), gray_level("#ff0000"), gray_level(7)
    (255, '#ff0000', 7)
    """
    if not is_color(value):
        return value
    number = code(value)
    return number & 255 if number == (number & 255) * 0x010101 else value


def value_name(code: int, colored: bool) -> Value:
    """Return a number from a mask as the setting that stands for it."""
    return color_name(code) if colored else code


def code(value: Value) -> int:
    """Return the number that a value has in a mask; colors have 24 bits, red first.

    >>> code(7), code("#00ff10")
    (7, 65296)
    """
    return int(value[1:], 16) if isinstance(value, str) else value


def labels_by_code(mask_values: MaskValues, ignored: IgnoredValues) -> tuple[dict[int, int], int]:
    """Return the label of each number in a mask, and that of all other numbers; -1 if they have none.

    >>> labels_by_code([0, [1, 2]], 255), labels_by_code([0, "*"], 255)
    (({255: 255, 0: 0, 1: 1, 2: 1}, -1), ({255: 255, 0: 0}, 1))
    >>> labels_by_code(["#000000", "#0000ff"], 255)
    ({0: 0, 255: 1}, -1)
    """
    label = ignored_label(mask_values, ignored)
    left_out = [value for value in as_values(ignored) if isinstance(value, str) or not has_colors(mask_values)]
    groups = [(label, left_out), *enumerate(value_groups(mask_values))]
    others = [index for index, group in groups if OTHERS in group]
    return {code(v): index for index, group in groups for v in group if v != OTHERS}, others[-1] if others else -1


def check_codes(codes: Iterable[int], setting: str) -> None:
    """Raise DataError if a number cannot be looked up, because no mask file has it."""
    if not all(MIN_MASK_VALUE <= number <= MAX_MASK_VALUE for number in codes):
        raise DataError(f"{setting}: expected values from {MIN_MASK_VALUE:,} to {MAX_MASK_VALUE:,}.")
