"""Remove specks from masks and fill their tiny holes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.masks.components import Components, Labels, find_components
from finetune.data.records import Target


def clean(labels: Labels, pixels: int, ignore_index: int = 255) -> Labels:
    """Give every connected area of up to `pixels` pixels the label that most pixels around it have.

    A speck of a class and a hole in one are the same: small areas of a label. Pixels are connected over their four
    sides. Ignored areas stay. Among equally frequent labels, the smallest is taken.

    Args:
        labels: (H, W), uint8.
        pixels: largest area that is removed; 0 removes none.
        ignore_index: label of the areas that stay, however small.

    >>> clean(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8), 1).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    return absorb(
        labels,
        lambda found: (found.areas <= pixels) & (found.labels != ignore_index),
        lambda found: found.areas <= pixels,
    )


Choose = Callable[[Components], npt.NDArray[np.bool_]]


def absorb(labels: Labels, removable: Choose, silent: Choose | None = None) -> Labels:
    """Give chosen areas the label that most pixels around them have; among equally frequent ones, the smallest.

    Args:
        labels: (H, W), uint8.
        removable: chooses the areas among the components, (C,).
        silent: chooses the areas whose labels are not given to others, (C,); None for those that are removable.
    """
    while True:
        found = find_components(labels)
        chosen_for_removal = removable(found)
        ignored = chosen_for_removal if silent is None else silent(found)
        chosen, majority = _majorities(labels, found, chosen_for_removal, ignored)
        if not len(chosen):
            return labels
        new = found.labels.copy()
        new[chosen] = majority
        labels = new[found.of_run][found.runs]
        if len(chosen) == chosen_for_removal.sum():
            return labels
        # what lies between removable areas only takes the label that these now have


def _majorities(
    labels: Labels, found: Components, removable: npt.NDArray[np.bool_], small: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.integer]]:
    """Return the components that can be removed and have a large neighbor, and the most frequent label of those."""
    if not removable.any():
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.uint8)
    votes = []
    for ours, theirs in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        borders = labels[ours] != labels[theirs]
        one, other = found.of_run[found.runs[ours][borders]], found.of_run[found.runs[theirs][borders]]
        for inside, outside in ((one, other), (other, one)):
            counted = removable[inside] & ~small[outside]
            votes.append(inside[counted] * 256 + found.labels[outside[counted]])
    keys, counts = np.unique(np.concatenate(votes), return_counts=True)
    components, names = keys // 256, keys % 256
    order = np.lexsort((names, -counts, components))
    chosen, first = np.unique(components[order], return_index=True)
    return chosen, names[order][first]


@dataclass(frozen=True)
class CleanedTarget:
    """A target of any source without specks and tiny holes, in each channel if it has several.

    Attributes:
        target: the target as it is.
        pixels: largest area that is removed.
        ignore_index: label of the pixels to leave out.
    """

    target: Target
    pixels: int
    ignore_index: int = 255

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the target."""
        return self.target.paths

    @property
    def description(self) -> str:
        """Text for messages."""
        return self.target.description

    def read(self) -> Tensor:
        """Decode the target, and clean it."""
        labels = self.target.read()
        channels = labels.numpy() if labels.dim() == 3 else labels.numpy()[None]
        cleaned = torch.from_numpy(np.stack([clean(channel, self.pixels, self.ignore_index) for channel in channels]))
        return cleaned if labels.dim() == 3 else cleaned[0]
