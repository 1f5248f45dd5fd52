"""Tables of 256 values."""

import torch
from torch import Tensor


def look_up(image: Tensor, table: Tensor) -> Tensor:
    """Replace each value by its entry in a table.

    Args:
        image: uint8, any shape.
        table: one new value, uint8, for each value (256,).

    Returns:
        uint8, of the shape of the image.
    """
    # int32 indices: six times as fast as the int64 ones of `table[image.long()]`
    return table.index_select(0, image.reshape(-1).to(torch.int32)).view(image.shape)
