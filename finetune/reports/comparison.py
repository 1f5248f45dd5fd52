"""Compare the evaluations of several runs, image by image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.io.atomic_write import write_together
from finetune.io.safe_files import FileError
from finetune.metrics.overlaps import ImageResults, counted, drawn_ious, limits, overlap_iou

FILE = "overlaps.npz"
LARGEST = 2**31  # bytes of the arrays: ten million images of three classes with names of 30 letters


@dataclass(frozen=True)
class Evaluation:
    """The overlaps of an evaluation.

    Attributes:
        run: name of the run.
        classes: names of the K classes.
        images: names of the N images.
        overlaps: (N, K, 3), int64.
    """

    run: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    overlaps: Tensor

    @property
    def iou(self) -> Tensor:
        """IoU of each class over all images (K,), float64."""
        return overlap_iou(self.overlaps.sum(0))


@dataclass(frozen=True)
class Difference:
    """How a run differs from the first one, on the images of both.

    Attributes:
        mean: difference of the mean IoU.
        low: lower limit of the difference for 95 % of the sets drawn from the images.
        high: upper limit.
        p: share of the drawn sets on which the sign of the difference is the other one, times two: of a two-sided test.
        by_class: difference of the IoU of each class (K,), float64.
        by_image: difference of the mean IoU of each image (N,), float64.
    """

    mean: float
    low: float
    high: float
    p: float
    by_class: Tensor
    by_image: Tensor


def save_overlaps(path: Path, images: ImageResults, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write the overlaps of the images that were evaluated."""
    seen = images.seen.tolist()
    arrays: dict[str, Any] = {
        "images": np.array([names[index] for index in seen]),
        "classes": np.array(list(classes)),
        "overlaps": images.overlaps[images.seen].numpy(),
    }

    def write(part: Path) -> None:
        with part.open("wb") as file:  # NumPy adds .npz to a name
            np.savez_compressed(file, **arrays)

    write_together(path.parent, {path.name: write})


def read_overlaps(path: Path, run: str) -> Evaluation:
    """Read what `save_overlaps` wrote.

    Raises:
        FileError: the file is missing, damaged or too large.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(each.file_size for each in file.zip.infolist()) > LARGEST:
                raise FileError(path, f"it holds more than {LARGEST:,} bytes.")
            arrays = {name: file[name] for name in ("images", "classes", "overlaps")}
    except FileError:
        raise
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise FileError(path, f"it holds no overlaps of an evaluation: {error}.") from error
    images, classes, overlaps = (arrays[name] for name in ("images", "classes", "overlaps"))
    if overlaps.shape != (len(images), len(classes), 3) or overlaps.dtype != np.int64:
        raise FileError(path, f"its overlaps have the shape {overlaps.shape} and are {overlaps.dtype}.")
    return Evaluation(run, tuple(map(str, classes)), tuple(map(str, images)), torch.from_numpy(overlaps))


def on_common_images(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations with the images that all of them have, in one order.

    Raises:
        ValueError: other classes, no common image, or other masks.
    """
    first, *others = evaluations
    for other in others:
        if other.classes != first.classes:
            raise ValueError(
                f"runs are compared on the same classes, but {first.run} has {', '.join(first.classes)} and "
                f"{other.run} has {', '.join(other.classes)}."
            )
    counts = [Counter(each.images) for each in evaluations]  # images of two splits may share a name
    names = {name for name in counts[0] if len({count[name] for count in counts}) == 1}
    common = sorted(each for each in _numbered(first.images) if each[0] in names)
    if not common:
        raise ValueError(
            f"{' and '.join(each.run for each in evaluations)} were evaluated on other images. Evaluate each on the "
            f"same ones, finetune evaluate run=... data.root=... split=all, and compare them by split=all."
        )
    first, *others = [_with_images(each, common) for each in evaluations]
    for other in others:
        if not torch.equal(other.overlaps[..., 1], first.overlaps[..., 1]):
            raise ValueError(
                f"{first.run} and {other.run} were evaluated with other masks of the same images, so a difference "
                f"would not be one of the models. Evaluate both on the same data."
            )
    return [first, *others]


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each name with the number of times that it came before."""
    times = Counter[str]()
    numbered = []
    for name in names:
        numbered.append((name, times[name]))
        times[name] += 1
    return numbered


def _with_images(evaluation: Evaluation, images: Sequence[tuple[str, int]]) -> Evaluation:
    place = {name: index for index, name in enumerate(_numbered(evaluation.images))}
    overlaps = evaluation.overlaps[[place[name] for name in images]]
    return Evaluation(evaluation.run, evaluation.classes, tuple(name for name, _ in images), overlaps)


def difference(first: Evaluation, other: Evaluation) -> Difference:
    """Return how a run differs from the first one; both on the same images, of which every drawn set has the same.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 16
    """
    drawn = drawn_ious(counted(torch.cat([first.overlaps, other.overlaps], dim=1)))
    changes = drawn[:, len(first.classes) :].nanmean(-1) - drawn[:, : len(first.classes)].nanmean(-1)
    low, high = limits(changes)
    opposite = min(float((changes <= 0).double().mean()), float((changes >= 0).double().mean()))
    return Difference(
        mean=float(other.iou.nanmean() - first.iou.nanmean()),
        low=low,
        high=high,
        p=min(1.0, 2 * max(opposite, 1 / len(changes))),
        by_class=other.iou - first.iou,
        by_image=overlap_iou(other.overlaps).nanmean(-1) - overlap_iou(first.overlaps).nanmean(-1),
    )
