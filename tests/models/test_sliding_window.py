"""Fixed-size backbones evaluate large images in windows of the size of their training crops."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.builders.model import build_model
from finetune.models import Segmenter
from finetune.models.sliding_window import average_windows, window_starts
from tests.samples import decided

WINDOW = (96, 128)


def segmenter(name: str = "test_maxvit", **options: Any) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(name, "linear", 3, weights="none", **options).eval()


@pytest.mark.parametrize("length", [320, 321, 500, 533, 534, 1024, 4000])
def test_windows_cover_a_length_and_overlap_by_a_third_or_more(length: int) -> None:
    firsts = window_starts(length, 320)
    assert firsts[0] == 0
    assert firsts[-1] + 320 == length
    assert all(0 < b - a <= 214 for a, b in pairwise(firsts))


@pytest.mark.parametrize("size", [(96, 128), (200, 300), (97, 128), (50, 70), (50, 300)])
def test_windows_do_not_change_a_pixelwise_prediction(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    sizes: list[tuple[int, ...]] = []

    def predict(region: Tensor) -> list[Tensor]:
        sizes.append(tuple(region.shape[-2:]))
        return [2 * region, region[:, :1]]

    double, first = average_windows(predict, images, WINDOW)
    assert torch.allclose(double, 2 * images)
    assert torch.allclose(first, images[:, :1])
    assert set(sizes) == {WINDOW}


@torch.no_grad()
def test_the_logits_of_a_large_image_are_the_mean_over_its_windows() -> None:
    model, whole = segmenter(image_size=(64, 64), window=WINDOW), segmenter(image_size=(64, 64))
    images = torch.randn(2, 3, 150, 128)
    first, last = whole(images[:, :, :96]), whole(images[:, :, 54:])
    assert window_starts(150, 96) == [0, 54]
    averaged = model(images)
    assert torch.allclose(averaged[:, :, :54], first[:, :, :54], atol=1e-6)
    assert torch.allclose(averaged[:, :, 54:96], (first[:, :, 54:] + last[:, :, :42]) / 2, atol=1e-6)
    assert torch.allclose(averaged[:, :, 96:], last[:, :, 42:], atol=1e-6)
    assert not torch.allclose(averaged, whole(images), atol=1e-3)
    for both, alone in zip(averaged, images, strict=True):
        assert torch.allclose(both, model(alone[None])[0], atol=1e-5)


@torch.no_grad()
def test_a_crop_is_evaluated_as_in_training() -> None:
    model, whole = segmenter(window=WINDOW), segmenter()
    crops = torch.randn(2, 3, *WINDOW)
    assert torch.equal(model(crops), whole(crops))
    logits, *_ = model(torch.randn(1, 3, 200, 200), auxiliary=True)
    assert logits.shape == (1, 3, 200, 200)
    larger = torch.randn(2, 3, 200, 200)
    assert not torch.allclose(model(larger), whole(larger), atol=1e-3)
    assert torch.equal(model.train()(larger), whole.train()(larger))


@torch.no_grad()
def test_a_rebuilt_model_has_its_window_and_backbones_of_any_size_have_none() -> None:
    model = segmenter(window=WINDOW)
    again = Segmenter.from_config(model.config()).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 130, 200)
    assert torch.equal(again(images), model(images))
    assert segmenter("test_resnet", window=WINDOW).window is None
    assert segmenter("test_vit", window=WINDOW).window is None


@pytest.mark.parametrize("window", [[1, 1], [10**9, 10**9], [64], "64"])
def test_a_window_of_extreme_size_is_an_error(window: Any) -> None:
    with pytest.raises(ValueError, match=r"augment\.crop=.*: expected"):
        Segmenter.from_config({**segmenter(window=WINDOW).config(), "window": window})


@pytest.mark.parametrize(("name", "window"), [("test_maxvit", (320, 320)), ("test_resnet", None)])
def test_the_window_is_the_crop_size_of_the_training(name: str, window: Any) -> None:
    overrides = ["backbone=timm", f"backbone.name={name}", "backbone.weights=none", "head=linear"]
    assert build_model(decided(overrides), ["a", "b"]).window == window
    whole = build_model(decided([*overrides, "augment.crop=null", "data.batch_size=1"]), ["a", "b"])
    assert whole.window is None
