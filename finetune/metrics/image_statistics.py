"""Numbers of single images that are no scores: what they look like, and how sure the model is."""

import math

import torch
from torch import Tensor

from finetune.metrics.measurement import ImageBatch

NAMES = ("brightness", "foreground", "uncertainty")
MOST_UNCERTAIN = 0.05  # share of an image's pixels


class ImageStatistics:
    """Keeps brightness, foreground and uncertainty of each image; see `Measurement`.

    The brightness is the mean of the uint8 image, 0..255. The foreground is the share of the pixels that count which
    have another class than the first or, where a pixel may have several, any class.

    Args:
        images: N, of the data set.
        ignore_index: label of the pixels that the foreground leaves out; the others look at pixels of any label.
    """

    def __init__(self, images: int, ignore_index: int) -> None:
        self._images, self._ignore_index = images, ignore_index
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, batch: ImageBatch) -> None:
        """Keep the numbers of a batch."""
        rows = (
            batch.image.float().mean((1, 2, 3)),
            foreground(batch.target, self._ignore_index),
            uncertainty(batch.probabilities, several=batch.target.ndim == 4),
        )
        self._rows.append((batch.index, torch.stack([row.float() for row in rows], dim=-1)))

    def sums(self) -> dict[str, Tensor]:
        """Return a tensor (N,), float32, by each of `NAMES`; 0 for images that were not measured."""
        table = torch.zeros(self._images, len(NAMES))
        for index, rows in self._rows:
            table[index.cpu()] = rows.cpu()
        return dict(zip(NAMES, table.unbind(-1), strict=True))


def foreground(target: Tensor, ignore_index: int = 255) -> Tensor:
    """Return the share of the pixels of each image (B,), float32, that have a class other than the first; NaN for none.

    Args:
        target: class indices (B, H, W), or masks (B, K, H, W), in which any class is foreground.
        ignore_index: label of the pixels to leave out; of masks, those that are ignored in all.

    >>> foreground(torch.tensor([[[0, 1, 2, 255]]])).tolist()
    [0.6666666865348816]
    """
    counted = target.int() != ignore_index  # as uint8, -100 == 156
    having = (target > 0) & counted
    if target.ndim == 4:
        counted, having = counted.byte().amax(1), having.byte().amax(1)  # a tenth of the time of any()
    return having.sum((1, 2)) / counted.sum((1, 2))


def uncertainty(probabilities: Tensor, several: bool = False) -> Tensor:
    """Return the uncertainty of each image (B,), 0..1: the mean entropy of its 5 % most uncertain pixels.

    Every second pixel in both directions is looked at, as neighbors are alike.

    Args:
        probabilities: (B, K, H, W), floating point.
        several: whether a pixel may have several classes.

    >>> uncertainty(torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)).tolist()
    [1.0]
    """
    pixels = pixel_uncertainty(probabilities[..., ::2, ::2], several).flatten(1)
    return pixels.topk(math.ceil(MOST_UNCERTAIN * pixels.shape[1])).values.mean(1)


def pixel_uncertainty(probabilities: Tensor, several: bool = False) -> Tensor:
    """Return the entropy of each pixel (B, H, W), 0..1: a fraction of that of K equally probable classes.

    Where a pixel may have several classes, it is the mean of the entropies of each; the arguments are those of
    `uncertainty`.
    """
    p = probabilities
    if several:
        return (_information(p) + _information(1 - p)).mean(1) / math.log(2)
    return _information(p).sum(1) / math.log(p.shape[1])


def _information(p: Tensor) -> Tensor:
    return -p * p.clamp(min=1e-30).log()  # less than half the time of torch.special.entr
