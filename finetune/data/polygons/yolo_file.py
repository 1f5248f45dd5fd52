"""The files of a YOLO data set: its YAML file, and one text file of polygons per image."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from finetune.data.polygons.annotated import LabeledObject
from finetune.data.polygons.annotation_files import AnnotationError, coordinates, noting, read_annotation_text, shown
from finetune.data.polygons.shapes import Polygon
from finetune.data.records import DataError
from finetune.data.splitting.split_names import SPLITS
from finetune.io.safe_files import FileError, check_plain, read_text

MAX_NUMBER = 10_000
FARTHEST = 1  # beyond the image, as a fraction of its size; coordinates in pixels are much larger


class YoloYaml(NamedTuple):
    """What the YAML file says.

    Attributes:
        names: of the classes, by number.
        paths: splits with the paths of their images as they are written; a split may have several.
    """

    names: Mapping[int, str]
    paths: Sequence[tuple[str, str]]


def read_yaml(path: Path) -> YoloYaml:
    """Read the YAML file of a YOLO data set.

    Raises:
        DataError: it is missing or damaged, or has no names, or values of another type than expected.
    """
    try:
        content = yaml.safe_load(read_text(path))
        check_plain(content, path)
    except FileError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # PyYAML raises nearly anything for damaged files
        text = str(error).replace("\n", " ")
        raise DataError(f"'{path}' is no YAML: {text}. Replace the file.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(_is_name(*item) for item in names.items()):
        raise DataError(f"'{path}' has the names {shown(names)}; expected 'names' with the name of each class.")
    return YoloYaml({int(number): str(name) for number, name in names.items()}, _split_paths(content, path))


def _is_name(number: Any, name: Any) -> bool:
    return (type(number) is int or (isinstance(number, str) and number.isdecimal())) and not isinstance(
        name, dict | list | type(None)
    )


def _split_paths(content: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    """Return each split with the folders or lists of its images."""
    base = content.get("path") or ""
    found = []
    for split in SPLITS:
        entries = content.get(split) or []
        entries = entries if isinstance(entries, list) else [entries]
        if wrong := [entry for entry in (base, *entries) if not isinstance(entry, str)]:
            raise DataError(f"'{path}' has {shown(wrong[0])} as a path of {split}; expected text, or a list of texts.")
        found += [(split, entry if base in ("", ".") else f"{base}/{entry}") for entry in entries]
    return found


def below(root: Path, written: str) -> Path | None:
    """Return the file or folder below the root whose path is the longest end of a written one; None if none is.

    Paths in these files are often those of another machine, or relative to another folder.
    """
    given = PurePosixPath(written.replace("\\", "/"))
    parts = [part for part in given.parts if part not in ("..", ".", given.anchor)]
    ends = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next(filter(os.path.exists, ends), None) if parts else root


def read_objects(path: Path, names: Mapping[int, str], problems: list[str]) -> tuple[LabeledObject, ...]:
    """Read the polygons of one image; an absent file has none.

    Args:
        path: text file with lines `class x y x y ...`, in fractions of the image's width and height.
        names: name of each class number; numbers are named `class_7` if there are no names.
        problems: what is wrong with a line is appended.
    """
    if not path.is_file():
        return ()
    found = []
    for position, line in enumerate(read_annotation_text(path).splitlines(), start=1):
        with noting(problems, f"'{path}' line {position}"):
            if values := line.split():
                found.append(_read_object(values, names))
    return tuple(found)


def _read_object(texts: list[str], names: Mapping[int, str]) -> LabeledObject:
    try:
        values = list(map(float, texts))
    except ValueError:
        raise AnnotationError(f"it is {shown(' '.join(texts))}; expected numbers: class x y x y x y ...") from None
    if len(values) == 5:
        raise AnnotationError("it is a box (class x y width height), which is no mask. Export polygons instead.")
    if not (values[0].is_integer() and 0 <= values[0] < MAX_NUMBER):
        raise AnnotationError(f"its class is {texts[0]}; expected a whole number from 0 to {MAX_NUMBER - 1:,}.")
    label = names.get(int(values[0])) if names else f"class_{int(values[0])}"
    if label is None:
        raise AnnotationError(f"its class is {texts[0]}; the names are for {min(names)} to {max(names)}.")
    points = coordinates(values[1:])
    if points.min() < -FARTHEST or points.max() > 1 + FARTHEST:
        raise AnnotationError(
            f"its coordinates are from {points.min():g} to {points.max():g}; expected fractions of the image's width "
            f"and height, 0 to 1."
        )
    return LabeledObject(label, (Polygon(points, relative=True),))
