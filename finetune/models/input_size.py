"""Which sizes of images a backbone takes, and how timm is asked for one that takes as many as possible.

Convolutional networks take any size that their strides divide. Most transformers of timm resample their position
embeddings and pad their windows when asked to; the others, and MLPs over positions, are built for one size. What a
family does was found by trying models of each.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm

Size = tuple[int, int]  # height and width, pixels

# families that resample and pad at every forward pass
DYNAMIC = {
    *("deit", "eva", "vision_transformer", "vision_transformer_hybrid", "vitamin"),
    *("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
}
# families that take any size although timm calls their size fixed, which is that of their classifier
ANY = {
    *("efficientvit_msra", "mvitv2", "sequencer", "swiftformer", "twins", "vision_transformer_sam", "xcit"),
}
SQUARE = {"convit", "nest"}
# families built for one size whose tables timm resamples for weights of another
RESAMPLED = {"beit", "coat", "maxxvit", "tnt", "vision_transformer_relpos"}
NATIVE = {"crossvit", "efficientformer"}  # attention that is built for the size of the weights alone
BLOCKS = re.compile("halo|^bat_")  # attention in blocks, as many as fit into the size of the weights
ATTENTION_POOL = re.compile("_clip")  # of a classifier
SOFT_POOL = re.compile(r"^gemma4_vit_\w+_enc\b")  # of tokens, which takes them by nines
WINDOWS = 32  # pixels: what windows and patches of all models that are built for one size divide
LEAST = {"inception_v3": 128, "inception_v4": 128, "inception_resnet_v2": 128}  # convolutions without padding


@dataclass(frozen=True)
class InputSize:
    """The sizes that a backbone takes: one alone, or all multiples of a step.

    Attributes:
        step: in pixels, height and width.
        least: smallest height and width.
        only: the one size, or None.
    """

    step: Size = (1, 1)
    least: int = 1
    only: Size | None = None

    def fit(self, height: int, width: int) -> Size:
        """The size to which an image is resampled: its own where the backbone takes it, else the next larger.

        >>> InputSize((14, 14)).fit(64, 70)
        (70, 70)
        >>> InputSize(only=(224, 224)).fit(64, 96)
        (224, 224)
        """
        if self.only is not None:
            return self.only
        down, right = self.step
        # whole numbers all through, which torch.export can follow
        return -(-max(height, self.least) // down) * down, -(-max(width, self.least) // right) * right

    def prefers(self, size: Size, padded: Size) -> bool:
        """Whether images of this size go in as they are, and resampled where they are padded.

        >>> InputSize((14, 14)).prefers((518, 518), (544, 544)), InputSize((16, 16)).prefers((336, 336), (352, 352))
        (True, False)
        """
        return self.fit(*size) == size and self.fit(*padded) != padded


def family(name: str) -> str:
    """The file of timm that a model comes from."""
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__).rpartition(".")[2]


def check_size(image_size: Any, setting: str = "backbone.image_size") -> None:
    """Raise unless it is a height and a width.

    >>> check_size(320)
    Traceback (most recent call last):
    ValueError: backbone.image_size=320: expected [height, width] in pixels, or null.
    """
    pair = list(image_size) if isinstance(image_size, list | tuple) else []
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{setting}={image_size}: expected [height, width] in pixels, or null.")


def size_options(name: str, image_size: Size | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a model that takes images of any size, or of one in particular.

    Args:
        name: a timm model name.
        image_size: that a backbone of one size alone is built for; None for the size of its weights.
        options: the user's own arguments; what they say of sizes stands.

    Raises:
        ValueError: it is no height and width, or another one than a model can be built for.
    """
    if image_size is not None:
        check_size(image_size)
    if "img_size" in options:
        return {}
    if SOFT_POOL.search(name):
        return {"global_pool": "none"}
    if family(name) in DYNAMIC:
        return {"dynamic_img_size": True}
    if image_size is None or not built_for_one(name):
        return {}
    if not can_be_built_for_another(name):
        _refuse_other(name, image_size)
        return {}
    height, width = (WINDOWS * math.ceil(side / WINDOWS) for side in image_size)
    return {"img_size": (max(height, width),) * 2 if family(name) in SQUARE else (height, width)}


def can_be_built_for_another(name: str, weighted: bool = False) -> bool:
    """Whether a model that takes images of one size alone can be built for another than timm's.

    Args:
        name: a timm model name.
        weighted: with weights of timm's size, whose tables must then be resampled.

    >>> [can_be_built_for_another(name, weighted=True) for name in ("resnet18", "maxvit_tiny_tf_224", "pit_ti_224")]
    [False, True, False]
    """
    able = built_for_one(name) and family(name) not in NATIVE and not BLOCKS.search(name)
    return able and (not weighted or family(name) in RESAMPLED)


def _refuse_other(name: str, image_size: Size) -> None:
    """Raise unless the size is that of the weights."""
    if tuple(image_size) != (native := native_size(name)):
        raise ValueError(
            f"backbone.image_size={list(image_size)}: {name} can only be built for {native[0]}x{native[1]} pixels, to "
            f"which images of any size are resampled. Set backbone.image_size=null, or take another backbone."
        )


def input_size(name: str, made_with: Mapping[str, Any], strides: Sequence[int]) -> InputSize:
    """The sizes that a model takes.

    Args:
        name: a timm model name.
        made_with: the arguments of `timm.create_model` that it was made with.
        strides: of the feature maps that are read.
    """
    if BLOCKS.search(name):
        return InputSize(native_size(name))
    if (only := only_size(name, made_with)) is not None:
        return InputSize(only=only)
    step = max(strides)
    return InputSize((step, step), LEAST.get(family(name), step))


def only_size(name: str, made_with: Mapping[str, Any]) -> Size | None:
    """The one size that a model takes, made with these arguments; None where it takes several."""
    if made_with.get("dynamic_img_size") or not (built_for_one(name) or "img_size" in made_with):
        return None
    size = made_with.get("img_size", native_size(name))
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def native_size(name: str) -> Size:
    """Height and width of the images that timm's weights were trained with; 224 where it has none."""
    config = timm.get_pretrained_cfg(name)
    return (224, 224) if config is None else tuple(config.input_size[1:])


def built_for_one(name: str) -> bool:
    """Whether a model takes images of the one size that it is built for."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or family(name) in ANY:
        return False
    return not (family(name) == "byobnet" and ATTENTION_POOL.search(name))
