"""Slices of a data set against the overlaps of their images."""

import math

import pytest
import torch

from finetune.metrics.overlaps import ImageResults, interval, overlap_iou
from finetune.metrics.slices import slice_labels, slice_rows


@pytest.fixture(scope="module")
def images() -> ImageResults:
    """Eight images of two classes, of which one was not evaluated."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(50, 100, (8, 2), generator=generator)
    both = (true * torch.rand(8, 2, generator=generator)).long()
    return ImageResults(torch.tensor([0, 1, 2, 3, 5, 6, 7]), torch.stack([both, true, true + 5], dim=-1))


def test_each_slice_has_the_iou_of_the_sum_of_its_images_and_the_worst_is_first(images: ImageResults) -> None:
    rows = slice_rows(images, {"weather": ["sun", "rain", "sun", "", "rain", "sun", "sun", "rain"]})
    assert [row["slice"] for row in rows] == ["weather"] * 2
    assert float(rows[0]["iou"]) <= float(rows[1]["iou"])
    for row, members in ((r, [0, 2, 5, 6] if r["value"] == "sun" else [1, 7]) for r in rows):
        assert row["images"] == len(members)
        assert row["iou"] == pytest.approx(float(overlap_iou(images.overlaps[members].sum(0)).mean()))
        assert (row["low"], row["high"]) == interval(images.overlaps[members])


def test_a_slice_of_one_image_has_no_interval_and_one_without_a_class_is_last() -> None:
    overlaps = torch.tensor([[[4, 5, 5]], [[0, 0, 0]], [[5, 5, 5]]])
    rows = slice_rows(ImageResults(torch.arange(3), overlaps), {"day": ["a", "b", "c"]})
    assert [(row["value"], row["images"]) for row in rows] == [("a", 1), ("c", 1), ("b", 1)]
    assert math.isnan(float(rows[0]["low"]))
    assert math.isnan(float(rows[2]["iou"]))


def test_each_group_is_a_slice_even_if_their_names_are_numbers() -> None:
    overlaps = torch.ones(14, 2, 3, dtype=torch.long)
    rows = slice_rows(ImageResults(torch.arange(14), overlaps), {"group": [f"{n:03}" for n in range(13)] + [""]})
    assert {row["value"] for row in rows} == {f"{n:03}" for n in range(13)}


def test_few_numbers_are_slices_of_their_own() -> None:
    assert slice_labels([1.0, 2.5, math.nan, 1.0]) == ["1", "2.5", "", "1"]
    assert slice_labels(["01", "2", "", "01"]) == ["01", "2", "", "01"]


def test_many_numbers_are_cut_into_thirds_of_their_images() -> None:
    numbers = [float(7 * k % 30) for k in range(30)]
    labels = slice_labels([*numbers, math.nan])
    assert {label: labels.count(label) for label in labels} == {"0 to 9": 10, "10 to 19": 10, "20 to 29": 10, "": 1}
    assert labels[numbers.index(13.0)] == "10 to 19"
    assert labels[-1] == ""
    texts = slice_labels(["", *map(str, numbers), "nan"])
    assert texts == ["", *labels[:-1], ""]


def test_a_number_that_most_images_have_leaves_a_third_empty() -> None:
    labels = slice_labels([0.0] * 30 + [float(k) for k in range(12)])
    assert {label: labels.count(label) for label in labels} == {"0 to 0": 31, "1 to 11": 11}


def test_thirds_of_large_numbers_have_names_of_their_own() -> None:
    labels = slice_labels([str(20240101 + day) for day in range(30)])
    assert list(dict.fromkeys(labels)) == ["20240101 to 20240110", "20240111 to 20240120", "20240121 to 20240130"]
