"""Images of an evaluation: the worst and the best with their errors, or some with their objects."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from finetune.data import SegmentationDataset
from finetune.data.dataset import Sample
from finetune.inference import Predictor
from finetune.instances import Objects, from_planes
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
    rows = {index: _row(dataset[index], predictor, target) for index in chosen}
    for name, indices in shown.items():
        predictor.output.preview([rows[index] for index in indices], ignore_index).save(folder / name)


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


def _row(sample: Sample, predictor: Predictor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image, its target and its prediction."""
    truth = target({"mask": sample["mask"][None]})[0]
    return sample["image"], truth, predictor.predict_image(sample["image"])
