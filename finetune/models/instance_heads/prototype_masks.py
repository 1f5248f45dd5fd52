"""Masks as sums of prototypes: their loss, and the masks of detections."""

import torch
from torch import Tensor
from torch.nn import functional as F


def coverage(masks: Tensor, stride: int, cells: tuple[int, int]) -> Tensor:
    """Return the share of each cell that masks (N, H, W), bool, cover: (N, h, w), float32.

    Args:
        masks: of an image without padding.
        stride: side of a cell, pixels.
        cells: h and w; the cells may reach beyond the image.
    """
    height, width = cells
    padding = (0, width * stride - masks.shape[-1], 0, height * stride - masks.shape[-2])
    parts = F.pad(masks, padding).view(len(masks), height, stride, width, stride)
    return parts.sum(dim=(2, 4)) / stride**2


def mask_losses(logits: Tensor, shares: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:
    """Return the binary cross-entropy of masks (N, h, w), a mean over the cells in their boxes: (N,).

    Args:
        logits: of the masks.
        shares: `coverage` of the true masks; a soft border is drawn where it was, finer than a cell.
        boxes: (N, 4), cells.
        valid: weight of each cell (h, w), 0 to 1.
    """
    x, y = (torch.arange(logits.shape[dim], device=logits.device) for dim in (-1, -2))
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(-1))
    columns, rows = (x + 1 > left) & (x < right), (y + 1 > top) & (y < bottom)
    weights = valid * (rows[:, :, None] & columns[:, None])
    losses = F.binary_cross_entropy_with_logits(logits, shares, weights, reduction="none")
    return losses.sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=1)


def draw_masks(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return masks (N, H, W), bool, cropped to their boxes.

    One after the other, and no more cells than a box needs: all masks of a large image would not fit into memory as
    floating-point numbers.

    Args:
        coefficients: (N, P).
        prototypes: (P, h, w).
        boxes: (N, 4), pixels, inside the image.
        stride: of the prototypes, pixels.
        size: H and W.
    """
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for mask, weights, box in zip(masks, coefficients, boxes.round().long().tolist(), strict=True):
        left, top, right, bottom = box
        column, row = max(left // stride - 1, 0), max(top // stride - 1, 0)  # of the first cell: one more at each side
        cells = prototypes[:, row : bottom // stride + 2, column : right // stride + 2]
        shares = torch.einsum("p,phw->hw", weights, cells).sigmoid()[None, None]
        fine = F.interpolate(shares, scale_factor=stride, mode="bilinear", align_corners=False)[0, 0]
        fine = fine[top - row * stride : bottom - row * stride, left - column * stride : right - column * stride]
        mask[top:bottom, left:right] = fine > 0.5
    return masks
