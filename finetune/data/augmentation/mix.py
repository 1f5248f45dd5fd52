"""Mix a training sample with others: CutMix, ClassMix, copy-paste and mosaic."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from finetune.data.augmentation.class_crop import class_counts, rare_class
from finetune.data.augmentation.operations import cutout_box
from finetune.data.records import DataError

Pair = tuple[Tensor, Tensor]


class Mix:
    """At most one kind of mixing for each sample; the probabilities of all kinds sum to at most 1.

    Args:
        cutmix: probability that a rectangle comes from another sample.
        classmix: probability that the pixels of half of the other sample's classes do.
        copy_paste: probability that the pixels of one of the other sample's classes do, moved to a random place. The
            class is drawn inversely to the number of its pixels; in targets with one class per pixel, the other
            sample's most frequent class is left out, since it usually is the background.
        mosaic: probability that three quarters of the sample come from three others, each pixel at its own place.
        cutmix_area: smallest and largest fraction of the sample that the rectangle covers.
        ignore_index: label of the pixels without a class.

    Source: Yun et al. 2019, https://arxiv.org/abs/1905.04899; Olsson et al. 2020, https://arxiv.org/abs/2007.07936;
        Ghiasi et al. 2020, https://arxiv.org/abs/2012.07177; Bochkovskiy et al. 2020, https://arxiv.org/abs/2004.10934
    """

    def __init__(
        self,
        cutmix: float = 0.0,
        classmix: float = 0.0,
        copy_paste: float = 0.0,
        mosaic: float = 0.0,
        cutmix_area: tuple[float, float] = (0.1, 0.5),
        ignore_index: int = 255,
    ) -> None:
        chances = {"cutmix": cutmix, "classmix": classmix, "copy_paste": copy_paste, "mosaic": mosaic}
        if min(chances.values()) < 0 or math.fsum(chances.values()) > 1:
            shown = ", ".join(f"{name}={value}" for name, value in chances.items())
            raise ValueError(f"{shown}: expected probabilities that sum to at most 1.")
        if not 0 < cutmix_area[0] <= cutmix_area[1] <= 1:
            raise ValueError(f"cutmix_area={cutmix_area}: expected two numbers above 0 and up to 1, the lesser first.")
        self.chances = chances
        self.cutmix_area = cutmix_area
        self.ignore_index = ignore_index

    def __call__(self, sample: Pair, other: Callable[[], Pair], generator: torch.Generator) -> Pair:
        """Mix one sample.

        Args:
            sample: image, uint8 (C, H, W), and target, uint8 (H, W) or (K, H, W).
            other: returns another random sample of the same size; may draw from the generator.
            generator: on the CPU, seeded for this sample.

        Returns:
            New image and target, or those that were given.

        Raises:
            DataError: the other sample has another size.
        """
        kind, area, ratio, y, x = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        name = self._kind(kind)
        if name is None:
            return sample
        if name == "mosaic":
            others = [same_size(sample, other()) for _ in range(3)]
            return mosaic([sample, *others], (0.25 + y / 2, 0.25 + x / 2))
        partner = same_size(sample, other())
        if name == "cutmix":
            low, high = self.cutmix_area
            return cutmix(sample, partner, low + area * (high - low), 2 ** (2 * ratio - 1), (y, x))
        if name == "classmix":
            return classmix(sample, partner, generator, self.ignore_index)
        return copy_paste(sample, partner, ratio, (y, x), self.ignore_index)

    def _kind(self, draw: float) -> str | None:
        for name, chance in self.chances.items():
            draw -= chance
            if draw < 0:
                return name
        return None


def cutmix(sample: Pair, partner: Pair, area: float, ratio: float, position: tuple[float, float]) -> Pair:
    """Return the sample with a rectangle of its partner; see `cutout_box` for the last three arguments."""
    height, width = sample[0].shape[1:]
    top, bottom, left, right = cutout_box((height, width), area, ratio, position)
    image, target = sample[0].clone(), sample[1].clone()
    for mixed, pixels in zip((image, target), partner, strict=True):
        mixed[..., top:bottom, left:right] = pixels[..., top:bottom, left:right]
    return image, target


def classmix(sample: Pair, partner: Pair, generator: torch.Generator, ignore_index: int = 255) -> Pair:
    """Return the sample with the pixels of half of its partner's classes, rounded up."""
    image, target = partner
    present = class_counts(target, ignore_index).nonzero().view(-1)
    chosen = present[torch.randperm(len(present), generator=generator)[: (len(present) + 1) // 2]]
    region = (target[chosen] == 1).any(0) if target.dim() == 3 else torch.isin(target, chosen.to(target.dtype))
    return torch.where(region, image, sample[0]), torch.where(region, target, sample[1])


def copy_paste(
    sample: Pair, partner: Pair, draw: float, position: tuple[float, float], ignore_index: int = 255
) -> Pair:
    """Return the sample with the pixels of one class of its partner, moved.

    Args:
        sample: image and target.
        partner: of the same size.
        draw: chooses the class, 0 to 1.
        position: of the pixels by height and width: 0 is the top and the left, 1 the bottom and the right.
        ignore_index: label of the pixels without a class.
    """
    where = rare_class(partner[1], draw, ignore_index, leave_out_largest=partner[1].dim() == 2)
    if where is None:
        return sample
    (top, bottom), (left, right) = (_extent(where.any(dim)) for dim in (1, 0))
    part, height, width = where[top:bottom, left:right], bottom - top, right - left
    down = round(position[0] * (where.shape[0] - height))
    across = round(position[1] * (where.shape[1] - width))
    image, target = sample[0].clone(), sample[1].clone()
    for mixed, pixels in zip((image, target), partner, strict=True):
        place = mixed[..., down : down + height, across : across + width]
        place.copy_(torch.where(part, pixels[..., top:bottom, left:right], place))
    return image, target


def mosaic(samples: list[Pair], center: tuple[float, float]) -> Pair:
    """Return one sample of the top left, top right, bottom left and bottom right parts of four.

    Args:
        samples: four of the same size.
        center: where the parts meet, as fractions of height and width.
    """
    image, target = samples[0][0].clone(), samples[0][1].clone()
    height, width = (round(part * size) for part, size in zip(center, image.shape[1:], strict=True))
    parts = [(slice(None, height), slice(width, None)), (slice(height, None), slice(None, width))]
    parts.append((slice(height, None), slice(width, None)))
    for (rows, columns), other in zip(parts, samples[1:], strict=True):
        for mixed, pixels in zip((image, target), other, strict=True):
            mixed[..., rows, columns] = pixels[..., rows, columns]
    return image, target


def same_size(sample: Pair, partner: Pair) -> Pair:
    """Return the partner of a sample.

    Raises:
        DataError: it has another size.
    """
    if sample[0].shape != partner[0].shape:
        sizes = " and ".join(f"{height}x{width}" for height, width in (pair[0].shape[1:] for pair in (sample, partner)))
        raise DataError(f"samples of {sizes} (height x width) cannot be mixed. Set augment.crop to one size.")
    return partner


def _extent(marked: Tensor) -> tuple[int, int]:
    """Return the range from the first to the last true entry."""
    indices = marked.nonzero().view(-1)
    return int(indices[0]), int(indices[-1]) + 1
