"""Copy-paste of objects: some of another sample's objects are put over a training sample."""

from collections.abc import Callable

import torch

from finetune.data.augmentation.mix import Pair, same_size
from finetune.instances import Planes, from_planes


class PasteObjects:
    """Pastes half of the objects of another sample, where they are in it, with a probability.

    What they cover is cut out of the sample's own objects; an object that is covered wholly is gone.

    Args:
        copy_paste: the probability.

    Source: Ghiasi et al. 2020, https://arxiv.org/abs/2012.07177
    """

    def __init__(self, copy_paste: float) -> None:
        if not 0 <= copy_paste <= 1:
            raise ValueError(f"copy_paste={copy_paste}: expected a probability from 0 to 1.")
        self.copy_paste = copy_paste

    def __call__(self, sample: Pair, other: Callable[[], Pair], generator: torch.Generator) -> Pair:
        """Mix one sample.

        Args:
            sample: image, uint8 (C, H, W), and planes of objects, uint8 (2L, H, W).
            other: returns another random sample of the same size; may draw from the generator.
            generator: on the CPU, seeded for this sample.
        """
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= self.copy_paste:
            return sample
        return paste(sample, same_size(sample, other()), generator)


def paste(sample: Pair, partner: Pair, generator: torch.Generator) -> Pair:
    """Return the sample with a random half of its partner's objects, rounded up, over it."""
    own, others = from_planes(sample[1]), from_planes(partner[1])
    count = -(-len(others) // 2)
    chosen = others[torch.randperm(len(others), generator=generator)[:count]]
    covered = chosen.masks.any(0)
    planes = Planes(*own.size)
    for mask, label in zip(own.masks & ~covered, own.labels.tolist(), strict=True):
        planes.add(mask, label)
    for mask, label in zip(chosen.masks, chosen.labels.tolist(), strict=True):
        planes.add(mask, label)
    return torch.where(covered, partner[0], sample[0]), planes.finish(own.ignored)
