"""Transforms of albumentations."""

import copy
import inspect
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.augmentation.transforms import crop_size
from finetune.io.messages import suggest

# transforms without `fill_mask`, which give the pixels that they uncover the class 0
REFUSED = ("GridElasticDeform", "TimeMasking", "FrequencyMasking")


class AlbumentationsTransform:
    """A pipeline of albumentations, then a random crop.

    Masks are resampled by nearest neighbor, and pixels that a transform uncovers get `ignore_index`: the default
    `fill_mask` of albumentations is 0, which is a class. A `fill_mask` that is given stays, except for a 0 in an
    object, which may be the default. Random numbers come from the generator of the sample only.

    Args:
        pipeline: a Compose of albumentations; or transforms in order, each an object of albumentations or a mapping
            with the `name` of its class, its options, and for compositions such as OneOf a list `transforms`.
        crop: size to return, (height, width) or one number for both; None keeps the size that the pipeline returns.
        ignore_index: label of the uncovered pixels.
    """

    def __init__(self, pipeline: Any, crop: int | tuple[int, int] | None = 320, ignore_index: int = 255) -> None:
        library = _import_albumentations()
        transforms = list(pipeline) if isinstance(pipeline, Sequence) else [pipeline]
        transforms = [_build(library, transform, ignore_index) for transform in transforms]
        if crop is not None:
            size = crop_size(crop)
            transforms.append(library.RandomCrop(*size, pad_if_needed=True, fill_mask=ignore_index, p=1.0))
        if refused := [name for name in map(_class_name, _leaves(transforms)) if name in REFUSED]:
            raise ValueError(
                f"{refused[0]} of albumentations gives the pixels that it uncovers the class 0 and has no fill_mask. "
                f"Leave it out; ElasticTransform and GridDistortion have one."
            )
        self.compose = library.Compose(transforms, mask_interpolation=0)  # cv2.INTER_NEAREST

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Transform one sample; see `finetune.data.Transform`.

        Raises:
            ValueError: the pipeline returns no uint8 image, or another number of channels.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        # set_random_seed would give all transforms the same random numbers
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # channels of a target are masks of their own: OpenCV fills only the first channels of one array
        channels = [channel.numpy().copy() for channel in target] if target.dim() == 3 else target.numpy().copy()
        arrays = {"masks" if target.dim() == 3 else "mask": channels}
        result = self.compose(image=image.permute(1, 2, 0).numpy().copy(order="C"), **arrays)
        pixels = result["image"].reshape(*result["image"].shape[:2], -1)
        if pixels.dtype != np.uint8 or pixels.shape[2] != len(image):
            raise ValueError(
                f"the albumentations pipeline returns {pixels.dtype} images with {pixels.shape[2]} channels; expected "
                f"uint8 with {len(image)}. Leave out transforms such as Normalize and ToFloat: the model normalizes."
            )
        labels = np.stack(result["masks"]) if target.dim() == 3 else result["mask"]
        return (
            torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous(),
            torch.from_numpy(np.ascontiguousarray(labels)),
        )


def _import_albumentations() -> ModuleType:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask a server for a newer version
    try:
        import albumentations
    except ImportError as error:
        raise ImportError(
            "augment=albumentations needs a package that is not installed: pip install 'finetune-seg[albumentations]'"
        ) from error
    module: ModuleType = albumentations
    return module


def _class_name(transform: Any) -> str:
    return type(transform).__name__


def _build(library: ModuleType, transform: Any, ignore_index: int) -> Any:
    """Return a transform of albumentations from a mapping with its name, or a copy of the object that it is already.

    Raises:
        ValueError: there is no such transform, or it has no such option.
    """
    bases = (library.BasicTransform, library.BaseCompose)
    if isinstance(transform, bases):
        transform = copy.deepcopy(transform)  # its fill_mask is changed
        for leaf in _leaves([transform]):
            if getattr(leaf, "fill_mask", None) == 0:
                leaf.fill_mask = ignore_index
        return transform
    if not isinstance(transform, Mapping) or "name" not in transform:
        raise ValueError(f"pipeline has {transform}; expected a transform such as {{name: HorizontalFlip, p: 0.5}}.")
    options = {str(key): value for key, value in transform.items() if key != "name"}
    name, found = str(transform["name"]), getattr(library, str(transform["name"]), None)
    if not isinstance(found, type) or not issubclass(found, bases):
        names = [key for key, value in vars(library).items() if isinstance(value, type) and issubclass(value, bases)]
        raise ValueError(f"albumentations has no transform '{name}'. {suggest(name, names)}")
    known = list(inspect.signature(found).parameters)  # albumentations only warns about others
    for option in options:
        if option not in known:
            raise ValueError(f"{name} of albumentations has no option '{option}'. {suggest(option, known)}")
    if "transforms" in options:
        options["transforms"] = [_build(library, inner, ignore_index) for inner in options["transforms"]]
    if "fill_mask" in known:
        options.setdefault("fill_mask", ignore_index)
    return found(**options)


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield all transforms, those inside compositions too."""
    for transform in transforms:
        yield transform
        yield from _leaves(getattr(transform, "transforms", ()))
