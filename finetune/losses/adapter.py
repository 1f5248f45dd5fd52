"""An adapter for losses of other packages, which take (logits, target)."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.losses.functional import Reduce, no_reduction
from finetune.losses.loss import TargetFormat
from finetune.losses.pixel_loss import check_at_least_zero

logger = logging.getLogger(__name__)


class ForeignLoss(nn.Module):
    """A loss of another package, such as `segmentation_models_pytorch.losses.DiceLoss`.

    It is called with float32 (or float64) logits (B, K, H, W), and with int64 class indices (B, H, W) or masks
    (B, K, H, W) in the logits' type. Its value must be a scalar. A batch in which every pixel is ignored costs 0.

    A loss of two arguments knows one device only, so on several devices the loss is the mean of the devices' losses,
    and not that of the global batch. One warning says so.

    Ignored pixels: a constructor with an argument `ignore_index` gets the label. Any other loss would count the label
    as a class, so a batch with ignored pixels is refused. `drop_ignored` passes on the remaining pixels instead, as an
    image (1, K, N, 1); that is exact for a loss that treats the pixels of a batch as one set, and wrong for one that
    looks at neighboring pixels or at one image at a time, which only the user can know.

    Looking for ignored pixels waits for the device once per step.

    Args:
        target: class of the loss, or a function that returns it.
        options: arguments of the class.
        drop_ignored: whether to leave ignored pixels out before the loss sees them.
        ignore_index: label of the pixels to leave out.
        auxiliary_weight: weight of the loss of each auxiliary output, next to a weight of 1 for the logits.

    Raises:
        ValueError: options that the class does not take.

    >>> loss = ForeignLoss(nn.CrossEntropyLoss, {"label_smoothing": 0.1})
    >>> float(loss(torch.zeros(1, 2, 1, 1), torch.tensor([[[255]]])))
    0.0
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices", "masks")

    def __init__(
        self,
        target: Callable[..., nn.Module],
        options: Mapping[str, Any] | None = None,
        drop_ignored: bool = False,
        *,
        ignore_index: int = 255,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__()
        check_at_least_zero(auxiliary_weight=auxiliary_weight)
        given = dict(options or {})
        if "ignore_index" in given:
            raise ValueError(f"options={given}: ignore_index is set by data.ignore_index. Leave it out.")
        self.name = getattr(target, "__name__", str(target))
        self.takes_ignored = not drop_ignored and "ignore_index" in inspect.signature(target).parameters
        if self.takes_ignored:
            given["ignore_index"] = ignore_index
        try:
            self.loss = target(**given)
        except Exception as error:  # the class may check its options in any way
            raise ValueError(f"{self.name} does not take options={dict(options or {})}: {error}") from error
        self.ignore_index = ignore_index
        self.drop_ignored = drop_ignored
        self.auxiliary_weight = auxiliary_weight
        self._warned = False

    def forward(self, logits: Tensor, target: Tensor, reduce: Reduce = no_reduction) -> Tensor:
        """Return the scalar loss of this device's part of the batch; `reduce` has nothing to add up."""
        self._warn_on_several_devices()
        zero = 0 * logits.float().sum()  # in half precision, the sum may be infinite
        ignored = target.int() == self.ignore_index  # as uint8, -100 == 156
        if ignored.all():
            return zero
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            target = target.long() if target.ndim == logits.ndim - 1 else target.to(logits.dtype)
            if not self.takes_ignored and ignored.any():
                logits, target = self._without_ignored(logits, target, ignored)
            value: Tensor = self.loss(logits, target) if target.numel() else zero
        if value.ndim:
            raise ValueError(
                f"{self.name} returns a tensor of shape {tuple(value.shape)}; expected a scalar. "
                f"Set its option for that, such as +loss.options.reduction=mean."
            )
        return value

    def _without_ignored(self, logits: Tensor, target: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        if not self.drop_ignored:
            raise ValueError(
                f"the batch has {int(ignored.sum()):,} ignored pixels ({self.ignore_index}), for which {self.name} has "
                f"no argument. Set loss.drop_ignored=true if the loss does not depend on where pixels are, or use "
                f"another loss. Ignored pixels also come from crops that are larger than the scaled image."
            )
        if target.ndim == logits.ndim:  # a pixel is kept if it counts for every class
            kept = ~ignored.any(dim=1)
            return _as_one_image(logits, kept), _as_one_image(target, kept)
        return _as_one_image(logits, ~ignored), target[~ignored].view(1, -1, 1)

    def _warn_on_several_devices(self) -> None:
        distributed = torch.distributed
        if self._warned or not distributed.is_available() or not distributed.is_initialized():
            return
        self._warned = True
        if distributed.get_world_size() > 1 and distributed.get_rank() == 0:
            logger.warning(
                f"loss={self.name} of another package: on {distributed.get_world_size()} devices it is the mean of the "
                f"devices' losses, not the loss of the global batch. Results depend on the number of devices."
            )


def _as_one_image(values: Tensor, kept: Tensor) -> Tensor:
    """Return the pixels (B, K, H, W) of the kept positions (B, H, W) as (1, K, N, 1)."""
    return values.movedim(1, -1)[kept].T[None, ..., None]
