"""What is wrong with images and targets, in one line per cause, with the first files and what to do."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from finetune.data.dataset import same_shape
from finetune.data.records import Record
from finetune.io.messages import shortlist

MAX_LABELS = 3  # outside the classes, with a line each
MAX_NAMED = 3  # records in one line


@dataclass
class Reading:
    """The contents of one record.

    Attributes:
        record: the record.
        size: height and width of the image; empty if it cannot be read.
        target_size: height and width of the target; empty if it cannot be read.
        counts: value in the target -> its pixels, over all channels; values that do not occur are left out.
        positives: pixels of each class, for targets with one channel per class; None for class indices.
        problems: messages for everything that cannot be read.
        may_be_turned: whether the image has an EXIF rotation that its size does not tell.
    """

    record: Record
    size: tuple[int, ...] = ()
    target_size: tuple[int, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)
    positives: Tensor | None = None
    problems: list[str] = field(default_factory=list)
    may_be_turned: bool = False

    @property
    def values(self) -> Tensor:
        """Pixels with each of the 256 values in the target (256,), int64."""
        return sum_values([self])

    @property
    def fits(self) -> bool:
        """Whether the target has the size of the image, or its shape."""
        (height, width), (target_height, target_width) = self.size, self.target_size
        return self.size == self.target_size or same_shape((height, width), (target_height, target_width))

    @property
    def target(self) -> str:
        """Name of the target in messages; empty if there is none."""
        return self.record.target.description if self.record.target is not None else ""


def sum_values(readings: Iterable[Reading]) -> Tensor:
    """Return the number of pixels with each of the 256 values, over all targets (256,), int64."""
    totals = [0] * 256
    for reading in readings:
        for value, pixels in reading.counts.items():
            totals[value] += pixels
    return torch.tensor(totals)


def reading_problems(indices: list[Reading], channelwise: list[Reading]) -> list[str]:
    """Return what cannot be read, sizes that differ, and kinds of targets that are mixed.

    Args:
        indices: readings of class indices, and of nothing.
        channelwise: readings of targets with one channel per class.
    """
    readings = [*indices, *channelwise]
    problems = list(by_cause(readings))
    differing = [reading for reading in readings if not (reading.problems or reading.fits)]
    if differing:
        named = (
            f"{r.record.image.description} is {size_text(r.size)}, its {r.target} {size_text(r.target_size)}"
            for r in differing
        )
        is_turned = all(reading.target_size == reading.size[::-1] for reading in differing)
        move = (
            "The images carry an EXIF rotation that their masks do not have: remove it, or turn the masks."
            if is_turned
            else "Save the masks at the size of the images, resized by nearest neighbor."
        )
        problems.append(
            f"{len(differing):,} images differ in size (height x width) from their mask: "
            f"{shortlist(named, MAX_NAMED)}. {move}"
        )
    readable = [reading for reading in indices if reading.target_size]
    if readable and channelwise:
        problems.append(
            f"{len(channelwise):,} masks have one channel per class and {len(readable):,} hold class indices, such as "
            f"{channelwise[0].target} and {readable[0].target}. Use one of the two for all images."
        )
    return problems


def by_cause(readings: list[Reading]) -> dict[str, dict[int, str]]:
    """Return a line for each cause, with the first files, and the text of each reading, by its position, that has it.

    Texts that differ in the names of their files only have one cause.
    """
    groups: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for position, reading in enumerate(readings):
        for text in reading.problems:
            named = [file for file in map(str, reading.record.paths) if file in text] or [reading.record.name]
            cause = reduce(lambda rest, name: rest.replace(name, ""), sorted(named, key=len, reverse=True), text)
            groups[cause].append((position, text, Path(named[0]).name))
    lines = {}
    for (position, text, _), *others in groups.values():
        names = shortlist((name for _, _, name in others), MAX_NAMED)
        line = f"{text} The same in {len(others):,} more: {names}." if others else text
        lines[line] = {position: text, **{other: own for other, own, _ in others}}
    return lines


def size_text(size: tuple[int, ...]) -> str:
    """Return a size as text.

    >>> size_text((480, 640))
    '480x640'
    """
    return "x".join(map(str, size))


def index_problems(
    readings: list[Reading], classes: int, ignore_index: int, raw_values: bool, model_decides: bool
) -> list[str]:
    """Return what is wrong with the labels of class indices; the arguments are those of `inspect`."""
    totals = sum_values(readings)
    labels = totals.nonzero().flatten().tolist()
    outside = [label for label in labels if label >= classes and label != ignore_index]
    # most tools save a two-class mask as 0 and 255; with 255 ignored, training would see class 0 only
    black_and_white = classes == 2 and labels == [0, 255]
    if raw_values and len(labels) == classes and (outside or black_and_white):
        return [
            f"the masks hold only the values {labels}, but the {classes} classes are 0 to {classes - 1}"
            f"{' and 255 is ignored' if ignore_index in labels else ''}. "
            f"Set data.mask_values={str(labels).replace(' ', '')}."
        ]
    moves = [f"set data.ignore_index={outside[0]}"] if len(outside) == 1 else []  # only one label can be ignored
    moves += ["evaluate masks with the model's classes"] if model_decides else []
    moves += [f"set data.classes={outside[-1] + 1}"] if outside and not model_decides else []
    moves += ["list the file values of the classes in data.mask_values"] if raw_values else []
    advice = ", or ".join(moves)
    if len(outside) > MAX_LABELS:
        return [_many_labels(readings, totals, outside, classes, ignore_index)]
    return [
        f"label {label} is outside the {classes} classes (0 to {classes - 1}): {totals[label]:,} pixels in "
        f"{_masks_with(label, readings)}. {advice[:1].upper()}{advice[1:]}."
        for label in outside
    ]


def _masks_with(value: int, readings: list[Reading], kind: str = "") -> str:
    masks = [reading.target for reading in readings if reading.values[value]]
    return f"{len(masks):,} masks{kind}: {shortlist(masks, MAX_NAMED)}"


def _many_labels(readings: list[Reading], totals: Tensor, outside: list[int], classes: int, ignore_index: int) -> str:
    """Return what masks with many labels outside the classes probably are, and what to do."""
    labels = totals.nonzero().flatten().tolist()
    common = sorted(totals.argsort(descending=True)[:classes].tolist())
    share = float(totals[common].sum() / totals.sum())
    presence = torch.stack([reading.values > 0 for reading in readings]).sum(0)  # masks that hold each value
    text = f"the masks hold {len(labels)} values from {labels[0]} to {labels[-1]}, but there are {classes} classes"
    if share > 0.7 and (common[0], common[-1]) == (labels[0], labels[-1]):
        values = " and ".join(map(str, common))
        return (
            f"{text}; {share:.0%} of the pixels have {values}. Others look like soft edges from resizing or JPEG: save "
            f"the masks with hard edges, as PNG, resized by nearest neighbor."
        )
    if float(presence[outside].float().median()) <= max(2, len(readings) / 4):
        merged = str([0, [label for label in labels if label not in (0, ignore_index)]]).replace(" ", "")
        example = merged if len(merged) < 60 else "[0,[1,2,3,...]]"
        return (
            f"{text}; most values are in few masks, like numbers of objects. If all objects are one class, set "
            f"data.mask_values={example}."
        )
    return (
        f"{text}: {shortlist(outside, 20)} are outside. Name all classes in data.classes, or list the file values of "
        f"the classes in data.mask_values."
    )


def channel_problems(readings: list[Reading], classes: int, ignore_index: int) -> list[str]:
    """Return what is wrong with targets that have one channel per class."""
    problems = []
    other_count = [r.target for r in readings if r.positives is not None and len(r.positives) != classes]
    if other_count:
        problems.append(
            f"{len(other_count):,} masks have another number of channels than the {classes} classes: "
            f"{shortlist(other_count, MAX_NAMED)}."
        )
    totals = sum_values(readings)
    unknown = [value for value in totals.nonzero().flatten().tolist() if value not in (0, 1, ignore_index)]
    return problems + [
        f"value {value} in {_masks_with(value, readings, ' with one channel per class')}. Expected 0, 1 and "
        f"data.ignore_index={ignore_index}."
        for value in unknown
    ]
