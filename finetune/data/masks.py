"""Read masks as uint8 tensors."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from finetune.data.decode import SIXTEEN_BIT, open_image
from finetune.data.mask_values import MaskValues, class_indices, move_ignored
from finetune.data.records import DataError


def read_mask(path: Path, mask_values: MaskValues | None = None, ignore_index: int = 255) -> Tensor:
    """Decode a mask as class indices.

    Palette files give their indices, 1-bit files 0 and 1, and a color file with three equal channels counts as gray.

    Args:
        path: as for `read_image`.
        mask_values: file value of class 0, class 1, ...: `[0, 255]` makes 255 class 1, and `[0, [1, 2]]` makes 1 and 2
            class 1. None keeps the values.
        ignore_index: value of the pixels to leave out; the file may hold it in addition to `mask_values`.

    Returns:
        uint8 (H, W), with `ignored_label(mask_values, ignore_index)` for the pixels to leave out.

    Raises:
        DataError: the file cannot be decoded, is a color image, or has a value above 255 or outside `mask_values`.
    """
    values = _indices(open_image(path), path)
    if mask_values is not None:
        return torch.from_numpy(class_indices(values, mask_values, ignore_index, path))
    if not 0 <= ignore_index <= 255:
        values = move_ignored(values, ignore_index, path)
    if values.size and (values.max() > 255 or values.min() < 0):
        raise DataError(
            f"mask '{path}' has values from {values.min()} to {values.max()}; class indices are 0 to 255. "
            "List the file's values in data.mask_values, in the order of the classes."
        )
    return torch.from_numpy(values.astype(np.uint8))


def read_binary_mask(path: Path) -> Tensor:
    """Decode a mask of one class as uint8 (H, W): 1 where the file holds any value but 0.

    Raises:
        DataError: the file cannot be decoded, or is a color image.
    """
    return torch.from_numpy((_indices(open_image(path), path) != 0).astype(np.uint8))


def _indices(image: Image.Image, path: Path) -> npt.NDArray[np.integer]:
    values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode in ("P", "L", *SIXTEEN_BIT):
        return values
    if image.mode in ("LA", "PA"):
        return values[..., 0]
    if image.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., 1:3]).all():
        return values[..., 0]
    raise DataError(
        f"mask '{path}' is a color image (mode {image.mode}), but a mask holds one class index for each pixel. "
        "Save it as a gray or palette PNG whose values are 0, 1, 2, ..."
    )
