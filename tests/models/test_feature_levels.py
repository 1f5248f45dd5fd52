"""The level that each map fills, worked out by hand."""

import pytest

from finetune.models.feature_levels import Level, feature_levels, fill_missing_levels


def levels(strides: list[int], output_stride: int = 32) -> list[tuple[int, int, int]]:
    """Return level, index and target stride of each map of a backbone with these strides."""
    info = [{"num_chs": 10 + index, "reduction": stride} for index, stride in enumerate(strides)]
    result = feature_levels(info, output_stride)
    assert all((level.channels, level.native_stride) == (10 + level.index, strides[level.index]) for level in result)
    return [(level.stride, level.index, level.target_stride) for level in result]


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ([2, 4, 8, 16, 32], [(2, 0), (4, 1), (8, 2), (16, 3), (32, 4)]),
        ([1, 2, 4, 8, 16, 32], [(2, 1), (4, 2), (8, 3), (16, 4), (32, 5)]),
        ([4, 8, 8, 16, 32], [(4, 0), (8, 2), (16, 3), (32, 4)]),  # the deepest of a stride
        ([2, 4, 8, 16, 32, 64], [(2, 0), (4, 1), (8, 2), (16, 3), (32, 4)]),
        ([16, 32, 64], [(8, 0), (16, 1), (32, 2)]),  # else half of the network would be unused
        ([8, 8, 16, 32, 64], [(4, 1), (8, 2), (16, 3), (32, 4)]),
        ([7, 14, 28], [(8, 0), (16, 1), (32, 2)]),
        ([16] * 12, [(4, 2), (8, 5), (16, 8), (32, 11)]),
        ([14] * 24, [(4, 5), (8, 11), (16, 17), (32, 23)]),
        ([7, 14, 14, 14], [(4, 0), (8, 1), (16, 2), (32, 3)]),
        ([16, 16], [(16, 0), (32, 1)]),
    ],
)
def test_maps_fill_the_nearest_level(strides: list[int], expected: list[tuple[int, int]]) -> None:
    assert levels(strides) == [(stride, index, stride) for stride, index in expected]


@pytest.mark.parametrize(
    ("strides", "output_stride", "targets"),
    [
        ([2, 4, 8, 16, 16], 16, [2, 4, 8, 16, 16]),
        ([2, 4, 8, 8, 8], 8, [2, 4, 8, 8, 8]),
        ([4, 8, 16, 16], 16, [4, 8, 16, 16]),
        ([4, 8, 8, 8], 8, [4, 8, 8, 8]),
    ],
)
def test_dilated_maps_keep_their_level_and_their_stride(
    strides: list[int], output_stride: int, targets: list[int]
) -> None:
    result = levels(strides, output_stride)
    assert [stride for stride, _, _ in result] == [2, 4, 8, 16, 32][-len(result) :]
    assert [target for _, _, target in result] == targets


@pytest.mark.parametrize("strides", [[16] * 12, [8, 16, 16, 16], [7, 14, 14, 14], [12, 12, 17, 17]])
@pytest.mark.parametrize(("output_stride", "targets"), [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])])
def test_maps_of_one_or_two_strides_end_at_the_output_stride_of_the_head(
    strides: list[int], output_stride: int, targets: list[int]
) -> None:
    info = [{"num_chs": 8, "reduction": stride} for stride in strides]
    result = feature_levels(info, output_stride, dilated=False)
    assert [level.target_stride for level in result] == targets
    assert result[-1].index == len(strides) - 1


def test_maps_of_branches_are_chosen_by_depth() -> None:
    blocks = ["blocks.0", "blocks.1", "blocks.2"]
    info = [{"num_chs": 8, "reduction": stride, "module": name} for stride in (12, 17) for name in blocks]
    assert [level.index for level in feature_levels(info)] == [0, 1, 4, 5]


def test_the_nearest_map_fills_a_missing_level() -> None:
    pyramid = fill_missing_levels([Level(8, 3, 64, 7, 8), Level(16, 5, 128, 14, 16)])
    assert [(level.stride, level.index, level.native_stride, level.target_stride) for level in pyramid] == [
        (4, 3, 7, 4),
        (8, 3, 7, 8),
        (16, 5, 14, 16),
        (32, 5, 14, 32),
    ]


@pytest.mark.parametrize(
    ("output_stride", "targets"), [(8, [4, 8, 16, 16]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])]
)
def test_a_map_of_a_missing_coarse_level_is_not_shrunk_below_the_output_stride(
    output_stride: int, targets: list[int]
) -> None:
    levels = [Level(stride, i, 64, stride, stride) for i, stride in enumerate((4, 8, 16))]
    assert [level.target_stride for level in fill_missing_levels(levels, output_stride)] == targets


def test_a_missing_level_of_stride_2_is_not_filled() -> None:
    assert [level.stride for level in fill_missing_levels([Level(4, 0, 8, 4, 4)])] == [4, 8, 16, 32]
    assert [level.stride for level in fill_missing_levels([Level(2, 0, 8, 2, 2)])] == [2, 4, 8, 16, 32]
