"""Work out what the values in masks mean: classes, void, colors, soft edges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.data.masks.contents import JPEG_NOISE, MaskContents
from finetune.data.masks.values import Value, code, color_name, is_color
from finetune.data.recognition.legends import Legend
from finetune.data.records import DataError
from finetune.io.messages import shortlist

VOID = 255
MOST_CLASSES = 255
FEW_VALUES = 16  # so many different values are looked at one by one
SOFT = 0.05  # highest share of the pixels of a value with equal neighbors, for it to be a blend at a border
AREA = 2e-4  # lowest share of the pixels for a value to be pure where there are many
PURE = 0.2  # lowest share of its pixels with equal neighbors
OWN_AREA = 0.5  # such a share that JPEG does not make near another value
NEAR = 32  # distance of values that JPEG makes of one
MOST_PURE = 64
UNEXPLAINED = 0.01  # highest share of pixels with values that are no blends of pure ones
MATTE = 0.5  # share of blends among the pixels of objects from which they are no soft edge


@dataclass(frozen=True)
class Encoding:
    """Settings of `data` that say what the values in masks mean, and a line for each conclusion."""

    settings: Mapping[str, Any]
    lines: list[str] = field(default_factory=list)


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


def work_out_encoding(
    contents: Sequence[MaskContents],
    legends: Sequence[Legend] = (),
    ignored: Sequence[Value] | None = None,
    are_classes: bool = False,
) -> Encoding:
    """Return the settings that read masks, worked out from all of their values.

    Args:
        contents: of all masks.
        legends: files that name classes.
        ignored: values that are known to be void; None if that is to be worked out, too.
        are_classes: whether values are known to stand for classes, and not for objects.

    Raises:
        DataError: the values leave a doubt; the message has the settings between which to choose.
    """
    values, lines = collect(contents)
    by_legend = (_by_codes(_codes(legend), values) for legend in legends if values.colored)
    labels, snapped = next((pair for pair in by_legend if pair), None) or _pure_values(values, are_classes)
    if snapped:
        lines.append(
            f"{values.share(snapped):.1%} of the mask pixels have one of {len(snapped)} values in between, at soft "
            f"edges{' and from JPEG' * values.lossy}: each becomes the most similar of {values.names(labels)} nearby "
            f"(data.snap)"
        )
    unnamed = {legend: _unnamed(legend, labels, values, ignored or ()) for legend in legends}
    found = [legend for legend in legends if not unnamed[legend]]
    if not found:
        lines += [
            f"{legend.path.name} names no class of {values.names(unnamed[legend])} (data.classes)" for legend in legends
        ]
    named = (
        _by_legend(found[0], labels, values, bool(snapped), ignored)
        if found
        else _by_value(labels, values, snapped, ignored)
    )
    return Encoding({"mask_values": None, **named.settings, "snap": bool(snapped)}, [*lines, *named.lines])


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


def _codes(legend: Legend) -> list[int]:
    """Return the colors of a legend as numbers."""
    return [code(value) for value in (*legend.by_value, *legend.ignored) if is_color(value)]


def _by_codes(codes: Sequence[int], values: Values) -> tuple[list[int], list[int]] | None:
    """Return the colors of a legend in the masks, and all others; None if these are no blends of the legend's."""
    labels = sorted(value for value in values.pixels if value in set(codes))
    others = [value for value in values.pixels if value not in set(codes)]
    return (labels, others) if len(labels) > 1 and _unexplained(others, labels, values) <= UNEXPLAINED else None


def _pure_values(values: Values, are_classes: bool) -> tuple[list[int], list[int]]:
    """Return the values that are classes, and those that are blends of them at borders.

    Raises:
        DataError: they are no classes, or it is not clear.
    """
    ordered = sorted(values.pixels)
    if not ordered:
        raise DataError("the masks have no pixels.")
    may_be_objects = not (values.colored or values.lossy or are_classes)
    if may_be_objects and _count_from_one(values):
        raise DataError(_object_numbers(ordered))
    if len(ordered) <= FEW_VALUES and not values.lossy:
        return _of_few(ordered, values)
    blends = [value for value in ordered if values.interior[value] <= SOFT * values.pixels[value]]
    if 2 * len(blends) <= len(ordered) and not values.lossy:  # areas of their own, as classes and objects have
        if may_be_objects and _are_rare(values):
            raise DataError(_object_numbers(ordered))
        return _checked_count(ordered), []
    pure = sorted(_peaks(values, values.interior))
    soft = [value for value in ordered if value not in pure]
    if pure and values.lossy and 0 < len(unclear := _unclear(soft, pure, values)) <= FEW_VALUES:
        raise DataError(_changed_by_jpeg(unclear, pure, values))
    most = max(values.pixels, key=lambda value: values.pixels[value])
    between = values.share(soft) / max(1e-9, 1 - values.share([most]))
    is_matte = not (values.colored or values.lossy) and between > MATTE
    if is_matte or not 2 <= len(pure) <= MOST_PURE or _unexplained(soft, pure, values) > UNEXPLAINED:
        raise DataError(_many_values(ordered, values, between))
    return pure, soft


def _of_few(ordered: list[int], values: Values) -> tuple[list[int], list[int]]:
    """Return the classes and blends among a few values."""
    is_dense = not values.colored and (ordered[-1] <= 2 * len(ordered) or ordered[-2:-1] == [ordered[-1] - 1])
    if is_dense or len(ordered) < 3:
        return ordered, []
    soft = [v for v in ordered if v != VOID and values.interior[v] <= SOFT * values.pixels[v]]
    pure = [v for v in ordered if v not in soft]
    soft = [v for v, is_blend in zip(soft, _are_blends(soft, pure, values.colored), strict=True) if is_blend]
    if len(pure) < 2 or not soft:
        return ordered, []
    if len(soft) < 3:
        listed = [_listed(chosen, values) for chosen in (ordered, [v for v in ordered if v not in soft])]
        raise DataError(
            f"{values.names(soft)} {'is' if len(soft) == 1 else 'are'} in {values.share(soft):.2%} of the mask pixels, "
            f"and only next to other values: a thin class, or blends at the borders of others. Set "
            f"data.mask_values={listed[0]} if it is a class, or data.mask_values={listed[1]} data.snap=true."
        )
    return [v for v in ordered if v not in soft], soft


def _unexplained(others: Sequence[int], pure: Sequence[int], values: Values) -> float:
    """Return the share of all pixels with a value that is no blend of two pure ones, and near none."""
    blends = _are_blends(others, pure, values.colored)
    return values.share([value for value, is_blend in zip(others, blends, strict=True) if not is_blend])


def _are_blends(others: Sequence[int], pure: Sequence[int], colored: bool) -> list[bool]:
    """Return for each value whether it lies on the line between two pure ones, or near one."""
    points, ends = _vectors(others, colored), _vectors(pure, colored)
    nearest = np.full(len(points), np.inf)
    for i, start in enumerate(ends):
        for end in ends[i + 1 :]:
            along = end - start
            place = ((points - start) @ along / max(1.0, float(along @ along))).clip(0, 1)
            distance = np.linalg.norm(start + place[:, None] * along - points, axis=1)
            nearest = np.minimum(nearest, distance)
    near: list[bool] = (nearest <= NEAR).tolist()
    return near


def _vectors(numbers: Sequence[int], colored: bool) -> Any:
    codes = np.array(numbers, dtype=np.int64)
    channels = (codes >> 16 & 255, codes >> 8 & 255, codes & 255) if colored else (codes,)
    return np.stack(channels, -1).astype(np.float64)


def _peaks(values: Values, interior: Mapping[int, int]) -> set[int]:
    """Return the values that large areas have, with none near a more frequent one."""
    chosen: list[int] = []
    for value in sorted(values.pixels, key=lambda v: -values.pixels[v]):
        if values.pixels[value] < AREA * values.total or len(chosen) > MOST_PURE:
            break
        if interior[value] >= PURE * values.pixels[value] and not _is_near(value, chosen, values):
            chosen.append(value)
    return set(chosen)


def _is_near(value: int, others: Sequence[int], values: Values, reach: int = NEAR) -> bool:
    if not others:
        return False
    distances = np.linalg.norm(_vectors(others, values.colored) - _vectors([value], values.colored), axis=1)
    return bool(distances.min() <= reach)


def _unclear(soft: Sequence[int], pure: Sequence[int], values: Values) -> list[int]:
    """Return the values that may be classes although JPEG makes such of others: they have areas of their own."""
    far = [value for value in _peaks(values, values.nearly_interior) if not _is_near(value, pure, values)]
    near = [
        value
        for value in soft
        if values.pixels[value] >= AREA * values.total
        and values.interior[value] >= OWN_AREA * values.pixels[value]
        and _is_near(value, pure, values)
        and not (values.colored and _is_near(value, pure, values, JPEG_NOISE))  # no two classes have such colors
    ]
    return sorted({*far, *near})


def _count_from_one(values: Values) -> bool:
    """Return whether nearly every mask has the values 1 to n, as masks do that number their objects."""
    several = [mask - {0, VOID} for mask in values.by_mask if mask - {0, VOID}]
    consecutive = sum(mask == set(range(1, len(mask) + 1)) for mask in several)
    return (
        0 in values.pixels
        and bool(several)
        and consecutive >= 0.9 * len(several)
        and len({len(mask) for mask in several}) > 2
    )


def _are_rare(values: Values) -> bool:
    """Return whether hardly any other mask has the values of one, as with numbers of objects."""
    presence = Counter(value for mask in values.by_mask for value in mask - {0, VOID})
    middle = sorted(presence.values())[len(presence) // 2] if presence else 0
    several = sum(bool(mask - {0, VOID}) for mask in values.by_mask)
    return middle <= max(2, several / 4)


def _object_numbers(ordered: Sequence[int]) -> str:
    return (
        f"the masks hold {len(ordered)} values from {ordered[0]} to {ordered[-1]}, which look like numbers of objects: "
        f"most values are in few masks, or each mask counts from 1. To make all objects one class, set "
        f"data.classes={{background: 0, object: '*'}}; to take every value as a class, data.classes={ordered[-1] + 1}."
    )


def _changed_by_jpeg(unclear: Sequence[int], pure: Sequence[int], values: Values) -> str:
    few, all_of_them = (_listed(sorted(found), values) for found in (pure, {*pure, *unclear}))
    otherwise = f", data.mask_values={few} data.snap=true if not" if len(pure) > 1 else ""
    return (
        f"the masks were saved as JPEG, which changes values, and it is not clear whether {values.names(unclear)} "
        f"{'is a class' if len(unclear) == 1 else 'are classes'}. Save the masks as PNG from their source, or set "
        f"data.mask_values={all_of_them} data.snap=true if so{otherwise}."
    )


def _listed(chosen: Sequence[int], values: Values) -> str:
    """Return values as a setting has them, without spaces, at which a shell would cut it."""
    return str([values.name(value) for value in chosen]).replace(" ", "")


def _many_values(ordered: Sequence[int], values: Values, between: float) -> str:
    low, high = ordered[0], ordered[-1]
    what = f"the masks hold {len(ordered):,} {'colors' if values.colored else 'values'}"
    if values.colored or values.lossy:
        example = "['#000000','#ff0000']" if values.colored else "[0,255]"
        return (
            f"{what}, and it is not clear which are classes. Are these the masks (data.masks)? If so, list their "
            f"classes: data.mask_values={example}, with data.snap=true if others are blends of these."
        )
    return (
        f"{what} from {low} to {high}, and {between:.0%} of the pixels of objects lie in between: these are alpha "
        f"mattes or other continuous values, and not classes. To cut them in two in the middle, set "
        f"data.mask_values=[0,{255 if 127 < high < 256 else high}] data.snap=true."
    )


def _checked_count(ordered: list[int]) -> list[int]:
    if len(ordered) > MOST_CLASSES:
        raise DataError(
            f"the masks hold {len(ordered):,} values; at most {MOST_CLASSES} classes are told apart. List the file's "
            f"values by class in data.mask_values; several of one class as [0,[1,2]]."
        )
    return ordered


def _unnamed(legend: Legend, labels: Sequence[int], values: Values, ignored: Sequence[Value]) -> list[int]:
    """Return the values of the masks that a legend does not explain; it need not name void."""
    explained = {*legend.ignored, *ignored}
    named = [label for label in labels if {values.name(label), values.level(label)} & legend.by_value.keys()]
    left = [v for v in labels if v not in named and not {values.name(v), values.level(v)} & explained]
    # next to one class alone, 255 is the other class
    return [label for label in left if values.level(label) != VOID or len(named) < 2]


def _by_legend(
    legend: Legend, labels: Sequence[int], values: Values, snapped: bool, given: Sequence[Value] | None
) -> Encoding:
    by_value = legend.by_value
    settings: dict[str, Any] = {"classes": list(legend.names)}
    if values.colored or snapped or list(by_value) != list(range(len(by_value))):
        # a legend may number gray colors, which are their own numbers
        names: dict[Value | None, Value] = {values.level(label): values.name(label) for label in labels}
        settings["mask_values"] = [names.get(value, value) for value in by_value]
    lines = [f"{len(by_value)} classes by {legend.path.name}: {shortlist(legend.names, 12)} (data.classes)"]
    ignored: list[Value] = [value for value in legend.ignored if value not in by_value] if given is None else [*given]
    if given is None and not ignored and not values.colored and VOID in labels and VOID not in by_value:
        ignored = [VOID]
    return Encoding(*_with_void(settings, lines, [v for v in labels if values.name(v) in ignored], ignored, values))


def _with_void(
    settings: dict[str, Any], lines: list[str], labels: Sequence[int], ignored: Sequence[Value], values: Values
) -> tuple[dict[str, Any], list[str]]:
    """Return settings and lines with those for the values that are left out."""
    settings["ignore_index"] = VOID if not ignored else ignored[0] if len(ignored) == 1 else list(ignored)
    if ignored:
        share = f"{values.share(labels):.1%} of the pixels"
        lines.append(f"{shortlist(map(str, ignored))} is void, {share} (data.ignore_index)")
    return settings, lines


def _by_value(
    labels: Sequence[int], values: Values, snapped: Sequence[int], ignored: Sequence[Value] | None
) -> Encoding:
    """Return the classes that the values stand for, without names from a file."""
    if ignored is None:
        void = [label for label in labels if values.level(label) == VOID and _has_void(labels, values)]
    else:
        void = [label for label in labels if values.name(label) in ignored]
    classes = [label for label in labels if label not in void]
    if len(classes) < 2:
        raise DataError(
            f"the masks hold only the value {values.names(classes or labels)}; at least two classes are needed. Are "
            f"these the masks (data.masks)?"
        )
    listed = [values.name(label) for label in classes]
    levels = [values.level(label) for label in classes]
    is_binary = len(classes) == 2 and levels[0] == 0 and levels[1] is not None
    names = ["background", "foreground"] if is_binary else _class_names(classes, values)
    settings: dict[str, Any] = {"classes": names}
    if values.colored or snapped or classes != list(range(len(classes))):
        settings["mask_values"] = listed
    shares = shortlist((f"{n} {values.share([v]):.1%}" for n, v in zip(names, classes, strict=True)), 12)
    lines = [f"{len(classes)} classes, {_reason(classes, values)}: {shares} (data.classes)"]
    if is_binary and values.share([classes[0]]) < 0.5:
        lines.append(
            f"most pixels are foreground, the value {listed[1]}; if it is {listed[0]} that marks the objects, set "
            f"data.classes={{background: {listed[1]}, foreground: {listed[0]}}}"
        )
    return Encoding(*_with_void(settings, lines, void, list(ignored or map(values.name, void)), values))


def _has_void(labels: Sequence[int], values: Values) -> bool:
    """Return whether 255 stands apart from class indices that count up from 0 or 1."""
    levels = [values.level(label) for label in labels]
    others = [level for level in levels if level is not None and level != VOID]
    if None in levels or len(others) < 2:
        return False
    return others[-1] < 64 or others == list(range(others[0], others[-1] + 1))


def _class_names(classes: Sequence[int], values: Values) -> list[str]:
    """Return names by number; by color if there is one that is not gray."""
    levels = [values.level(value) for value in classes]
    return [str(values.name(v)) for v in classes] if None in levels else [f"class_{level}" for level in levels]


def _reason(classes: Sequence[int], values: Values) -> str:
    if values.colored:
        return "one for each color"
    if list(classes) == list(range(len(classes))):
        return "class indices from 0"
    if list(classes) == list(range(1, len(classes) + 1)):
        return "counted from 1"
    return f"the values {values.names(classes)}"
