"""One of the losses with its settings, as a module."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetune.io.messages import suggest
from finetune.losses.functional import Reduce, ce_dice, cross_entropy, dice, focal, no_reduction, sigmoid_focal_dice

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "ce_dice": ce_dice,
    "focal": focal,
    "sigmoid_focal_dice": sigmoid_focal_dice,
}


class SegmentationLoss(nn.Module):
    """One of `LOSSES` with its settings, in float32 whatever autocast does.

    Args:
        name: `cross_entropy`, `dice`, `ce_dice`, `focal` or `sigmoid_focal_dice`.
        ignore_index: label of the pixels that do not count.
        class_weights: weights (K,); not part of the checkpoint, they belong to the data.
        label_smoothing: for the cross-entropy part, 0..1.
        dice_weight: for `ce_dice`, the weight of Dice beside a cross-entropy of weight 1; also for
            `sigmoid_focal_dice`.
        focal_weight: for `sigmoid_focal_dice`, the weight of its focal loss.
        gamma: for `focal` and `sigmoid_focal_dice`.
        auxiliary_weight: of each further output that a head learns from, beside a weight of 1 for its logits.

    Raises:
        ValueError: the name is not one of `LOSSES`, or a setting is out of its range.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        name: str = "ce_dice",
        ignore_index: int = 255,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        dice_weight: float = 1.0,
        focal_weight: float = 20.0,
        gamma: float = 2.0,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__()
        if name not in LOSSES:
            raise ValueError(f"unknown loss '{name}'. {suggest(name, LOSSES)}")
        if not (0 <= label_smoothing < 1 and min(dice_weight, focal_weight, gamma) >= 0):
            raise ValueError(
                f"label_smoothing={label_smoothing}, dice_weight={dice_weight}, focal_weight={focal_weight}, "
                f"gamma={gamma}: expected smoothing from 0 to below 1, and the others 0 or more."
            )
        if auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight={auxiliary_weight}: expected 0 or more.")
        self.name = name
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        self.options: dict[str, float] = {
            "cross_entropy": {"label_smoothing": label_smoothing},
            "dice": {},
            "ce_dice": {"label_smoothing": label_smoothing, "dice_weight": dice_weight},
            "focal": {"gamma": gamma},
            "sigmoid_focal_dice": {"focal_weight": focal_weight, "dice_weight": dice_weight, "gamma": gamma},
        }[name]
        self.register_buffer("class_weights", _as_weights(class_weights), persistent=False)

    def forward(self, logits: Tensor, target: Tensor, reduce: Reduce = no_reduction) -> Tensor:
        """Scalar loss of logits (B, K, H, W) against labels (B, H, W); float32, or float64 for logits of that type.

        Args:
            logits: of this device's part of the batch.
            target: of the same part.
            reduce: adds up sums over all devices; the loss is then of the whole batch.
        """
        self._check_shapes(logits, target)
        # half precision overflows in Dice: its sums run over every pixel of the batch
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            weight = None if self.class_weights is None else self.class_weights.to(logits.dtype)
            return LOSSES[self.name](logits, target, self.ignore_index, weight=weight, reduce=reduce, **self.options)

    def _check_shapes(self, logits: Tensor, target: Tensor) -> None:
        batch, classes, *size = logits.shape
        if target.shape != (batch, *size):
            raise ValueError(
                f"the target has shape {tuple(target.shape)}, but logits of shape {tuple(logits.shape)} need "
                f"{(batch, *size)}: one class index per pixel, no channel axis."
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"there are {len(self.class_weights)} class weights, but the logits have {classes} classes. "
                f"Give one weight per class."
            )

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return ", ".join(
            [self.name, f"ignore_index={self.ignore_index}", *(f"{k}={v}" for k, v in self.options.items())]
        )


def _as_weights(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else torch.as_tensor(weights, dtype=torch.float32).detach().clone()
