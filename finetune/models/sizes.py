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


def family(name: str) -> str:
    """The file of timm that a model comes from."""
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__).rpartition(".")[2]


def size_options(name: str, image_size: Size | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a model that takes images of any size, or of one in particular.

    Args:
        name: a timm model name.
        image_size: that a backbone of one size alone is built for; None for the size of its weights.
        options: the user's own arguments; what they say of sizes stands.
    """
    if "img_size" in options:
        return {}
    if SOFT_POOL.search(name):
        return {"global_pool": "none"}
    if family(name) in DYNAMIC:
        return {"dynamic_img_size": True}
    if image_size is None or not _built_for_one(name) or family(name) in NATIVE or BLOCKS.search(name):
        return {}
    height, width = (WINDOWS * math.ceil(side / WINDOWS) for side in image_size)
    return {"img_size": (max(height, width),) * 2 if family(name) in SQUARE else (height, width)}


def input_size(name: str, made_with: Mapping[str, Any], strides: Sequence[int]) -> InputSize:
    """The sizes that a model takes.

    Args:
        name: a timm model name.
        made_with: the arguments of `timm.create_model` that it was made with.
        strides: of the feature maps that are read.
    """
    native, kind = _native(name), family(name)
    if BLOCKS.search(name):
        return InputSize(native)
    if not made_with.get("dynamic_img_size") and (_built_for_one(name) or "img_size" in made_with):
        size = made_with.get("img_size", native)
        return InputSize(only=(size, size) if isinstance(size, int) else tuple(size))
    step = max(strides)
    return InputSize((step, step), LEAST.get(kind, step))


def _native(name: str) -> Size:
    config = timm.get_pretrained_cfg(name)
    return (224, 224) if config is None else tuple(config.input_size[1:])


def _built_for_one(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or family(name) in ANY:
        return False
    return not (family(name) == "byobnet" and ATTENTION_POOL.search(name))
