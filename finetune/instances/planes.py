"""Objects as planes of an 8-bit image, so that whatever changes a mask changes them too.

A target of objects is uint8 (2L, H, W): L pairs of planes. The first of a pair has the number of an object in each of
its pixels, the second the object's class plus one; both are 0 where there is no object and `IGNORED` where a pixel
counts for nothing. Objects that overlap are in different pairs, and a pair has at most 254 objects, so most images need
one pair. Crops, flips and resampling by nearest neighbor treat the planes as masks and need not know what they mean.
"""

import torch
from torch import Tensor

from finetune.instances.objects import Objects, boxes_of, objects_of

IGNORED = 255
MAX_NUMBER = 254  # of an object in a plane, and of a class


class Planes:
    """Collects the objects of one image, one after the other.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._pairs = [torch.zeros(2, height, width, dtype=torch.uint8)]
        self._counts = [0]

    def add(self, mask: Tensor, label: int, top: int = 0, left: int = 0) -> None:
        """Add an object; an empty one is left out.

        Args:
            mask: bool (h, w), of the image or a part of it.
            label: its class, 0 to 253.
            top: row of the image at which the part begins.
            left: column of the image at which the part begins.

        Raises:
            ValueError: the class does not fit into 8 bits.
        """
        if not 0 <= label < MAX_NUMBER:
            raise ValueError(f"an object of class {label}: expected 0 to {MAX_NUMBER - 1}, which fit into 8 bits.")
        x, y, right, bottom = map(int, boxes_of(mask[None])[0]) if mask.numel() else (0, 0, 0, 0)
        if right == x:
            return
        window, part = (slice(top + y, top + bottom), slice(left + x, left + right)), mask[y:bottom, x:right]
        index = self._free_pair(part, window)
        self._counts[index] += 1
        self._pairs[index][0][window][part] = self._counts[index]
        self._pairs[index][1][window][part] = label + 1

    def _free_pair(self, part: Tensor, window: tuple[slice, slice]) -> int:
        """Return the first pair in which a part of a window is free, a new one if there is none."""
        for index, (pair, count) in enumerate(zip(self._pairs, self._counts, strict=True)):
            if count < MAX_NUMBER and not (pair[0][window] * part).any():
                return index
        self._pairs.append(torch.zeros_like(self._pairs[0]))
        self._counts.append(0)
        return len(self._pairs) - 1

    def finish(self, ignored: Tensor | None = None) -> Tensor:
        """Return the planes (2L, H, W), uint8.

        Args:
            ignored: bool (H, W), pixels that count for nothing unless an object has them; None for none.
        """
        planes = torch.cat(self._pairs)
        if ignored is not None:
            planes[:, ignored & ~(planes[::2] > 0).any(0)] = IGNORED
        return planes


def from_planes(planes: Tensor, least_pixels: int = 1) -> Objects:
    """Return the objects of planes, in the order of their pairs and numbers.

    Args:
        planes: uint8 (2L, H, W).
        least_pixels: objects with fewer pixels are ignored, such as what a crop has left of them.
    """
    ignored = planes[0] == IGNORED
    masks, labels = [planes.new_zeros(0, *planes.shape[-2:], dtype=torch.bool)], [planes.new_zeros(0)]
    for numbers, classes in zip(planes[::2], planes[1::2], strict=True):
        pixels = torch.bincount(numbers.flatten().int(), minlength=IGNORED + 1)[1:IGNORED]
        present = (pixels >= max(1, least_pixels)).nonzero().flatten() + 1
        if least_pixels > 1:
            specks = ((pixels > 0) & (pixels < least_pixels)).nonzero().flatten() + 1
            if len(specks):
                ignored = ignored | torch.isin(numbers, specks.to(numbers.dtype))
        found = numbers == present.view(-1, 1, 1).to(numbers.dtype)
        masks.append(found)
        of_number = classes.new_zeros(IGNORED + 1).scatter_(0, numbers.flatten().long(), classes.flatten())
        labels.append(of_number[present])
    return objects_of(torch.cat(masks), torch.cat(labels).long() - 1, ignored=ignored)
