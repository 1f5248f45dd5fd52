"""Probabilities over time, worked by hand."""

import pytest
import torch
from torch import Tensor

from finetune.inference.video import TemporalSmoothing, VideoOptions
from finetune.inference.video.scene_cuts import is_scene_cut, thumbnail


def probabilities(*values: float, size: int = 2) -> Tensor:
    """Return two classes whose first has these probabilities, one frame each."""
    first = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, size, size)
    return torch.cat([first, 1 - first], dim=1)


def gray(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def first_class(smoothed: Tensor) -> list[float]:
    return [round(float(value), 6) for value in smoothed[:, 0, 0, 0]]


def test_each_frame_has_the_average_of_all_before_it_and_newer_ones_count_more() -> None:
    smoothed = TemporalSmoothing(0.75, 20).refine(probabilities(1, 0, 0, 1), gray(9, 9, 9, 9))
    assert first_class(smoothed) == [1, 0.75, 0.5625, 0.671875]
    assert torch.allclose(smoothed.sum(dim=1), torch.ones(4, 2, 2))


def test_the_batches_of_the_model_change_nothing() -> None:
    whole = TemporalSmoothing(0.6, 20).refine(probabilities(1, 0, 0.5), gray(9, 9, 60))
    parts = TemporalSmoothing(0.6, 20)
    one_by_one = [parts.refine(probabilities(p), gray(level)) for p, level in ((1, 9), (0, 9), (0.5, 60))]
    assert torch.equal(whole, torch.cat(one_by_one))


def test_the_average_starts_again_at_a_scene_cut() -> None:
    smoothed = TemporalSmoothing(0.5, 20).refine(probabilities(1, 0, 0, 1), gray(9, 29, 50, 50))
    assert first_class(smoothed) == [1, 0.5, 0, 0.5]


def test_the_average_starts_again_at_a_frame_of_another_size() -> None:
    smoothing = TemporalSmoothing(0.5, 20)
    smoothing.refine(probabilities(1), gray(9))
    assert first_class(smoothing.refine(probabilities(0, size=3), gray(9))) == [0]


def test_a_thumbnail_has_the_means_of_channels_and_pixels() -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :2, :2] = torch.tensor([[8, 0], [0, 8]])
    image[0, 2:4, :2] = 90
    assert thumbnail(image)[:3, 0].tolist() == [4, 30, 0]


def test_a_small_thing_that_moves_is_no_cut_and_another_scene_is_one() -> None:
    before = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    after = before.clone()
    after[:, :16, :16] = 255
    assert not is_scene_cut(thumbnail(before), thumbnail(after), VideoOptions().scene_cut)
    assert is_scene_cut(thumbnail(before), thumbnail(before // 2), VideoOptions().scene_cut)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 1.0}, "video.smoothing=1.0: expected a number from 0 to below 1"),
        ({"smoothing": -0.1}, "video.smoothing=-0.1"),
        ({"scene_cut": 256}, "video.scene_cut=256: expected gray levels from 0 to 255"),
        ({"sequence": True}, "video.sequence=true changes nothing without smoothing"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoOptions(**options)  # type: ignore[arg-type]  # the sequence is no number
