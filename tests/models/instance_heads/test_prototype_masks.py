"""Masks of prototypes, against NumPy loops and against upsampling whole images."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.models.instance_heads.prototype_masks import coverage, draw_masks, mask_losses


def test_coverage_is_the_share_of_each_cell_also_of_cells_at_the_border() -> None:
    masks = torch.zeros(1, 5, 6, dtype=torch.bool)
    masks[0, :3, 2:] = True
    assert coverage(masks, 4, (2, 2))[0].tolist() == [[6 / 16, 6 / 16], [0, 0]]
    assert coverage(masks[:0], 4, (2, 2)).shape == (0, 2, 2)


def test_the_loss_is_the_mean_over_the_cells_that_the_box_touches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, shares = (torch.rand(2, 5, 7, generator=generator) for _ in range(2))
    valid = (torch.rand(5, 7, generator=generator) > 0.3).float()
    boxes = torch.tensor([[1.5, 0.0, 4.0, 2.5], [3.2, 3.3, 3.4, 3.4]])
    losses = mask_losses(logits, shares, boxes, valid).tolist()
    touched = [(range(3), range(1, 4)), ((3,), (3,))]
    for number, (rows, columns) in enumerate(touched):
        values = []
        for row, column in [(row, column) for row in rows for column in columns if valid[row, column]]:
            probability = 1 / (1 + np.exp(-logits[number, row, column].item()))
            share = shares[number, row, column].item()
            values.append(-share * np.log(probability) - (1 - share) * np.log(1 - probability))
        assert losses[number] == pytest.approx(np.mean(values) if values else 0)


@pytest.mark.parametrize("stride", [2, 4])
def test_masks_are_those_of_the_upsampled_image_inside_of_their_boxes(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(3, 16, 24, generator=generator)
    coefficients = torch.rand(40, 3, generator=generator) * 2 - 1
    height, width = 16 * stride - 3, 24 * stride - 1
    limits = torch.tensor([width, height] * 2)
    corners = torch.rand(40, 2, 2, generator=generator).sort(dim=1).values.flatten(1) * limits
    boxes = torch.cat([corners, torch.zeros(1, 4), torch.tensor([[0.0, 0.0, width, height]])])
    coefficients = torch.cat([coefficients, coefficients[:2]])
    whole = F.interpolate(
        torch.einsum("np,phw->nhw", coefficients, prototypes).sigmoid()[None], scale_factor=stride, mode="bilinear"
    )[0]
    expected = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for number, (left, top, right, bottom) in enumerate(boxes.round().int().tolist()):
        expected[number, top:bottom, left:right] = whole[number, top:bottom, left:right] > 0.5
    assert torch.equal(draw_masks(coefficients, prototypes, boxes, stride, (height, width)), expected)
    assert 0.1 < expected[:40].float().mean() / expected[-1].float().mean() < 0.9
