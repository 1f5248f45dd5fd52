"""The labels that a model contradicts most confidently, as a table, and as a page with pictures of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.data import SegmentationDataset
from finetune.data.dataset import Sample
from finetune.data.masks.components import find_components, pixels_by_value
from finetune.inference import Predictor
from finetune.io.atomic_write import replace_text
from finetune.metrics.label_doubt import contradicted, label_probability
from finetune.reports.evaluation import write_rows
from finetune.reports.page import page, photo

RIGHT = -1  # pixels whose label the model does not contradict
SMALLEST = 50  # pixels of an area: smaller ones are at the edges of classes
MARGIN, NARROWEST = 0.5, 96  # around an area, in its own size; least side of its picture in pixels
PAGE, TABLE = "label_errors.html", "label_errors.csv"
PICTURES = "label_errors/{:03}.jpg"  # by the place of the image in the table
Target = Callable[[dict[str, Tensor]], Tensor]
Box = tuple[int, int, int, int]
INTRODUCTION = (
    "<p>Each picture shows the largest area of an image. The model may be the one that is wrong: a kind of object that "
    "it has never seen looks like an error, too. label_errors.csv of the evaluation has all areas.</p>"
)


@dataclass(frozen=True)
class LabelError:
    """A connected area of an image whose label the model contradicts.

    Attributes:
        image: name.
        label: class in the mask; `not CLASS` where a mask of a multi-label task lacks it.
        predicted: what the model sees instead.
        pixels: area.
        probability: mean probability of the label.
        left: first column.
        top: first row.
        right: the column after the last one.
        bottom: the row after the last one.
    """

    image: str
    label: str
    predicted: str
    pixels: int
    probability: float
    left: int
    top: int
    right: int
    bottom: int


def write_label_errors(
    folder: Path,
    predictor: Predictor,
    dataset: SegmentationDataset,
    target: Target,
    order: Sequence[int],
    ignore_index: int,
) -> list[LabelError]:
    """Write `label_errors.csv`, `label_errors.html` and the folder `label_errors` of its pictures, if there are any.

    Args:
        folder: of the evaluation.
        predictor: of the models that were evaluated.
        dataset: that they were evaluated on.
        target: returns the target of a batch as the task compares it with predictions.
        order: indices of the images to look at, the most doubtful first.
        ignore_index: label of the pixels to leave out.

    Returns:
        The areas, image by image, the largest first.
    """
    found, pictures = list[LabelError](), list[str]()
    for index in order:
        sample = dataset[index]
        truth = target({"mask": sample["mask"][None]})
        prediction, probabilities = predictor.predict_with_probabilities(sample["image"][None])
        assert probabilities is not None
        areas = find_label_errors(
            dataset.records[index].name, probabilities, truth, predictor.class_names, ignore_index
        )
        if areas:
            found += areas
            picture = _picture(areas[0], sample, truth[0], prediction[0], predictor, ignore_index)
            path = folder / PICTURES.format(len(pictures))
            path.parent.mkdir(exist_ok=True)
            picture.convert("RGB").save(path, quality=90)
            pictures.append(photo(path, caption([asdict(area) for area in areas])))
    if found:
        write_rows(folder / TABLE, [asdict(area) for area in found])
        body = [f"<h1>Labels that the model contradicts, in {len(pictures):,} images</h1>", INTRODUCTION, *pictures]
        replace_text(folder / PAGE, page("Label errors", body))
    return found


def label_errors_text(areas: Sequence[LabelError], folder: Path) -> str:
    """Return what was found in words."""
    if not areas:
        return f"no area of {SMALLEST} pixels or more whose label the model contradicts"
    images = len({area.image for area in areas})
    return f"labels that the model contradicts: areas {len(areas):,}, images {images:,}; pictures in {folder / PAGE}"


def find_label_errors(
    image: str, probabilities: Tensor, target: Tensor, classes: Sequence[str], ignore_index: int
) -> list[LabelError]:
    """Return the areas of an image whose label the model contradicts, of 50 pixels or more, the largest first.

    Args:
        image: name.
        probabilities: (1, K, H, W).
        target: class indices (1, H, W), or masks (1, K, H, W) of 0 and 1.
        classes: names of the K classes.
        ignore_index: label of the pixels to leave out.
    """
    of_label = label_probability(probabilities, target, ignore_index)
    wrong, truth, p = contradicted(probabilities, of_label)[0].numpy(), target[0].numpy(), of_label[0].numpy()
    found = list[LabelError]()
    if target.ndim == 4:
        for k, name in enumerate(classes):
            names = [(f"not {name}", name), (name, f"not {name}")]
            found += _areas(image, names, np.where(wrong[k], truth[k].astype(np.int64), RIGHT), p[k])
    else:
        pairs = truth.astype(np.int64) * len(classes) + probabilities[0].argmax(0).numpy()
        found += _areas(
            image, [(label, other) for label in classes for other in classes], np.where(wrong, pairs, RIGHT), p
        )
    return sorted(found, key=lambda area: -area.pixels)


def _areas(
    image: str, names: Sequence[tuple[str, str]], errors: NDArray[np.int64], probability: NDArray[np.floating]
) -> Iterator[LabelError]:
    """Yield the connected areas of one kind of error.

    Args:
        image: name.
        names: label and prediction of each kind of error.
        errors: kind of each pixel (H, W); `RIGHT` for none.
        probability: of the label (H, W).
    """
    components = find_components(errors)
    kinds = np.where(components.areas < SMALLEST, RIGHT, components.labels)
    numbers = np.where(kinds == RIGHT, RIGHT, np.arange(len(kinds)))
    for number, found in pixels_by_value(numbers[components.of_run][components.runs]):
        if number != RIGHT:
            inside = probability[found.rows, found.columns][found.covered]
            box = found.left, found.top, found.columns.stop, found.rows.stop
            label, predicted = names[kinds[number]]
            yield LabelError(image, label, predicted, len(inside), float(inside.mean()), *box)


def caption(areas: Sequence[Mapping[str, Any]]) -> str:
    """Return the text below the picture of the first of these rows of `label_errors.csv`."""
    area, others = areas[0], len(areas) - 1
    text = "{image}: {pixels} pixels labeled {label}, seen as {predicted}, x {left} to {right}, y {top} to {bottom}"
    return text.format(**area) + (f"; {others} more" if others else "")


def _picture(
    area: LabelError, sample: Sample, truth: Tensor, prediction: Tensor, predictor: Predictor, ignore_index: int
) -> Image.Image:
    """Return image, mask, prediction and errors around an area."""
    height, width = sample["image"].shape[-2:]
    top, bottom = _widened(area.top, area.bottom, height)
    left, right = _widened(area.left, area.right, width)
    region = (..., slice(top, bottom), slice(left, right))
    return predictor.output.preview([(sample["image"][region], truth[region], prediction[region])], ignore_index)


def _widened(start: int, stop: int, length: int) -> tuple[int, int]:
    """Return a stretch with what is around it, inside of a length.

    >>> _widened(100, 300, 1000), _widened(0, 10, 1000)
    ((0, 400), (0, 53))
    """
    margin = round(max(MARGIN * (stop - start), (NARROWEST - (stop - start)) / 2))
    return max(0, start - margin), min(length, stop + margin)
