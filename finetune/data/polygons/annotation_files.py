"""Checked reading of annotation files, which people and many tools write."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from finetune.data.polygons.shapes import Points
from finetune.data.records import DataError
from finetune.io.safe_files import FileError, read_text

MAX_BYTES = 2**29  # of one file; the largest of COCO has 470 MB. Python takes about ten times as much for its contents
MAX_COORDINATE = 1e7  # pixels
WORDS = {dict: "an object {...}", list: "a list", str: "text", int: "a whole number", float: "a number", bool: "a bool"}
REQUIRED: Any = object()


class AnnotationError(ValueError):
    """What is wrong with one object of a file, without its place, which the caller adds."""


@contextmanager
def noting(problems: list[str], place: str) -> Iterator[None]:
    """Append what is wrong inside of the block, with its place, and go on after it."""
    try:
        yield
    except AnnotationError as error:
        problems.append(f"{place}: {error}")


def shown(value: object) -> str:
    """Return a value for a message, shortened.

    >>> shown({"a": 1}), shown([1, 2]), shown("x" * 50)
    ("{'a': 1}", '[1, 2]', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...")
    """
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def read_annotations(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing, too large, not JSON, or holds NaN or Infinity.
    """
    try:
        return json.loads(read_annotation_text(path), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DataError(f"'{path}' is nested too deeply for annotations. Replace the file.") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}' is no JSON: {error}. Replace the file or export it again.") from error


def read_annotation_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: it is missing, too large, or not UTF-8.
    """
    try:
        return read_text(path, MAX_BYTES).removeprefix("\ufeff")
    except FileError as error:
        raise DataError(str(error)) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def field(entry: Any, key: str, *kinds: type, default: Any = REQUIRED) -> Any:
    """Return the value of a key.

    Args:
        entry: expected to be a dict.
        key: of the value.
        kinds: types that the value may have; a number is `int, float`.
        default: returned where the key is missing or null; without one, the key is required.

    Raises:
        AnnotationError: the entry is no dict, or the value is missing or has another type.
    """
    if not isinstance(entry, dict):
        raise AnnotationError(f"it is {shown(entry)}; expected an object {{...}}.")
    value = entry.get(key)
    if value is None and default is not REQUIRED:
        return default
    if key not in entry:
        raise AnnotationError(f"it has no '{key}'.")
    if type(value) not in kinds:
        expected = WORDS[float] if float in kinds else " or ".join(WORDS[kind] for kind in kinds)
        raise AnnotationError(f"its {key} is {shown(value)}; expected {expected}.")
    return value


def number(entry: Any, key: str, default: Any = REQUIRED, low: float = -MAX_COORDINATE) -> float:
    """Return a number of a coordinate's size.

    Args:
        entry: expected to be a dict.
        key: of the number.
        default: as for `field`.
        low: smallest value.

    Raises:
        AnnotationError: it is missing, no number, or outside of the range.
    """
    value = field(entry, key, int, float, default=default)
    if not low <= value <= MAX_COORDINATE:
        raise AnnotationError(f"its {key} is {shown(value)}; expected {low:g} to {MAX_COORDINATE:g}.")
    return float(value)


def size_of(entry: Any, height: str, width: str) -> tuple[int, int]:
    """Return the height and width of the image that an entry is for.

    Args:
        entry: expected to be a dict.
        height: key of the height.
        width: key of the width.

    Raises:
        AnnotationError: one is missing or no positive whole number.
    """
    values = {key: field(entry, key, int, float) for key in (height, width)}
    for key, value in values.items():
        if not 0 < value <= MAX_COORDINATE or value != int(value):
            raise AnnotationError(f"its {key} is {shown(value)}; expected a number of pixels.")
    return int(values[height]), int(values[width])


def pairs(values: Any, least: int = 3) -> Points:
    """Return points that are listed as [[x, y], ...].

    Args:
        values: expected to be such a list.
        least: smallest number of points.

    Raises:
        AnnotationError: it is none, has too few points, or a coordinate is no number of a sensible size.
    """
    if not isinstance(values, list):
        raise AnnotationError(f"its points are {shown(values)}; expected a list of points [x, y].")
    for point in values:
        if not isinstance(point, list) or len(point) != 2:
            raise AnnotationError(f"it has the point {shown(point)}; expected [x, y].")
    return coordinates([value for point in values for value in point], least)


def coordinates(values: Sequence[Any], least: int = 3) -> Points:
    """Return points that are listed as [x, y, x, y, ...]; the arguments and errors are those of `pairs`."""
    if not set(map(type, values)) <= {int, float}:
        wrong = next(value for value in values if type(value) not in (int, float))
        raise AnnotationError(f"it has the coordinate {shown(wrong)}; expected numbers.")
    if len(values) % 2:
        raise AnnotationError(f"it has {len(values)} coordinates, an odd number; expected x and y of each point.")
    if len(values) < 2 * least:
        raise AnnotationError(f"it has {len(values) // 2} points; expected {least} or more.")
    try:
        points = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        points = np.array([np.inf])
    limit = MAX_COORDINATE
    if not np.abs(points).max() <= limit:  # true for NaN, too
        wrong = next(value for value in values if not -limit <= value <= limit)
        raise AnnotationError(f"it has the coordinate {shown(wrong)}; expected {-limit:g} to {limit:g}.")
    return points.reshape(-1, 2)
