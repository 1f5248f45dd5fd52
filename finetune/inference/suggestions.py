"""Which images to label next: those that the model is unsure of, and that differ from each other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.inference.class_masks import ClassMasks
from finetune.inference.pipeline import batches, read_ahead
from finetune.inference.predictor import Predictor
from finetune.inference.problems import predict_named
from finetune.metrics.image_statistics import uncertainty

AMONG = 5  # times as many uncertain images are chosen from as are wanted


@dataclass(frozen=True)
class Candidate:
    """An image that could be labeled.

    Attributes:
        path: of the image.
        uncertainty: of the model, 0..1, as in `metrics/image_statistics.py`.
        features: mean over the pixels of the backbone's coarsest map, and over views and windows (C,), on the CPU.
    """

    path: Path
    uncertainty: float
    features: Tensor


def look_at(predictor: Predictor, paths: Iterable[Path], problems: list[str]) -> Iterator[Candidate]:
    """Yield each image that can be read, as the model sees it.

    Args:
        predictor: of the model; of several, the features are those of the first.
        paths: of the images.
        problems: gets a line for each file that cannot be read.
    """
    means: list[Tensor] = []  # one for each view of each window

    def keep(_: object, __: object, output: list[Any]) -> None:
        *_, coarsest = (each for each in output if isinstance(each, Tensor))
        means.append(coarsest.mean((2, 3)).float().cpu())

    several = isinstance(predictor.output, ClassMasks)
    handle = predictor.model.backbone.register_forward_hook(keep)
    try:
        for batch in batches(read_ahead(paths, predictor.read, problems), predictor.batch_size):
            means.clear()
            _, probabilities = predict_named(batch, predictor.predict_with_probabilities)
            assert probabilities is not None
            features = torch.stack(means).mean(dim=0)
            for image, value, row in zip(batch, uncertainty(probabilities, several), features, strict=True):
                yield Candidate(image.path, float(value), row)
    finally:
        handle.remove()


def suggest(candidates: list[Candidate], count: int) -> list[Candidate]:
    """Return the images to label next, the most useful first.

    From the most uncertain ones, five times as many as are wanted, the most uncertain one is taken; then always the one
    whose features are farthest from those of all that were taken, so that of images that are alike one is taken.

    Args:
        candidates: one or more.
        count: number of images.

    Source: Sener and Savarese 2018, https://arxiv.org/abs/1708.00489 (k-center), on the uncertain ones only.
    """
    order = sorted(candidates, key=lambda each: -each.uncertainty)[: AMONG * count]
    features = torch.nn.functional.normalize(torch.stack([each.features for each in order]), dim=1)
    taken, nearest = [0], (features - features[0]).norm(dim=1)
    while len(taken) < min(count, len(order)):
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (features - features[taken[-1]]).norm(dim=1))
    return [order[index] for index in taken]
