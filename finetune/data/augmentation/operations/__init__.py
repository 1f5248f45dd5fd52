"""Changes of an image's pixel values, each a pure function for any number of channels."""

from finetune.data.augmentation.operations.blur import gaussian_blur
from finetune.data.augmentation.operations.clahe import clahe
from finetune.data.augmentation.operations.cutout import Box, cutout, cutout_box
from finetune.data.augmentation.operations.equalize import equalize
from finetune.data.augmentation.operations.gamma import adjust_gamma
from finetune.data.augmentation.operations.jpeg import jpeg
from finetune.data.augmentation.operations.lookup import look_up
from finetune.data.augmentation.operations.noise import gaussian_noise
from finetune.data.augmentation.operations.sharpen import sharpen

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
