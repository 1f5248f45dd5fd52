"""The doubt in labels, against loops and by hand."""

import numpy as np
import pytest
import torch

from finetune.metrics.label_doubt import LabelDoubt, contradicted, label_probability, label_quality
from finetune.metrics.measurement import ImageBatch


def test_quality_is_that_of_a_loop_over_the_pixels_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(2, 3, 5, 4, generator=generator).softmax(1)
    target = torch.randint(0, 3, (2, 5, 4), generator=generator, dtype=torch.uint8)
    target[:, 0] = 255
    found = label_quality(label_probability(probabilities, target, 255))
    for image in range(2):
        p = [float(probabilities[image, int(target[image, y, x]), y, x]) for y in range(1, 5) for x in range(4)]
        weights = np.exp(-np.array(p) / 0.1)
        assert float(found[image]) == pytest.approx(float(np.dot(weights, p) / weights.sum()), rel=1e-6)


def test_a_label_is_contradicted_if_it_is_improbable_and_another_is_sure() -> None:
    probabilities = torch.tensor([[0.97, 0.02, 0.01], [0.50, 0.49, 0.01], [0.04, 0.95, 0.01], [0.04, 0.50, 0.46]])
    probabilities = probabilities.T.reshape(1, 3, 1, 4)
    target = torch.tensor([[[1, 2, 255, 0]]])
    of_label = label_probability(probabilities, target, 255)
    assert contradicted(probabilities, of_label).tolist() == [[[True, False, False, False]]]


def test_masks_are_contradicted_class_by_class() -> None:
    probabilities = torch.tensor([0.97, 0.03, 0.97, 0.5]).reshape(1, 2, 1, 2)
    target = torch.tensor([0, 1, 255, 1]).reshape(1, 2, 1, 2)
    of_label = label_probability(probabilities, target, 255)
    assert contradicted(probabilities, of_label).flatten().tolist() == [True, True, False, False]


def test_an_image_without_labels_has_no_quality_and_no_contradiction() -> None:
    probabilities = torch.tensor([0.99, 0.01]).reshape(1, 2, 1, 1)
    of_label = label_probability(probabilities, torch.full((1, 1, 1), 255), 255)
    assert label_quality(of_label).isnan().all()
    assert not contradicted(probabilities, of_label).any()


def test_each_image_has_a_row_that_adds_up_with_those_of_other_ranks() -> None:
    probabilities = torch.tensor([[0.99, 0.01], [0.2, 0.8]]).reshape(2, 2, 1, 1)
    target = torch.tensor([1, 1]).reshape(2, 1, 1)
    image = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    ranks = [LabelDoubt(4, 255), LabelDoubt(4, 255)]
    for rank, index in ((0, 3), (1, 1)):
        part = slice(rank, rank + 1)
        prediction = probabilities[part].argmax(1)
        ranks[rank].update(
            ImageBatch(torch.tensor([index]), image[part], probabilities[part], prediction, target[part])
        )
    sums = [each.sums() for each in ranks]
    assert (sums[0]["contradicted"] + sums[1]["contradicted"]).tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(
        sums[0]["quality"] + sums[1]["quality"], torch.tensor([0, 0.8, 0, 0.01], dtype=torch.float64), rtol=1e-6, atol=0
    )
