"""Scores of whole evaluations: by hand, against a loop over images, for empty masks, and dealt out to 1 to 4 ranks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from finetune.metrics.image_boundaries import ImageBoundaries, class_scores, mean_scores
from finetune.metrics.measurement import ImageBatch

CLASSES = 4


def batch(prediction: Tensor, target: Tensor, index: list[int]) -> ImageBatch:
    return ImageBatch(torch.tensor(index), torch.empty(0), torch.empty(0), prediction, target)


def sums(prediction: Tensor, target: Tensor, classes: int = CLASSES, ignored: int = 255) -> dict[str, Tensor]:
    """Return the sums of images (N, H, W) that were measured in one batch."""
    measurement = ImageBoundaries(len(target), classes, ignored)
    measurement.update(batch(prediction, target, list(range(len(target)))))
    return measurement.sums()


def areas(seed: int) -> Tensor:
    """Return labels (6, 21, 24), uint8, in blocks of three pixels; the last class is in no image."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES - 1, (6, 7, 8), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)


@pytest.fixture
def labels() -> tuple[Tensor, Tensor]:
    """Return predictions and targets: partly right, with ignored blocks, an ignored image and a class often missing."""
    prediction, target = areas(0), areas(1)
    prediction[:, :12] = target[:, :12]
    prediction[1][prediction[1] == 2] = 0
    target[2][target[2] == 2] = 1
    target[areas(2) == 0] = 255
    target[3] = 255
    return prediction, target


def looped(prediction: Tensor, target: Tensor, label: int) -> dict[str, float]:
    """Return scores of a class by their definitions, with padded images and all pairs of pixels."""
    near, contours, bands, distances, one_sided = np.zeros((3, 2)), np.zeros(2), np.zeros(2), [], 0
    for guess, truth in zip(prediction.numpy(), target.numpy(), strict=True):
        valid = truth != 255
        points, inner = [], []
        for mask in ((truth == label) & valid, (guess == label) & valid):
            padded = np.pad(np.where(valid, mask, 2).astype(int), 1, constant_values=2)
            cells = [
                (y, x) for y, x in np.argwhere(padded == 1) if 0 in padded[[y - 1, y + 1, y, y], [x, x, x - 1, x + 1]]
            ]
            points.append(np.array(cells).reshape(-1, 2))
            inner.append(
                {(y, x) for y, x in np.argwhere(padded == 1) if (padded[y - 1 : y + 2, x - 1 : x + 2] == 0).any()}
            )
        contours += [len(each) for each in points]
        bands += [len(inner[0] & inner[1]), len(inner[0] | inner[1])]
        one_sided += (len(points[0]) > 0) != (len(points[1]) > 0)
        if len(points[0]) and len(points[1]):
            pairs = cdist(*points)
            ways = pairs.min(1), pairs.min(0)
            near += [[(way <= limit).sum() for way in ways] for limit in (1, 2, 5)]
            percentile = max(np.quantile(way, 0.95) for way in ways)
            distances.append((pairs.min(1).max(), pairs.min(0).max(), percentile, np.concatenate(ways).mean()))
    recall, precision = (near / contours).T
    forward, backward, hd95, assd = np.transpose(distances)
    return {
        "boundary_iou": bands[0] / bands[1],
        **{f"boundary_recall_{limit}px": value for limit, value in zip((1, 2, 5), recall, strict=True)},
        **{f"boundary_precision_{limit}px": value for limit, value in zip((1, 2, 5), precision, strict=True)},
        "boundary_f1_2px": 2 * precision[1] * recall[1] / (precision[1] + recall[1]),
        "hausdorff_px": np.maximum(forward, backward).mean(),
        "hd95_px": hd95.mean(),
        "assd_px": assd.mean(),
        "compared": len(distances),
        "one_sided": one_sided,
        "contour_ratio": contours[1] / contours[0],
    }


def test_scores_are_those_of_a_loop_over_images(labels: tuple[Tensor, Tensor]) -> None:
    scores = class_scores(sums(*labels))
    for label in range(3):
        expected = looped(*labels, label)
        assert {name: scores[name][label].item() for name in expected} == pytest.approx(expected)
    assert (scores["compared"].tolist(), scores["one_sided"].tolist()) == ([5, 5, 3, 0], [0, 0, 2, 0])
    assert all(0 < value < 1 for value in scores["boundary_iou"][:3].tolist())


def test_masks_of_classes_score_as_the_class_indices_they_are_made_of(labels: tuple[Tensor, Tensor]) -> None:
    prediction, target = labels
    numbers = torch.arange(CLASSES).view(1, -1, 1, 1)
    masks = (target[:, None] == numbers).to(torch.uint8).masked_fill((target == 255)[:, None], 255)
    found, expected = sums((prediction[:, None] == numbers).to(torch.uint8), masks), sums(prediction, target)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_square_one_pixel_off_by_hand() -> None:
    target, prediction = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    target[0, 3:7, 3:7] = 1
    prediction[0, 3:7, 4:8] = 1
    scores = {name: values[1].item() for name, values in class_scores(sums(prediction, target, classes=2)).items()}
    # bands are rings of 12 pixels, which share three pixels of the uppermost and three of the lowest row
    assert scores["boundary_iou"] == 6 / 18
    assert (scores["boundary_f1_1px"], scores["boundary_precision_1px"], scores["boundary_recall_1px"]) == (1, 1, 1)
    assert (scores["hausdorff_px"], scores["hd95_px"]) == (1, 1)
    assert scores["assd_px"] == 12 / 24  # the other six pixels of each ring are one pixel from the other ring
    assert (scores["contour_ratio"], scores["area_ratio"]) == (1, 1)
    assert (scores["objects"], scores["detected"], scores["detected_small"], scores["false_alarms"]) == (1, 1, 1, 0)
    assert np.isnan(scores["detected_large"])


def test_a_perfect_prediction_has_scores_of_one_and_distances_of_zero(labels: tuple[Tensor, Tensor]) -> None:
    target = labels[1]
    scores = class_scores(sums(target.masked_fill(target == 255, 0), target))
    for name in ("boundary_iou", "boundary_f1_1px", "contour_ratio", "area_ratio", "detected"):
        assert scores[name][:3].tolist() == [1, 1, 1], name
    assert [scores[name][:3].sum() for name in ("hausdorff_px", "hd95_px", "assd_px", "one_sided", "false_alarms")] == [
        0
    ] * 5


def test_a_class_that_is_in_neither_has_no_scores_and_is_in_no_mean(labels: tuple[Tensor, Tensor]) -> None:
    scores = class_scores(sums(*labels))
    assert all(values[3].isnan() for values in scores.values() if values.is_floating_point())
    assert all(values[3] == 0 for values in scores.values() if not values.is_floating_point())
    means = mean_scores(scores)
    assert means["hd95_px"] == pytest.approx(scores["hd95_px"][:3].mean().item())
    assert means["one_sided"] == 2


@pytest.mark.parametrize("empty", ["prediction", "truth"])
def test_an_empty_prediction_or_truth_is_wrong_and_has_no_distance(empty: str) -> None:
    square, nothing = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    square[0, 3:7, 3:7] = 1
    pair = (nothing, square) if empty == "prediction" else (square, nothing)
    scores = {name: values[1].item() for name, values in class_scores(sums(*pair, classes=2)).items()}
    assert (scores["boundary_iou"], scores["boundary_f1_5px"]) == (0, 0)
    assert (scores["compared"], scores["one_sided"]) == (0, 1)
    assert all(np.isnan(scores[name]) for name in ("hausdorff_px", "hd95_px", "assd_px"))
    ratios = [scores[name] for name in ("contour_ratio", "area_ratio")]
    assert ratios == [0, 0] if empty == "prediction" else all(map(np.isnan, ratios))
    assert (scores["objects"], scores["predicted_objects"], scores["false_alarms"]) == (
        (1, 0, 0) if empty == "prediction" else (0, 1, 1)
    )


def test_what_is_predicted_in_ignored_areas_changes_nothing(labels: tuple[Tensor, Tensor]) -> None:
    prediction, target = labels
    expected = sums(prediction, target)
    found = sums(torch.where(target == 255, areas(7), prediction), target)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    negative = sums(prediction, target.int().masked_fill(target == 255, -100), ignored=-100)
    assert all(torch.equal(negative[name], expected[name]) for name in found)


def test_an_ignored_frame_changes_no_score(labels: tuple[Tensor, Tensor]) -> None:
    prediction, target = labels
    framed = F.pad(prediction, (90, 60, 40, 70)), F.pad(target, (90, 60, 40, 70), value=255)
    found, expected = class_scores(sums(*framed)), class_scores(sums(*labels))
    assert all(torch.equal(found[name].nan_to_num(), expected[name].nan_to_num()) for name in expected)


def test_a_set_without_images_has_no_scores() -> None:
    scores = class_scores(ImageBoundaries(0, CLASSES, 255).sums())
    assert all(values.isnan().all() for values in scores.values() if values.is_floating_point())
    assert mean_scores(scores)["compared"] == 0


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_sums_of_images_that_are_dealt_out_are_those_of_one_batch(labels: tuple[Tensor, Tensor], ranks: int) -> None:
    prediction, target = labels
    measurements = [ImageBoundaries(len(target), CLASSES, 255) for _ in range(ranks)]
    for index in range(len(target)):
        own = slice(index, index + 1)
        measurements[index % ranks].update(batch(prediction[own], target[own], [index]))
    parts, expected = [each.sums() for each in measurements], sums(prediction, target)
    for name, values in expected.items():
        assert torch.equal(torch.stack([part[name] for part in parts]).sum(0), values), name
        assert values.dtype == (torch.float64 if name == "distances" else torch.int64)
