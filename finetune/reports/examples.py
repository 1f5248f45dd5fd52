"""Images of an evaluation: the worst and the best with their errors, or some with their objects."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.data import SegmentationDataset
from finetune.data.dataset import Sample
from finetune.inference import Predictor
from finetune.inference.output import Row
from finetune.instances import Objects, from_planes
from finetune.metrics.image_statistics import pixel_uncertainty
from finetune.metrics.overlaps import ImageResults, overlap_iou
from finetune.plots.objects import compared, object_page

SHOWN = 4  # images on a page
Find = Callable[[Tensor], Objects]
Target = Callable[[dict[str, Tensor]], Tensor]


def write_examples(
    folder: Path,
    predictor: Predictor,
    dataset: SegmentationDataset,
    target: Target,
    images: ImageResults,
    ignore_index: int,
) -> None:
    """Write `worst.png` and `best.png`.

    Args:
        folder: of the evaluation.
        predictor: of the models that were evaluated.
        dataset: that they were evaluated on.
        target: returns the target of a batch as the task compares it with predictions.
        images: results of each image.
        ignore_index: label of the pixels to leave out.
    """
    means = overlap_iou(images.overlaps).nanmean(-1)
    order = sorted(
        (index for index in images.seen.tolist() if not means[index].isnan()), key=means.tolist().__getitem__
    )
    shown = {"worst.png": order[:SHOWN], "best.png": order[: -SHOWN - 1 : -1]} if order else {}
    chosen = dict.fromkeys(index for indices in shown.values() for index in indices)  # of few images, some are in both
    found = {index: _predicted(dataset[index], predictor, target) for index in chosen}
    for name, indices in shown.items():
        rows, maps = [found[index][0] for index in indices], [found[index][1] for index in indices]
        predictor.output.preview(rows, ignore_index, maps).save(folder / name)


def write_object_examples(folder: Path, find: Find, dataset: SegmentationDataset, class_names: Sequence[str]) -> None:
    """Write `examples.png`: images that are spread over a data set, with their true and their predicted objects.

    Args:
        folder: of the evaluation.
        find: returns the objects to show of an image (C, H, W), uint8.
        dataset: whose targets are planes of objects.
        class_names: of the model.
    """
    count = min(SHOWN, len(dataset))
    samples = [dataset[position * len(dataset) // count] for position in range(count)]
    rows = [compared(each["image"], from_planes(each["mask"]), find(each["image"])) for each in samples]
    object_page(rows, class_names).save(folder / "examples.png")


def _predicted(sample: Sample, predictor: Predictor, target: Target) -> tuple[Row, NDArray[np.floating]]:
    """Return an image with its target and its prediction, and the uncertainty of its pixels (H, W)."""
    truth = target({"mask": sample["mask"][None]})[0]
    predictions, probabilities = predictor.predict_with_probabilities(sample["image"][None])
    assert probabilities is not None  # they are wanted
    uncertain = pixel_uncertainty(probabilities, several=predictions.ndim == 4)[0]
    return (sample["image"], truth, predictions[0]), uncertain.numpy()
