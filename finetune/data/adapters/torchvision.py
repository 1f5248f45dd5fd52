"""Transforms of torchvision (version 2 of its API)."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.data.augmentation.transforms import crop_size
from finetune.io.messages import suggest

# transforms that cannot keep a mask with its image: why, and what to use instead
ALONE = "does not take an image with its mask"
REFUSED: Mapping[type[nn.Module], str] = {
    **dict.fromkeys(
        (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix), f"{ALONE}; use augment=trivial for that"
    ),
    **dict.fromkeys((v2.CutMix, v2.MixUp), f"{ALONE}; set augment.mix.cutmix for that"),
    v2.CenterCrop: "gives what it adds around small images the class 0; use augment.crop, or RandomCrop",
}


class TorchvisionTransform:
    """A pipeline of torchvision's transforms v2, then a random crop.

    Masks are resampled by nearest neighbor, and pixels that a transform uncovers get `ignore_index`. torchvision draws
    from torch's global generator: it is seeded by the generator of the sample, and its state is restored.

    Args:
        pipeline: transforms in order, each a transform of torchvision or a mapping with the `name` of its class, its
            options, and for compositions such as RandomApply a list `transforms`. An object with an option `fill` must
            have it for masks: `fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}`; a mapping gets it by itself.
        crop: size to return, (height, width) or one number for both; None keeps the size that the pipeline returns.
        ignore_index: label of the uncovered pixels.
    """

    def __init__(self, pipeline: Any, crop: int | tuple[int, int] | None = 320, ignore_index: int = 255) -> None:
        transforms = list(pipeline) if isinstance(pipeline, Sequence) else [pipeline]
        if crop is not None:
            size = list(crop_size(crop))
            transforms.append({"name": "RandomCrop", "size": size, "pad_if_needed": True})
        self.transforms = [_build(transform, ignore_index) for transform in transforms]
        for transform in _leaves(self.transforms):
            _check(transform, ignore_index)

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Transform one sample; see `finetune.data.Transform`.

        Raises:
            ValueError: a transform does not take the image with its mask, or the pipeline returns no uint8 image, or
                another number of channels.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        # clones: some transforms write into what they get
        sample = tv_tensors.Image(image.clone()), tv_tensors.Mask(target.clone())
        with _seeded(seed):
            for transform in self.transforms:
                sample = _apply(transform, *sample)
        pixels, labels = sample
        if not (_is_byte(pixels) and _is_byte(labels) and len(pixels) == len(image)):
            shown = [f"{type(part).__name__} {getattr(part, 'dtype', '')}" for part in sample]
            raise ValueError(
                f"the torchvision pipeline returns {' and '.join(shown)}, shape {getattr(pixels, 'shape', 'unknown')}; "
                f"expected torch.uint8 tensors and {len(image)} channels. Leave out transforms such as ToDtype, "
                f"Grayscale and ToPILImage: the model normalizes."
            )
        return pixels.as_subclass(Tensor).contiguous(), labels.as_subclass(Tensor).contiguous()


def _is_byte(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dtype == torch.uint8


def _apply(transform: nn.Module, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    try:
        result: tuple[Tensor, Tensor] = transform(image, target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{type(transform).__name__} of torchvision fails on an image {tuple(image.shape)} and a mask "
            f"{tuple(target.shape)}, both uint8: {str(error).rstrip('.')}. Leave it out: the model normalizes, and "
            f"there are no boxes."
        ) from error
    return result


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator for a while, on the CPU only: `torch.manual_seed` would seed the GPUs too."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _build(transform: Any, ignore_index: int) -> nn.Module:
    """Build a transform of torchvision from a mapping with its name and options; one that is built is returned.

    Raises:
        ValueError: there is no such transform, or it has no such option.
    """
    if isinstance(transform, nn.Module):
        return transform
    if not isinstance(transform, Mapping) or "name" not in transform:
        raise ValueError(
            f"pipeline has {transform}; expected a transform such as {{name: RandomRotation, degrees: 9}}."
        )
    options = {str(key): value for key, value in transform.items() if key != "name"}
    name, found = str(transform["name"]), getattr(v2, str(transform["name"]), None)
    if not isinstance(found, type) or not issubclass(found, v2.Transform):
        names = [key for key, value in vars(v2).items() if isinstance(value, type) and issubclass(value, v2.Transform)]
        raise ValueError(f"torchvision has no transform '{name}'. {suggest(name, names)}")
    known = list(inspect.signature(found).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"{name} of torchvision has no option '{option}'. {suggest(option, known)}")
    if "transforms" in options:
        options["transforms"] = [_build(inner, ignore_index) for inner in options["transforms"]]
    if "interpolation" in options:
        options["interpolation"] = v2.InterpolationMode(options["interpolation"])
    if "fill" in known:
        options["fill"] = {tv_tensors.Image: options.get("fill", 0), tv_tensors.Mask: ignore_index}
    try:
        built: nn.Module = found(**options)
        return built
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of torchvision cannot be built: {error}") from error


def _check(transform: nn.Module, ignore_index: int) -> None:
    """Raise ValueError if a transform would spoil masks."""
    name = type(transform).__name__
    for refused, instead in REFUSED.items():
        if isinstance(transform, refused):
            raise ValueError(f"{name} of torchvision {instead}.")
    fill = getattr(transform, "fill", None)
    if hasattr(transform, "fill") and not (isinstance(fill, dict) and fill.get(tv_tensors.Mask) == ignore_index):
        raise ValueError(
            f"{name}(fill={fill}) would give uncovered pixels of the mask a class. Set fill={{tv_tensors.Image: 0, "
            f"tv_tensors.Mask: {ignore_index}}}."
        )


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield all transforms, those inside compositions too."""
    for transform in transforms:
        yield transform
        yield from _leaves(getattr(transform, "transforms", ()))
