"""Images and masks in memory, as a data set of an audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data import DataError, Record
from finetune.data.audit import DataSet, Finding
from finetune.data.audit.examination import examine

CLASSES = ("background", "thing", "other")


@dataclass(frozen=True)
class Pixels:
    """An image (H, W, 3) or a target that is known; an error for None."""

    values: np.ndarray | None
    description: str
    paths: tuple[Path, ...] = ()

    def read(self, channels: int = 0) -> Tensor:
        if self.values is None:
            raise DataError(f"cannot read '{self.paths[0]}': it is broken. Replace the file or remove it.")
        pixels = torch.from_numpy(np.array(self.values))
        return pixels.permute(2, 0, 1).contiguous() if channels else pixels


@dataclass(frozen=True)
class GroupedRecord(Record):
    """A record with a group."""

    group: str = ""


def photo(seed: int, size: tuple[int, int] = (48, 64), low: int = 40, high: int = 220) -> np.ndarray:
    """Return an image (H, W, 3) that is unlike those of other seeds: random colored squares of 8 pixels."""
    blocks = np.random.default_rng(seed).integers(low, high, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def labels(size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Return a mask (H, W) with a square of class 1 and one of class 2 on the background."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[8:20, 8:20], mask[24:40, 30:50] = 1, 2
    return mask


def data_set(
    images: Sequence[np.ndarray | None],
    masks: Sequence[np.ndarray | None] | np.ndarray | None = None,
    splits: Sequence[str] | str = "train",
    groups: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
) -> DataSet:
    """Return a data set of images; one mask, or the usual one, may be that of all."""
    usual = labels() if masks is None else masks
    examined = []
    for index, image in enumerate(images):
        mask = usual if isinstance(usual, np.ndarray) else usual[index]
        paths = [(Path(f"{kind}/{index}.png"),) for kind in ("images", "masks")]
        record = GroupedRecord(
            str(index),
            Pixels(image, f"image '{paths[0][0]}'", paths[0]),
            Pixels(mask, f"mask '{paths[1][0]}'", paths[1]),
            splits if isinstance(splits, str) else splits[index],
            groups[index] if groups else "",
        )
        examined.append(examine(record))
    return DataSet(examined, tuple(classes))


def kinds(findings: Sequence[Finding]) -> dict[str, list[int]]:
    """Return the kinds of findings, each with the positions of its images."""
    return {finding.kind: sorted(finding.details) for finding in findings}
