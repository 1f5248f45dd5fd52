"""The values of all masks of a data set, as numbers or as colors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.data.masks.contents import MaskContents
from finetune.data.masks.values import Value, color_name
from finetune.data.records import DataError
from finetune.io.messages import shortlist


@dataclass(frozen=True)
class Values:
    """The values of all masks.

    Attributes:
        pixels: of each value.
        interior: pixels of each value whose four neighbors have the same value.
        colored: whether values are colors.
        by_mask: the values of each mask.
        lossy: whether files were compressed as photographs.
        nearly_interior: pixels of each value whose four neighbors have about the same value, of lossy files.
    """

    pixels: Mapping[int, int]
    interior: Mapping[int, int]
    colored: bool
    by_mask: Sequence[frozenset[int]]
    lossy: bool
    nearly_interior: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Return the number of pixels."""
        return sum(self.pixels.values())

    def name(self, value: int) -> Value:
        """Return a value as settings have it."""
        return color_name(value) if self.colored else value

    def level(self, value: int) -> int | None:
        """Return a value as a number, also that of a gray color; None for other colors."""
        if not self.colored:
            return value
        return value & 255 if value == (value & 255) * 0x010101 else None

    def names(self, values: Sequence[int]) -> str:
        """Return values as text."""
        return shortlist((str(self.name(value)) for value in values), 12)

    def share(self, values: Sequence[int]) -> float:
        """Return the fraction of all pixels that have one of these values."""
        return sum(self.pixels[value] for value in values) / max(1, self.total)


def collect(contents: Sequence[MaskContents]) -> tuple[Values, list[str]]:
    """Return the values of all masks, as numbers or as colors, and a line that says why."""
    colored, lines = _colors_decide(contents)
    pixels, interior, nearly, by_mask = Counter[int](), Counter[int](), Counter[int](), []
    for mask in contents:
        renamed = mask.by_color if colored else {value: value for value in mask.pixels}
        by_mask.append(frozenset(renamed.values()))
        for value, count in mask.pixels.items():
            pixels[renamed[value]] += count
            interior[renamed[value]] += mask.interior.get(value, 0)
            nearly[renamed[value]] += mask.nearly_interior.get(value, 0)
    return Values(pixels, interior, colored, by_mask, any(mask.lossy for mask in contents), nearly), lines


def _colors_decide(contents: Sequence[MaskContents]) -> tuple[bool, list[str]]:
    """Return whether the colors of masks are their classes, and not their numbers."""
    kinds = Counter(mask.kind for mask in contents)
    if kinds["color"]:
        return True, [f"{kinds['color']:,} masks have colors, so colors are the classes (data.mask_values)"]
    if not kinds["palette"]:
        return False, []
    renamed = [mask.palette if mask.kind == "palette" else mask.by_color for mask in contents]
    pairs = sorted({pair for mask in renamed for pair in mask.items()})
    index, color = (_first_repeated([pair[side] for pair in pairs]) for side in (0, 1))
    merges = any(len(set(mask.values())) < len(mask) for mask in renamed)  # two indices of one mask have one color
    if index is None and (color is None or merges):
        return False, ["the masks have one palette, so its indices are the classes (data.mask_values)"]
    if index is not None:
        what, is_both = f"index {index}", [color_name(c) for i, c in pairs if i == index]
    else:
        what, is_both = f"color {color_name(color or 0)}", [f"index {i}" for i, c in pairs if c == color]
    differ = f"the palettes of the masks differ ({what} is {' and '.join(is_both[:2])})"
    if color is None or merges:
        raise DataError(_indices_or_colors(differ, pairs))
    return True, [f"{differ}, so colors and not indices are the classes (data.mask_values)"]


def _first_repeated(numbers: Sequence[int]) -> int | None:
    return next((number for number, count in sorted(Counter(numbers).items()) if count > 1), None)


def _indices_or_colors(differ: str, pairs: Sequence[tuple[int, int]]) -> str:
    indices = str(sorted({index for index, _ in pairs})).replace(" ", "")
    colors = str(sorted({color_name(color) for _, color in pairs})).replace(" ", "")
    return (
        f"{differ}, and it is not clear whether indices or colors are the classes. Set data.mask_values={indices} to "
        f"take the indices, or data.mask_values={colors} to take the colors."
    )
