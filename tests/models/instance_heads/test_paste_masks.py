"""Masks pasted into an image."""

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from finetune.models.instance_heads.paste_masks import paste_masks


def test_masks_are_those_of_torchvision_above_one_half() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=random) * torch.tensor([90.0, 60.0])
    corners[:10, 1] = corners[:10, 0] + 0.3  # less than a pixel
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0.0, 90.0, 60.0], [89.5, 59.5, 90.0, 60.0]])])
    probabilities = torch.rand(len(boxes), 28, 28, generator=random)
    expected = paste_masks_in_image(probabilities[:, None], boxes, (60, 90))[:, 0] > 0.5
    masks = paste_masks(probabilities, boxes, (60, 90))
    assert expected.any((1, 2)).float().mean() > 0.9
    assert torch.equal(masks, expected)


def test_no_box_is_no_mask() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (6, 9)).shape == (0, 6, 9)
