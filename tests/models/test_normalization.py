"""Normalization by timm's statistics, or by those of the user."""

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.builders.model import build_model, build_model_from
from finetune.models import Backbone, Segmenter
from tests.samples import decided

TINY = "test_resnet.r160_in1k"
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.25]


def pixels(model: Segmenter) -> Tensor:
    """Return a normalized pixel of value 51 (0.2 of 255)."""
    return model.normalize(torch.full((1, model.backbone.in_channels, 1, 1), 51, dtype=torch.uint8)).flatten()


def test_given_statistics_normalize_images_also_in_a_rebuilt_model() -> None:
    model = Segmenter(TINY, "linear", 2, weights="none", mean=MEAN, std=STD)
    assert pixels(model) == pytest.approx([0.25, 0.0, -0.4], abs=1e-6)
    again = Segmenter.from_config(model.config())
    assert torch.equal(pixels(again), pixels(model))
    assert model.config()["mean"] == pytest.approx(MEAN)


def test_one_of_both_statistics_may_be_given() -> None:
    model = Segmenter(TINY, "linear", 2, weights="none", std=STD)
    assert model.config()["mean"] == pytest.approx(Backbone(TINY, "none").normalization()[0])
    assert model.config()["std"] == pytest.approx(STD)


def test_training_reads_statistics_from_the_config_and_an_initial_model_does_not_change_them() -> None:
    overrides = ["backbone=timm", f"backbone.name={TINY}", "backbone.weights=none", "head=linear"]
    given = decided([*overrides, f"backbone.mean={MEAN}", f"backbone.std={STD}", "init_from=other"])
    assert build_model(given, ["a", "b"]).config()["mean"] == pytest.approx(MEAN)
    other = Segmenter(TINY, "linear", 2, weights="none", mean=[0.7] * 3, std=[0.2] * 3)
    assert build_model_from(given, ["a", "b"], other)[0].config()["mean"] == pytest.approx(MEAN)
    default = decided([*overrides, "init_from=other"])
    assert build_model_from(default, ["a", "b"], other)[0].config()["mean"] == pytest.approx([0.7] * 3)


def test_further_channels_have_the_average_of_red_green_and_blue() -> None:
    red, green, blue = Backbone(TINY, "none").normalization()[0]
    mean, std = Backbone(TINY, "none", in_channels=5).normalization()
    average = (red + green + blue) / 3
    assert mean == pytest.approx([red, green, blue, average, average])
    assert len(std) == 5


@pytest.mark.parametrize("given", [[123.7, 116.3, 103.5], [0.5], [0.5, 0.5, True], "0.5", 0.5, [0.5, -0.1, 0.5]])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_invalid_statistics_are_an_error(name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=rf"backbone\.{name}=.*: expected 3 numbers from 0 to 1"):
        Segmenter(TINY, "linear", 2, weights="none", **{name: given})


def test_a_deviation_of_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"backbone\.std=\[0\.2, 0, 0\.2\]: expected 3 numbers from 0 to 1, above 0"):
        Segmenter(TINY, "linear", 2, weights="none", std=[0.2, 0, 0.2])
