"""Image sizes that a backbone accepts, and the arguments with which timm builds it for as many as possible.

Convolutional networks take any size that their strides divide. Most transformers of timm resample their position
embeddings and pad their windows on request; the others, and MLPs over positions, are built for one fixed size. The
tables below were found by trying models of each family.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm

Size = tuple[int, int]  # height and width, pixels

# families that resample and pad in every forward pass
DYNAMIC_SIZE_FAMILIES = {
    *("deit", "eva", "vision_transformer", "vision_transformer_hybrid", "vitamin"),
    *("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
}
# families that take any size, although timm declares a fixed one, which only their classifier needs
ANY_SIZE_FAMILIES = {
    *("efficientvit_msra", "mvitv2", "sequencer", "swiftformer", "twins", "vision_transformer_sam", "xcit"),
}
SQUARE_FAMILIES = {"convit", "nest"}
# fixed-size families whose position tables timm resamples for weights of another size
RESAMPLED_FAMILIES = {"beit", "coat", "maxxvit", "tnt", "vision_transformer_relpos"}
NATIVE_SIZE_FAMILIES = {"crossvit", "efficientformer"}  # attention that works at the pretraining size only
BLOCK_ATTENTION = re.compile("halo|^bat_")  # as many blocks as fit into the pretraining size
ATTENTION_POOL = re.compile("_clip")  # only its classifier has a fixed size
SOFT_POOL = re.compile(r"^gemma4_vit_\w+_enc\b")  # pools tokens by nines
WINDOW_MULTIPLE = 32  # pixels: divisible by the windows and patches of all fixed-size models
MIN_SIZES = {"inception_v3": 128, "inception_v4": 128, "inception_resnet_v2": 128}  # convolutions without padding


@dataclass(frozen=True)
class InputSize:
    """The sizes that a backbone accepts: a fixed one, or all multiples of a step.

    Attributes:
        step: height and width, in pixels.
        min_size: smallest height and width, in pixels.
        only: the fixed size, or None.
    """

    step: Size = (1, 1)
    min_size: int = 1
    only: Size | None = None

    def fit(self, height: int, width: int) -> Size:
        """Return the size to resample an image to: its own if the backbone accepts it, else the next larger one.

        >>> InputSize((14, 14)).fit(64, 70)
        (70, 70)
        >>> InputSize(only=(224, 224)).fit(64, 96)
        (224, 224)
        """
        if self.only is not None:
            return self.only
        down, right = self.step
        # integers only, so that torch.export can trace it
        return -(-max(height, self.min_size) // down) * down, -(-max(width, self.min_size) // right) * right

    def accepts_only_unpadded(self, size: Size, padded: Size) -> bool:
        """Return whether the backbone accepts images of this size, but would resample the padded ones.

        >>> InputSize((14, 14)).accepts_only_unpadded((518, 518), (544, 544))
        True
        >>> InputSize((16, 16)).accepts_only_unpadded((336, 336), (352, 352))
        False
        """
        return self.fit(*size) == size and self.fit(*padded) != padded


def family(name: str) -> str:
    """Return the name of the timm module that defines a model."""
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__).rpartition(".")[2]


def check_size(image_size: Any, setting: str = "backbone.image_size") -> None:
    """Raise ValueError unless it is a height and a width.

    >>> check_size(320)
    Traceback (most recent call last):
    ValueError: backbone.image_size=320: expected [height, width] in pixels, or null.
    """
    pair = list(image_size) if isinstance(image_size, list | tuple) else []
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{setting}={image_size}: expected [height, width] in pixels, or null.")


def size_options(name: str, image_size: Size | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `timm.create_model` for a model that takes images of any size, or of a given fixed size.

    Args:
        name: a timm model name.
        image_size: size to build a fixed-size backbone for; None for the pretraining size.
        options: the user's own arguments; an `img_size` in them wins.

    Raises:
        ValueError: if `image_size` is not a height and a width, or the model cannot be built for it.
    """
    if image_size is not None:
        check_size(image_size)
    if "img_size" in options:
        return {}
    if SOFT_POOL.search(name):
        return {"global_pool": "none"}
    if family(name) in DYNAMIC_SIZE_FAMILIES:
        return {"dynamic_img_size": True}
    if image_size is None or not has_fixed_size(name):
        return {}
    if not can_be_built_for_another(name):
        _check_native_size(name, image_size)
        return {}
    height, width = (WINDOW_MULTIPLE * math.ceil(side / WINDOW_MULTIPLE) for side in image_size)
    return {"img_size": (max(height, width),) * 2 if family(name) in SQUARE_FAMILIES else (height, width)}


def can_be_built_for_another(name: str, weighted: bool = False) -> bool:
    """Return whether a fixed-size model can be built for a size other than timm's.

    Args:
        name: a timm model name.
        weighted: whether it gets weights of timm's size, so that their position tables must be resampled.

    >>> [can_be_built_for_another(name, weighted=True) for name in ("resnet18", "maxvit_tiny_tf_224", "pit_ti_224")]
    [False, True, False]
    """
    can_build = has_fixed_size(name) and family(name) not in NATIVE_SIZE_FAMILIES and not BLOCK_ATTENTION.search(name)
    return can_build and (not weighted or family(name) in RESAMPLED_FAMILIES)


def _check_native_size(name: str, image_size: Size) -> None:
    """Raise ValueError unless the size is the pretraining size."""
    if tuple(image_size) != (native := native_size(name)):
        raise ValueError(
            f"backbone.image_size={list(image_size)}: {name} can only be built for {native[0]}x{native[1]} pixels; "
            f"images of any size are resampled to it. Set backbone.image_size=null, or choose another backbone."
        )


def input_size(name: str, built_with: Mapping[str, Any], strides: Sequence[int]) -> InputSize:
    """Return the sizes that a model accepts.

    Args:
        name: a timm model name.
        built_with: the arguments of `timm.create_model` that it was built with.
        strides: strides of the feature maps that are read.
    """
    if BLOCK_ATTENTION.search(name):
        return InputSize(native_size(name))
    if (only := fixed_size(name, built_with)) is not None:
        return InputSize(only=only)
    step = max(strides)
    return InputSize((step, step), MIN_SIZES.get(family(name), step))


def fixed_size(name: str, built_with: Mapping[str, Any]) -> Size | None:
    """Return the only size that a model accepts if it is built with these arguments; None if it accepts several."""
    if built_with.get("dynamic_img_size") or not (has_fixed_size(name) or "img_size" in built_with):
        return None
    size = built_with.get("img_size", native_size(name))
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def native_size(name: str) -> Size:
    """Return the pretraining (height, width) of timm's weights; 224x224 if timm has no weights."""
    config = timm.get_pretrained_cfg(name)
    return (224, 224) if config is None else tuple(config.input_size[1:])


def has_fixed_size(name: str) -> bool:
    """Return whether a model only accepts images of the size that it is built for."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or family(name) in ANY_SIZE_FAMILIES:
        return False
    return not (family(name) == "byobnet" and ATTENTION_POOL.search(name))
