"""Work out what the values in masks mean: classes, void, colors, soft edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.masks.contents import MaskContents
from finetune.data.masks.values import VOID, Value, code, gray_level, is_color
from finetune.data.recognition.legends import Legend
from finetune.data.recognition.observed_values import Values, collect
from finetune.data.recognition.pure_values import blends_of, pure_values
from finetune.data.records import DataError
from finetune.io.messages import shortlist

MOST_LISTED = 12  # values in a message


@dataclass(frozen=True)
class Encoding:
    """Settings of `data` that say what the values in masks mean, and a line for each conclusion."""

    settings: Mapping[str, Any]
    lines: list[str] = field(default_factory=list)


def work_out_encoding(
    contents: Sequence[MaskContents],
    legends: Sequence[Legend] = (),
    ignored: Sequence[Value] | None = None,
    are_classes: bool = False,
    snap: bool | None = None,
) -> Encoding:
    """Return the settings that read masks, worked out from all of their values.

    Args:
        contents: of all masks.
        legends: files that name classes.
        ignored: values that are known to be void; None if that is to be worked out, too.
        are_classes: whether values are known to stand for classes, and not for objects.
        snap: whether values become a similar one nearby; None if that is to be worked out, too.

    Raises:
        DataError: the values leave a doubt; the message has the settings between which to choose.
    """
    values, lines = collect(contents)
    if not values.colored and not any(mask.kind == "palette" for mask in contents):  # whose numbers are not grays
        legends = [legend.by_gray_level() for legend in legends]
        ignored = None if ignored is None else [gray_level(value) for value in ignored]
    by_legend = (blends_of(_codes(legend), values) for legend in legends if values.colored)
    labels, snapped = next((pair for pair in by_legend if pair), None) or pure_values(values, are_classes)
    if snapped and snap is False:
        raise DataError(_not_snapped(labels, snapped, values))
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
        _by_legend(found[0], labels, values, bool(snap or snapped), ignored)
        if found
        else _by_value(labels, values, bool(snap or snapped), ignored)
    )
    return Encoding({"mask_values": None, **named.settings, "snap": bool(snap or snapped)}, [*lines, *named.lines])


def _not_snapped(labels: Sequence[int], snapped: Sequence[int], values: Values) -> str:
    """Return what to set where values in between are to stay as they are."""
    names = [values.name(value) for value in sorted([*labels, *snapped])]
    listed = f"data.mask_values={str(names).replace(' ', '')}"
    return (
        f"data.snap=false, but {values.share(snapped):.1%} of the mask pixels have one of {len(snapped)} values that "
        f"look like blends of {values.names(labels)} at soft edges. If they are classes, list the values of all"
        f"{f': {listed}' if len(names) <= MOST_LISTED else ' (data.mask_values)'}. Otherwise leave out data.snap."
    )


def _codes(legend: Legend) -> list[int]:
    """Return the colors of a legend as numbers."""
    return [code(value) for value in (*legend.by_value, *legend.ignored) if is_color(value)]


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
    if given is None and not values.colored and VOID in labels and VOID not in (*by_value, *ignored):
        ignored.append(VOID)
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


def _by_value(labels: Sequence[int], values: Values, snapped: bool, ignored: Sequence[Value] | None) -> Encoding:
    """Return the classes that the values stand for, without names from a file."""
    if ignored is None:
        void = [label for label in labels if values.level(label) == VOID and _has_void(labels, values)]
    else:
        void = [label for label in labels if values.name(label) in ignored]
    classes = [label for label in labels if label not in void]
    if len(classes) < 2:
        raise DataError(_single_value(classes, void, values))
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


def _single_value(classes: Sequence[int], void: Sequence[int], values: Values) -> str:
    left_out = f" and {values.names(void)}, which data.ignore_index leaves out" if classes and void else ""
    move = "Leave out data.ignore_index, if that is a class" if left_out else "Are these the masks (data.masks)?"
    return (
        f"the masks hold only the value {values.names(classes or void)}{left_out}; at least two classes are needed. "
        f"{move}{'.' * bool(left_out)}"
    )


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
