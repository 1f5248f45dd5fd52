"""Classes of a model from the labels of annotations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.records import DataError
from finetune.io.messages import shortlist, suggest

BACKGROUND = "background"
MAX_CLASSES = 255

Classes = int | Sequence[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class ClassMap:
    """Classes, and what is drawn for each label.

    Attributes:
        names: of the classes, in the order of their indices.
        values: label -> class index, or the value of pixels that are left out; other labels are not drawn.
        background: index of the class of all pixels on which nothing is drawn.
    """

    names: tuple[str, ...]
    values: Mapping[str, int]
    background: int = 0


def class_map(
    labels: Sequence[str],
    classes: Classes = None,
    ignored: Sequence[str] = (),
    ignore_index: int = 255,
    place: str = "",
) -> ClassMap:
    """Return the classes that labels stand for.

    The background is the class of the pixels on which nothing is drawn: the one named `background`, in any case; else
    the only one without labels; else `background` is put first.

    Args:
        labels: of the annotations, in the order that their format gives them.
        classes: None for a class per label; their number, to check it; names of labels in the order of the classes; or
            name -> label, or list of labels, of each class. Labels that are not named are not drawn.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: value of these pixels.
        place: of the labels, for messages.

    Raises:
        DataError: a class has no label, a label is unknown or in two classes, or there are too many classes.

    >>> class_map(["leaf", "stone"]).names
    ('background', 'leaf', 'stone')
    >>> class_map(["leaf", "stem", "sky"], {"plant": ["leaf", "stem"]}).values
    {'leaf': 1, 'stem': 1}
    """
    _check_known(ignored, labels, "data.ignored", place)
    kept = [label for label in labels if label not in set(ignored)]
    groups = _groups(kept, classes, place)
    background = _background(groups)
    if background is None:
        background, groups = BACKGROUND, {BACKGROUND: [], **groups}
    names = tuple(groups)
    _check_groups(names, groups, background, classes, kept, place)
    values = {label: index for index, group in enumerate(groups.values()) for label in group}
    for label in kept:
        if is_background(label):
            values.setdefault(label, names.index(background))
    return ClassMap(names, {**values, **dict.fromkeys(ignored, ignore_index)}, names.index(background))


def default_names(labels: Iterable[str]) -> list[str]:
    """Return the names of the classes for these labels: the background first, then the others in their order.

    >>> default_names(["leaf", "Background"])
    ['Background', 'leaf']
    """
    first = next(filter(is_background, labels), BACKGROUND)
    return [first, *(label for label in labels if not is_background(label))]


def is_background(name: str) -> bool:
    """Return whether a name means the background; labelme writes `_background_`."""
    return name.strip("_ ").lower() == BACKGROUND


def _groups(labels: Sequence[str], classes: Classes, place: str) -> dict[str, list[str]]:
    """Return the labels of each class that the option gives."""
    if isinstance(classes, Mapping):
        return {str(name): _listed(name, group) for name, group in classes.items()}
    if isinstance(classes, str):
        raise DataError(f"data.classes={classes}: expected a list of names such as [background,{classes}].")
    names = default_names(labels) if classes is None or isinstance(classes, int) else [str(name) for name in classes]
    if isinstance(classes, int) and classes != len(names):
        raise DataError(
            f"data.classes={classes}, but {place} has {len(names)} classes: {shortlist(names)}. Leave data.classes out "
            f"to take those, or list the names of the ones that you want."
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"data.classes has {shortlist(repeated)} more than once. Name each class once.")
    return {name: [name] if name in labels else [] for name in names}


def _listed(name: str, group: Any) -> list[str]:
    labels = [] if group is None else group if isinstance(group, list | tuple) else [group]
    if any(isinstance(label, Mapping | list | tuple) or label is None for label in labels):
        raise DataError(f"data.classes has {name}: {group}; expected a label, or a list of labels.")
    return [str(label) for label in labels]


def _background(groups: Mapping[str, Sequence[str]]) -> str | None:
    """Return the class of the background, if one of them is."""
    named = [name for name in groups if is_background(name)]
    without_label = [name for name, group in groups.items() if not group]
    return named[0] if named else without_label[0] if len(without_label) == 1 else None


def _check_groups(
    names: tuple[str, ...],
    groups: Mapping[str, Sequence[str]],
    background: str,
    classes: Classes,
    labels: Sequence[str],
    place: str,
) -> None:
    """Raise DataError for classes that cannot be."""
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{place} has {len(names):,} classes with the background; at most {MAX_CLASSES} fit into an 8-bit mask. "
            f"List those that you want in data.classes."
        )
    if not isinstance(classes, Mapping):
        absent = [name for name in names if not groups[name] and name != background]
        _check_known(absent, labels, "data.classes", place)
    given = [label for group in groups.values() for label in group]
    _check_known(given, labels, "data.classes", place)
    if repeated := [label for label, count in Counter(given).items() if count > 1]:
        raise DataError(f"data.classes has the label {shortlist(repeated)} in two classes. Keep it in one.")


def _check_known(names: Iterable[str], labels: Sequence[str], setting: str, place: str) -> None:
    unknown = [name for name in names if name not in labels]
    if unknown:
        hints = "; ".join(f"'{name}': {suggest(name, labels)}" for name in unknown[:5])
        raise DataError(
            f"{setting} names {shortlist(unknown)}, but {place} has no such label. {hints}"
            + (
                " A class of other labels is {NAME: [LABEL, ...]}, one without {NAME: []}."
                * (setting == "data.classes")
            )
        )
