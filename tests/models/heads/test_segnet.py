"""Unpooling by the indices of the encoder."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from finetune.models.heads import levels_read
from finetune.models.heads.segnet import unpool
from tests.models.heads.pyramids import WITH_STRIDE_2, build, draw, logits, pyramid_for


def test_maxima_return_to_their_positions() -> None:
    image = torch.tensor([[[[1.0, 5.0, 0.0, 2.0], [3.0, 4.0, 8.0, 7.0]]]])
    maxima, indices = F.max_pool2d(image, 2, return_indices=True)
    assert maxima.tolist() == [[[[5.0, 8.0]]]]
    assert indices.tolist() == [[[[1, 6]]]]
    assert unpool(maxima, indices).tolist() == [[[[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 8.0, 0.0]]]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_unpooling_and_its_gradient_equal_those_of_torch(layout: torch.memory_format) -> None:
    image = torch.randn(2, 3, 6, 8).to(memory_format=layout)
    maxima, indices = F.max_pool2d(image, 2, return_indices=True)
    ours, theirs = maxima.clone().requires_grad_(), maxima.clone().requires_grad_()
    expected = F.max_unpool2d(theirs, indices, 2)
    unpooled = unpool(ours, indices)
    assert torch.equal(unpooled, expected)
    weight = torch.randn_like(expected)
    (unpooled * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_unpooling_works_in_bfloat16() -> None:
    maxima, indices = F.max_pool2d(torch.randn(1, 2, 4, 4), 2, return_indices=True)
    assert torch.equal(unpool(maxima.bfloat16(), indices), F.max_unpool2d(maxima, indices, 2).bfloat16())


def test_the_logits_depend_on_the_indices() -> None:
    pyramid = pyramid_for("segnet")
    parts = build("segnet", pyramid)
    features = draw(pyramid, 32, 64)
    others = [*features[:6], draw(pyramid, 32, 64)[6]]
    assert not torch.equal(logits(parts, features), logits(parts, others))
    assert levels_read(parts[0]) == (5,)


@pytest.mark.parametrize(
    "pools", [(), (8,), (8, 16, 24, 32, 40)]
)  # none, a ResNet's, one with a convolution after the last pooling
def test_the_error_for_a_backbone_without_poolings_lists_those_with_poolings(pools: tuple[int, ...]) -> None:
    pyramid = replace(pyramid_for("segnet", WITH_STRIDE_2), pools=pools)
    with pytest.raises(ValueError, match=r"head=segnet .* Choose vgg11, vgg13, vgg16, vgg19 .* such as unet"):
        build("segnet", pyramid)
