"""What readings sum up to, for each split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.data.mistakes import Reading, sum_values


@dataclass(frozen=True)
class Statistics:
    """One split in numbers.

    Attributes:
        images: number of images.
        pixels: labeled pixels per class (K,), int64.
        ignored: values with the ignored label; for one channel per class, counted over all channels.
        sizes: (height, width) -> number of images.
        multilabel: whether the targets have one channel per class.
        resized: number of targets of another size than their image, but of its shape.
        turned: images with an EXIF rotation whose size does not tell whether their targets have it, too.
    """

    images: int
    pixels: Tensor
    ignored: int
    sizes: dict[tuple[int, int], int]
    multilabel: bool = False
    resized: int = 0
    turned: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Pixels that a class could have, labeled or ignored; at least 1."""
        if self.multilabel:
            return sum(height * width * count for (height, width), count in self.sizes.items())
        return max(1, int(self.pixels.sum()) + self.ignored)

    @property
    def labeled(self) -> int:
        """Pixels that have a label, for one channel per class the mean over the channels; at least 1."""
        return max(1, self.total - self.ignored // (len(self.pixels) if self.multilabel else 1))


def summarize(readings: Sequence[Reading], classes: int, ignore_index: int) -> Statistics:
    """Return the statistics of readings without problems, at least one."""
    pixels = [reading.positives for reading in readings if reading.positives is not None]
    multilabel = bool(pixels)
    if indices := [reading for reading in readings if reading.positives is None]:
        pixels.append(_class_pixels(sum_values(indices), classes, ignore_index))
    ignored = int(sum_values(readings)[ignore_index])
    sizes = Counter((reading.size[0], reading.size[1]) for reading in readings)
    resized = sum(reading.size != reading.target_size for reading in readings)
    turned = tuple(reading.record.image.description for reading in readings if reading.may_be_turned)
    return Statistics(len(readings), torch.stack(pixels).sum(0), ignored, dict(sizes), multilabel, resized, turned)


def class_pixels(reading: Reading, classes: int, ignore_index: int) -> Tensor:
    """Return the labeled pixels of each class in one record (classes,), int64."""
    if reading.positives is not None:
        return reading.positives
    return _class_pixels(reading.values, classes, ignore_index)


def _class_pixels(values: Tensor, classes: int, ignore_index: int) -> Tensor:
    pixels = values[:classes].clone()
    if ignore_index < classes:
        pixels[ignore_index] = 0  # an ignored label is never a class, even inside 0 to classes - 1
    return pixels
