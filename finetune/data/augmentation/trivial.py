"""TrivialAugment: one random operation at a random strength for each image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from finetune.data.augmentation.change import SampleChange
from finetune.data.augmentation.color_jitter import ColorJitter
from finetune.data.augmentation.transforms import SEEDS, Augment
from finetune.data.augmentation.warp import Warp
from finetune.io.messages import suggest

Operation = Callable[[SampleChange, float, int], SampleChange]  # of a change, a strength from 0 to 1, and a seed


class TrivialAugment:
    """One operation, drawn uniformly for each image, at a strength drawn uniformly, together with the usual crop.

    Geometry and crop are one warp, and the target shares it.

    Args:
        crop: size to return, (height, width) or one number for both; None for each image's own size.
        scale: smallest and largest factor on the image's size, drawn log-uniformly.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        shift: fraction of the free room in which the crop is placed: 1 is anywhere, 0 the center.
        class_crop: probability that the crop is placed around a pixel of a rare class; see `Augment`.
        operations: names of the operations to draw from; None for all of `OPERATIONS`.
        strength: factor on the largest strength of each operation, above 0 to 1.
        ignore_index: label of the pixels that the image does not cover.

    Source: Mueller and Hutter 2021, https://arxiv.org/abs/2103.10158
    """

    def __init__(
        self,
        crop: int | tuple[int, int] | None = 320,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        shift: float = 1.0,
        class_crop: float = 0.0,
        operations: Sequence[str] | None = None,
        strength: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        names = list(OPERATIONS) if operations is None else list(operations)
        for name in names:
            if name not in OPERATIONS:
                raise ValueError(f"operations has '{name}', which is none. {suggest(name, OPERATIONS)}")
        if not names:
            raise ValueError("operations is empty: expected one name at least, or null for all.")
        if not 0 < strength <= 1:
            raise ValueError(f"strength={strength}: expected a number above 0, up to 1.")
        self.operations = names
        self.strength = strength
        self.ignore_index = ignore_index
        self.crop = Augment(
            crop, scale, flip, vertical_flip, shift=shift, class_crop=class_crop, ignore_index=ignore_index
        )

    @property
    def changes_color(self) -> bool:
        """Whether a sample may get other colors."""
        return not COLORS.isdisjoint(self.operations)

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Transform one sample; see `finetune.data.Transform`."""
        return self.draw(target, generator)(image, target, self.ignore_index)

    def draw(self, target: Tensor, generator: torch.Generator) -> SampleChange:
        """Draw the change of one sample; see `Augment.draw`."""
        change = self.crop.draw(target, generator)
        operation, strength, seed = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        apply = OPERATIONS[self.operations[int(operation * len(self.operations))]]
        return apply(change, self.strength * strength, int(seed * SEEDS))


def _signed(size: float, seed: int) -> float:
    """Return a number with the sign that the lowest bit of the seed says."""
    return size if seed & 1 else -size


def _pixels(change: SampleChange, **changes: Any) -> SampleChange:
    return replace(change, pixels=replace(change.pixels, **changes))


def _warped(change: SampleChange, warp: Warp) -> SampleChange:
    return replace(change, view=replace(change.view, warp=warp))


def _identity(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return change


def _rotation(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return replace(change, view=replace(change.view, angle=_signed(90 * strength, seed)))


def _perspective(change: SampleChange, strength: float, seed: int) -> SampleChange:
    shifts = [_signed(0.2 * strength, seed >> bit) for bit in range(8)]
    return _warped(change, Warp(tuple(zip(shifts[::2], shifts[1::2], strict=True))))


def _elastic(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _warped(change, Warp(elastic=16 * strength, spacing=64, seed=seed))


def _grid_distortion(change: SampleChange, strength: float, seed: int) -> SampleChange:
    lengths = [1 + _signed(0.7 * strength, seed >> bit) for bit in range(10)]
    return _warped(change, Warp(rows=tuple(lengths[:5]), columns=tuple(lengths[5:])))


def _brightness(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, color=ColorJitter(brightness=1 + _signed(0.7 * strength, seed)))


def _contrast(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, color=ColorJitter(contrast=1 + _signed(0.9 * strength, seed)))


def _saturation(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, color=ColorJitter(saturation=1 + _signed(strength, seed)))


def _hue(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, color=ColorJitter(hue=_signed(0.2 * strength, seed)))


def _gamma(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, gamma=(1 + 1.5 * strength) ** _signed(1, seed))


def _blur(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, blur=0.1 + 2.9 * strength)


def _sharpen(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, sharpen=2 * strength)


def _noise(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, noise=0.1 * strength, seed=seed)


def _jpeg(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, jpeg=round(90 - 80 * strength))


def _equalize(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, equalize=True)


def _clahe(change: SampleChange, strength: float, seed: int) -> SampleChange:
    return _pixels(change, clahe=1 + 5 * strength)


COLORS = frozenset({"brightness", "contrast", "saturation", "hue"})
OPERATIONS: Mapping[str, Operation] = {
    "identity": _identity,
    "rotation": _rotation,
    "perspective": _perspective,
    "elastic": _elastic,
    "grid_distortion": _grid_distortion,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "gamma": _gamma,
    "blur": _blur,
    "sharpen": _sharpen,
    "noise": _noise,
    "jpeg": _jpeg,
    "equalize": _equalize,
    "clahe": _clahe,
}
