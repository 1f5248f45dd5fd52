"""Several models that predict together, such as those of a cross-validation."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from finetune.models.pyramid_model import PyramidModel
from finetune.models.segmenter import Segmenter


def mean_logits(models: Iterable[Segmenter], images: Tensor) -> Tensor:
    """Return the mean of the models' logits (B, K, H, W), each with its own normalization and views.

    It is the geometric mean of their probabilities, as nnU-Net combines its folds.

    Args:
        models: one or more.
        images: (B, C, H, W), uint8.
    """
    logits: list[Tensor] = [model(model.normalize(images)) for model in models]
    return logits[0] if len(logits) == 1 else sum(logits[1:], logits[0]) / len(logits)


def check_alike(models: Sequence[PyramidModel]) -> None:
    """Raise ValueError unless all models have the same classes and read the same image channels."""
    first = models[0]
    for model in models[1:]:
        if model.class_names != first.class_names:
            raise ValueError(
                f"models that predict together need the same classes, but one has {', '.join(first.class_names)} and "
                f"another {', '.join(model.class_names)}."
            )
        if model.backbone.in_channels != first.backbone.in_channels:
            raise ValueError(
                f"models that predict together need the same image channels, but one has {first.backbone.in_channels} "
                f"and another {model.backbone.in_channels}."
            )
