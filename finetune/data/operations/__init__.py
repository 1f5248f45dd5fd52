"""Changes of an image's pixel values, each a pure function for any number of channels."""

from finetune.data.operations.blur import gaussian_blur
from finetune.data.operations.clahe import clahe
from finetune.data.operations.cutout import Box, cutout, cutout_box
from finetune.data.operations.equalize import equalize
from finetune.data.operations.gamma import adjust_gamma
from finetune.data.operations.jpeg import jpeg
from finetune.data.operations.lookup import look_up
from finetune.data.operations.noise import gaussian_noise
from finetune.data.operations.sharpen import sharpen

__all__ = [
    "Box",
    "adjust_gamma",
    "clahe",
    "cutout",
    "cutout_box",
    "equalize",
    "gaussian_blur",
    "gaussian_noise",
    "jpeg",
    "look_up",
    "sharpen",
]
