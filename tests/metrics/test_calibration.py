"""The calibration error against a loop over pixels, torchmetrics, and cases worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from finetune.metrics.calibration import BINS, CELLS, RESOLUTION, Confidences, calibration_error, reliability
from finetune.metrics.measurement import ImageBatch


def batch(probabilities: Tensor, target: Tensor) -> ImageBatch:
    prediction = probabilities.argmax(1).byte() if target.ndim == 3 else (probabilities > 0.5).byte()
    images = torch.zeros(len(target), 3, *target.shape[-2:], dtype=torch.uint8)
    return ImageBatch(torch.arange(len(target)), images, probabilities, prediction, target)


def counts(*batches: ImageBatch, groups: int = 1, ignore_index: int = 255) -> Tensor:
    confidences = Confidences(groups, ignore_index)
    for each in batches:
        confidences.update(each)
    return confidences.sums()["counts"]


@pytest.fixture(scope="module")
def indices() -> ImageBatch:
    """Four classes, one per pixel, more confident than right; the first image is ignored, and pixels of the others."""
    generator = torch.Generator().manual_seed(0)
    probabilities = (4 * torch.randn(5, 4, 9, 11, generator=generator)).softmax(1)
    target = torch.randint(0, 4, (5, 9, 11), generator=generator, dtype=torch.uint8)
    target = torch.where(torch.rand(target.shape, generator=generator) < 0.4, probabilities.argmax(1).byte(), target)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    target[0] = 255
    return batch(probabilities, target)


@pytest.fixture(scope="module")
def masks() -> ImageBatch:
    """Three classes, any number of them per pixel, each with ignored pixels."""
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(2, 3, 13, 18, generator=generator)
    target = torch.randint(0, 2, (2, 3, 13, 18), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return batch(probabilities, target)


def error_by_loop(pairs: list[tuple[float, bool]]) -> float:
    """Return the expected calibration error of (confidence, right) by its definition."""
    total = 0.0
    for index in range(15):
        inside = [pair for pair in pairs if index == min(int(pair[0] * 15), 14)]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = math.fsum(confidence for confidence, _ in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(accuracy - confidence)
    return total


def test_the_error_of_one_class_per_pixel_is_that_of_a_loop_and_of_torchmetrics(indices: ImageBatch) -> None:
    counted = indices.target != 255
    confidence = indices.probabilities.amax(1)[counted].tolist()
    right = (indices.prediction == indices.target)[counted].tolist()
    error = float(calibration_error(counts(indices)))
    assert error == pytest.approx(error_by_loop(list(zip(confidence, right, strict=True))), abs=1e-7)
    expected = multiclass_calibration_error(
        indices.probabilities, indices.target.long(), 4, n_bins=15, norm="l1", ignore_index=255
    )
    assert error == pytest.approx(float(expected), abs=1e-6)
    assert error > 0.1


def test_of_two_classes_the_probability_of_the_second_counts(indices: ImageBatch) -> None:
    second = indices.probabilities[:, 1]
    two = batch(torch.stack([1 - second, second], dim=1), torch.where(indices.target == 255, 255, indices.target % 2))
    expected = binary_calibration_error(second, two.target.long(), n_bins=15, norm="l1", ignore_index=255)
    assert float(calibration_error(counts(two))) == pytest.approx(float(expected), abs=1e-6)


def test_the_error_of_each_class_of_masks_is_that_of_a_loop_and_of_torchmetrics(masks: ImageBatch) -> None:
    errors = calibration_error(counts(masks, groups=3)).tolist()
    for index, error in enumerate(errors):
        target, probability = (each[:, index, ::4, ::4] for each in (masks.target, masks.probabilities))
        counted = target != 255
        pairs = list(zip(probability[counted].tolist(), (target[counted] == 1).tolist(), strict=True))
        assert error == pytest.approx(error_by_loop(pairs), abs=1e-7)
        expected = binary_calibration_error(probability, target.long(), n_bins=15, norm="l1", ignore_index=255)
        assert error == pytest.approx(float(expected), abs=1e-6)


def test_the_parts_of_several_ranks_add_up_to_the_whole(indices: ImageBatch, masks: ImageBatch) -> None:
    for whole, groups in ((indices, 1), (masks, 3)):
        halves = [batch(whole.probabilities[part], whole.target[part]) for part in (slice(0, 1), slice(1, None))]
        first, second = (counts(half, groups=groups) for half in halves)
        assert torch.equal(first + second, counts(whole, groups=groups))
        assert torch.equal(counts(*halves, groups=groups), counts(whole, groups=groups))


def test_confidences_at_the_limits_of_the_bins_count_in_the_bin_above_and_certain_ones_in_the_last() -> None:
    probabilities = torch.tensor([[0.5, 0.75, 1.0], [0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]).view(1, 3, 1, 3)
    found = counts(batch(probabilities, torch.tensor([[[0, 1, 0]]])))[0]
    assert found[[CELLS // 2, CELLS * 3 // 4, CELLS - 1]].tolist() == [
        [1, 1, RESOLUTION // 2],
        [1, 0, RESOLUTION * 3 // 4],
        [1, 1, RESOLUTION],
    ]
    assert found.sum(0)[0] == 3


@pytest.mark.parametrize("ignored", [255, -1, -100])
def test_any_label_may_be_ignored(ignored: int) -> None:
    probabilities = torch.tensor([0.9, 0.1, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    found = counts(batch(probabilities, torch.tensor([[[0, ignored]]])), ignore_index=ignored)
    assert found.sum(1)[0, :2].tolist() == [1, 1]
    labels = torch.tensor([[[0, 156]]], dtype=torch.uint8)  # -100 in 8 bit
    assert counts(batch(probabilities, labels), ignore_index=-100).sum(1)[0, 0] == 2


def test_without_a_pixel_there_is_no_error() -> None:
    assert calibration_error(counts(groups=2)).isnan().all()
    curve = reliability(counts(groups=2))
    assert curve["accuracy"].isnan().all()
    assert curve["pixel_share"].tolist() == [0] * BINS


def test_outputs_that_are_nan_are_left_to_the_error_about_them() -> None:
    probabilities = torch.full((1, 2, 1, 3), torch.nan)
    assert counts(batch(probabilities, torch.zeros(1, 1, 3, dtype=torch.uint8)))[0, 0].tolist() == [3, 0, 0]


def test_the_curve_has_the_accuracy_and_the_confidence_of_all_classes_together(masks: ImageBatch) -> None:
    curve = reliability(counts(masks, groups=3))
    target, probability = masks.target[..., ::4, ::4], masks.probabilities[..., ::4, ::4]
    inside = (target != 255) & (probability >= 3 / 15) & (probability < 4 / 15)
    assert float(curve["accuracy"][3]) == pytest.approx(float((target[inside] == 1).double().mean()))
    assert float(curve["confidence"][3]) == pytest.approx(float(probability[inside].double().mean()), abs=1e-7)
    assert float(curve["pixel_share"][3]) == pytest.approx(int(inside.sum()) / int((target != 255).sum()))


def test_the_confidence_is_that_of_the_predicted_class_after_steps_that_clean_it() -> None:
    probabilities = torch.tensor([0.05, 0.05, 0.9]).view(1, 3, 1, 1)
    cleaned = ImageBatch(
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        probabilities,
        torch.zeros(1, 1, 1, dtype=torch.uint8),
        torch.zeros(1, 1, 1, dtype=torch.uint8),
    )
    assert float(calibration_error(counts(cleaned))) == pytest.approx(0.95, abs=1e-4)
