"""Selection and concatenation of the maps of a pyramid."""

import pytest
import torch
from torch import nn

from finetune.models.heads.concat_features import concat_features, select_levels
from finetune.models.heads.pyramid import PyramidSpec, levels_read, resize_to_images

PLAIN = PyramidSpec((3, 8, 16, 24, 32, 40), (1, 2, 4, 8, 16, 32))
DILATED = PyramidSpec((3, 0, 16, 24, 32, 40), (1, 2, 4, 8, 8, 8))


@pytest.mark.parametrize(
    ("pyramid", "stride", "level"), [(PLAIN, 2, 1), (PLAIN, 8, 3), (PLAIN, 32, 5), (DILATED, 8, 5)]
)
def test_the_deepest_map_of_a_stride_is_found(pyramid: PyramidSpec, stride: int, level: int) -> None:
    assert pyramid.deepest_level(stride) == level


@pytest.mark.parametrize("stride", [1, 2, 16, 7])
def test_the_error_for_a_stride_without_a_map_lists_the_existing_strides(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"head.stride={stride}: .* maps have strides 4, 8\."):
        DILATED.deepest_level(stride)


def test_levels_are_selected_by_stride_from_fine_to_coarse() -> None:
    assert select_levels(PLAIN, [32, 4]) == (2, 5)


@pytest.mark.parametrize("strides", [[], [4, 4], "4", 4])
def test_invalid_strides_are_an_error(strides: object) -> None:
    with pytest.raises(ValueError, match=r"head.strides=.*expected a list of different strides"):
        select_levels(PLAIN, strides)


def test_maps_are_concatenated_at_the_size_of_the_first() -> None:
    fine, coarse = torch.zeros(1, 2, 4, 8), torch.tensor([[[[1.0, 3.0]]]])
    maps = concat_features([fine, coarse])
    assert maps.shape == (1, 3, 4, 8)
    assert torch.equal(maps[:, :2], fine)
    # pixel centers: half a pixel of the fine map is an eighth of a coarse one
    assert torch.allclose(maps[0, 2, 0], torch.tensor([1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3]))


def test_logits_are_resized_to_the_images() -> None:
    assert resize_to_images(torch.ones(2, 3, 1, 2), torch.zeros(2, 1, 32, 64)).shape == (2, 3, 32, 64)


def test_a_decoder_without_levels_is_an_error() -> None:
    with pytest.raises(AttributeError, match="levels"):
        levels_read(nn.Identity())
