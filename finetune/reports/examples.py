"""The worst and the best images of an evaluation, drawn with truth, prediction and errors."""

from collections.abc import Sequence
from pathlib import Path

from finetune.data import SegmentationDataset
from finetune.inference import Predictor
from finetune.metrics.overlaps import ImageResults, overlap_iou

SHOWN = 4  # images on a page


def write_examples(
    folder: Path, predictor: Predictor, dataset: SegmentationDataset, images: ImageResults, ignore_index: int
) -> None:
    """Write `worst.png` and `best.png`.

    Args:
        folder: of the evaluation.
        predictor: of the models that were evaluated.
        dataset: that they were evaluated on.
        images: results of each image.
        ignore_index: label of the pixels to leave out.
    """
    means = overlap_iou(images.overlaps).nanmean(-1)
    order = sorted(
        (index for index in images.seen.tolist() if not means[index].isnan()), key=means.tolist().__getitem__
    )
    if order:
        _draw(folder / "worst.png", order[:SHOWN], predictor, dataset, ignore_index)
        _draw(folder / "best.png", order[: -SHOWN - 1 : -1], predictor, dataset, ignore_index)


def _draw(
    path: Path, indices: Sequence[int], predictor: Predictor, dataset: SegmentationDataset, ignore_index: int
) -> None:
    samples = [dataset[index] for index in indices]
    rows = [(sample["image"], sample["mask"], predictor.predict_image(sample["image"])) for sample in samples]
    predictor.output.preview(rows, ignore_index).save(path)
