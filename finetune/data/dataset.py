"""Records as training samples."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, NotRequired, TypedDict, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from finetune.data.augmentation.device_color import as_bits
from finetune.data.augmentation.mix import Mix
from finetune.data.augmentation.paste_objects import PasteObjects
from finetune.data.augmentation.transforms import Augment, Transform
from finetune.data.augmentation.trivial import TrivialAugment
from finetune.data.caching.packed_records import pack_records
from finetune.data.caching.pixel_cache import PixelCache
from finetune.data.records import DataError, Image, Record
from finetune.data.reduction import Reducible, reduce_image, reduce_target, reduced_size

MIXING = 1  # counter of the stream of random numbers for mixing
REPEATED = 2  # counter of the repetitions of a sample within an epoch


class SampleKey(NamedTuple):
    """The index of a sample, and the epoch and repetition within it that its transform is drawn for."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which a key does not need
    repetition: int = 0


class Sample(TypedDict):
    """One item: image uint8 (C, H, W), mask uint8 (H, W) or (K, H, W), position in the dataset.

    `color_matrix`, int32 (C, C + 1), is a change of the image's colors that is still to be made; see `with_colors`.
    """

    image: Tensor
    mask: Tensor
    index: int
    color_matrix: NotRequired[Tensor]


class SegmentationDataset(Dataset[Sample]):
    """Records that are decoded, transformed and mixed when they are asked for.

    All randomness is a pure function of the seed and the `SampleKey`: neither the number of workers, nor the order of
    the samples, nor a restart changes a sample. A plain index stands for epoch 0.

    Args:
        records: images with targets, of any source.
        channels: number of channels that the images are read with.
        transform: called as `transform(image, target, generator)`; None returns images and targets as they are.
        seed: of the transform and the mixing.
        mix: mixes a sample with others, which are drawn from the records and transformed; None for no mixing.

    Attributes:
        reduce: 2, 4 or 8 to read images and targets at 1/2, 1/4 or 1/8 of their size.
        pixels: cache of what is decoded; None decodes each time.
        leaves_color: whether samples have a `color_matrix`, for `with_colors` on the device of a training; only without
            mixing, and with `Augment` or `TrivialAugment`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        channels: int = 3,
        transform: Transform | None = None,
        seed: int = 0,
        mix: Mix | PasteObjects | None = None,
    ) -> None:
        if not records:
            raise DataError("a dataset needs at least one record, got none. Is there a split of that name?")
        self.records = pack_records(records)
        self.channels = channels
        self.transform = transform
        self.seed = seed
        self.mix = mix
        weights = [record.weight for record in records]
        self.weights = weights if len(set(weights)) > 1 or not weights[0] else None
        self.reduce = 1
        self.pixels: PixelCache | None = None
        self.leaves_color = False

    @property
    def names(self) -> list[str]:
        """Names of the records, for messages."""
        return [record.name for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        epoch, index, repetition = key if isinstance(key, SampleKey) else SampleKey(0, key)
        counters = (self.seed, epoch, index, *([REPEATED, repetition] if repetition else []))
        if self.leaves_color and self.mix is None and can_leave_color(self.transform):
            image, target = self._decoded(index)
            change = self.transform.draw(target, counted_generator(*counters))
            image, target, matrix = change.without_color(image, target, self.transform.ignore_index)
            return {"image": image, "mask": target, "index": index, "color_matrix": as_bits(matrix)}
        image, target = self._transformed(index, counted_generator(*counters))
        if self.mix is not None:
            generator = counted_generator(*counters, MIXING)
            image, target = self.mix((image, target), partial(self._other, index, generator), generator)
        return {"image": image, "mask": target, "index": index}

    def _transformed(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image, target = self._decoded(index)
        return (image, target) if self.transform is None else self.transform(image, target, generator)

    def _decoded(self, index: int) -> tuple[Tensor, Tensor]:
        if self.pixels is None:
            return read_pair(self.records[index], self.channels, self.reduce)
        return self.pixels.read(index, lambda: read_pair(self.records[index], self.channels, self.reduce))

    def _other(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a random sample, another one if there is any; none of weight 0, which is never trained on."""
        step = 1 + int(torch.randint(max(1, len(self) - 1), (), generator=generator))
        weights, other = self.weights, (index + step) % len(self)
        while weights is not None and not weights[other]:
            other = (other + 1) % len(self)
        return self._transformed(other, generator)


def can_leave_color(transform: Transform | None) -> TypeGuard[Augment | TrivialAugment]:
    """Return whether a transform changes colors and says how; one of the user's own does not, as a call may do more."""
    if not isinstance(transform, Augment | TrivialAugment):
        return False
    return type(transform).__call__ in (Augment.__call__, TrivialAugment.__call__) and transform.changes_color


def read_pair(record: Record, channels: int = 3, reduce: int = 1) -> tuple[Tensor, Tensor]:
    """Decode the image (C, H, W) and the target (H, W) or (K, H, W) of a record, both uint8.

    A target of another size but of the image's shape is resized by nearest neighbor.

    Args:
        record: the image and its target.
        channels: of the image.
        reduce: 2, 4 or 8 for 1/2, 1/4 or 1/8 of the image's size.

    Raises:
        DataError: one of them is missing or cannot be decoded, or their shapes differ.
    """
    if record.target is None:
        raise DataError(f"{record.image.description} has no mask to train or score on. Add one, or remove the image.")
    image, target = _read_image(record.image, channels, reduce), record.target.read()
    size, target_size = (image.shape[-2], image.shape[-1]), (target.shape[-2], target.shape[-1])
    if reduce > 1 and size == reduced_size(target_size, reduce):
        return image, reduce_target(target, reduce)
    if size != target_size and same_shape(size, target_size):
        return image, resize_nearest(target, size)
    if size != target_size:
        raise size_mismatch(record.image.description, size, record.target.description, target_size)
    return image, target


def _read_image(image: Image, channels: int, reduce: int) -> Tensor:
    if reduce > 1 and isinstance(image, Reducible):
        return image.read_reduced(reduce, channels)
    return reduce_image(image.read(channels), reduce)


def size_mismatch(image: str, size: tuple[int, int], target: str, target_size: tuple[int, int]) -> DataError:
    """Return the error for an image and a target, by their descriptions, whose shapes differ."""
    return DataError(
        f"{image} is {size} and its {target} {target_size} (height, width); expected the same size, or at least the "
        f"same shape. Save the mask at the image's size."
    )


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether one size is the other at another scale, apart from rounding to whole pixels.

    >>> same_shape((100, 201), (50, 100)), same_shape((64, 48), (48, 64))
    (True, False)
    """
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def resize_nearest(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a target (..., h, w) at another size (..., H, W); each pixel has the label at its center."""
    rows, columns = (
        nearest_positions(0, length, length, before) for length, before in zip(size, target.shape[-2:], strict=True)
    )
    return target[..., rows[:, None], columns]


def nearest_positions(start: int, stop: int, length: int, before: int) -> Tensor:
    """Return which of `before` pixels has the center of each pixel from start to stop, of a side resized to length.

    >>> nearest_positions(1, 4, 6, 3).tolist()
    [0, 1, 1]
    """
    return ((torch.arange(start, stop) + 0.5) * (before / length)).long()


def counted_generator(*counters: int) -> torch.Generator:
    """Return a generator whose stream depends on these numbers only, and differs if one of them does.

    They are 0 or above. Zeros at the end do not count: the order of an epoch has the stream of its first sample.
    """
    # SeedSequence mixes: neighboring seeds, epochs and indices give unrelated streams, unlike seed + epoch + index
    mixed = np.random.SeedSequence(counters).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))
