"""Images and masks on disk as training samples."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from finetune.data.decode import read_image, read_mask
from finetune.data.records import DataError, Record
from finetune.data.transforms import Transform


class SampleKey(NamedTuple):
    """What the training sampler asks a dataset for."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs on a key


class Sample(TypedDict):
    """One item: image uint8 (C, H, W), mask uint8 (H, W), position in the dataset."""

    image: Tensor
    mask: Tensor
    index: int


class SegmentationDataset(Dataset[Sample]):
    """Decodes a record and applies the transform.

    The transform's randomness is a pure function of (seed, epoch, index): neither the number of workers, nor the order
    of the samples, nor a restart changes a sample. A plain index asks for epoch 0.

    Args:
        records: images with masks.
        channels: 1, 3 or 4, as for `read_image`.
        ignore_index: label that is left out of loss and score, 0 to 255.
        mask_values: file value of each class, as for `read_mask`.
        transform: called as `transform(image, mask, generator)`; None returns the files as they are.
        seed: of the transform.
    """

    def __init__(
        self,
        records: Sequence[Record],
        channels: int = 3,
        ignore_index: int = 255,
        mask_values: Sequence[int] | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        if not records:
            raise DataError("a dataset needs at least one record, got none. Is there a split of that name?")
        if not 0 <= ignore_index <= 255:
            raise ValueError(f"ignore_index={ignore_index}: masks are uint8, so expected 0 to 255. Use 255.")
        self.records = list(records)
        self.channels = channels
        self.ignore_index = ignore_index
        self.mask_values = mask_values
        self.transform = transform
        self.seed = seed
        self.names = [record.name for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        epoch, index = key if isinstance(key, SampleKey) else (0, key)
        record = self.records[index]
        if record.mask is None:
            raise DataError(f"'{record.image}' has no mask to train or score on. Add one, or take the record out.")
        image = read_image(record.image, self.channels)
        mask = read_mask(record.mask, self.mask_values, self.ignore_index)
        if image.shape[1:] != mask.shape:
            raise DataError(
                f"'{record.image}' is {tuple(image.shape[1:])} and its mask '{record.mask}' {tuple(mask.shape)} "
                "(height, width); expected the same size. Save the mask at the image's size."
            )
        if self.transform is not None:
            image, mask = self.transform(image, mask, counted_generator(self.seed, epoch, index))
        return {"image": image, "mask": mask, "index": index}


def counted_generator(*counters: int) -> torch.Generator:
    """A generator whose stream depends on these numbers only (0 or above), and differs wherever one of them does."""
    # SeedSequence mixes: neighboring seeds, epochs and indices give unrelated streams, unlike seed + epoch + index
    mixed = np.random.SeedSequence(counters).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))
