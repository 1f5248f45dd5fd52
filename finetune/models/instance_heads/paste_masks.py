"""Masks of boxes, pasted into an image."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (N, H, W), bool: where the probability of each box is above one half.

    Equals `paste_masks_in_image(...) > 0.5` of torchvision, which holds all masks as float32 and as large as the image:
    4.8 GB for 100 objects in 12 megapixels. Here only one box at a time is float32.

    Args:
        probabilities: (N, M, M), of the pixels of each box.
        boxes: left, top, right, bottom (N, 4), pixels.
        size: height and width of the image.
    """
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    padded, scale = expand_masks(probabilities[:, None], 1)
    for mask, small, box in zip(masks, padded, expand_boxes(boxes, scale).long().tolist(), strict=True):
        left, top, right, bottom = box[0], box[1], box[2] + 1, box[3] + 1
        resized = F.interpolate(small[None], (bottom - top, right - left), mode="bilinear", align_corners=False)[0, 0]
        rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        inside = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        mask[rows, columns] = inside > 0.5
    return masks
