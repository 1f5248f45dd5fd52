"""Tell the values of masks that are classes from blends at borders, from numbers of objects, and from mattes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.data.masks.contents import JPEG_NOISE
from finetune.data.masks.values import VOID
from finetune.data.recognition.observed_values import Values
from finetune.data.records import DataError

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


def blends_of(codes: Sequence[int], values: Values) -> tuple[list[int], list[int]] | None:
    """Return the colors of a legend in the masks, and all others; None if these are no blends of the legend's."""
    labels = sorted(value for value in values.pixels if value in set(codes))
    others = [value for value in values.pixels if value not in set(codes)]
    return (labels, others) if len(labels) > 1 and _unexplained(others, labels, values) <= UNEXPLAINED else None


def pure_values(values: Values, are_classes: bool) -> tuple[list[int], list[int]]:
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
