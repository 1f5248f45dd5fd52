"""Test-time augmentation against loops over views that are written out."""

import json

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models import Segmenter
from finetune.models.views import View, Views, average_views

SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("test_resnet.r160_in1k", "fpn", 3, weights="none", head_options=SMALL).eval()


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (Views(), [lambda x: x]),
        (Views(["horizontal"]), [lambda x: x, lambda x: x.flip(-1)]),
        (Views(["vertical"]), [lambda x: x, lambda x: x.flip(-2)]),
        (
            Views(["horizontal", "vertical"]),
            [lambda x: x, lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.flip(-1, -2)],
        ),
        (
            Views(["vertical"], rotations=True),
            [
                turned
                for k in range(4)
                for turned in (lambda x, k=k: x.rot90(k, (2, 3)), lambda x, k=k: x.rot90(k, (2, 3)).flip(-2))
            ],
        ),
    ],
    ids=["none", "horizontal", "vertical", "both", "all"],
)
def test_the_views_are_those_of_flips_and_turns(views: Views, expected: list) -> None:
    images = torch.rand(2, 3, 5, 5)
    seen = [view.of(images) for view in views.all]
    assert len(seen) == len(expected)
    for change in expected:
        assert sum(torch.equal(change(images), own) for own in seen) == 1


@pytest.mark.parametrize("view", Views(["horizontal", "vertical"], rotations=True).all, ids=str)
def test_each_flip_and_turn_can_be_undone(view: View) -> None:
    images = torch.rand(1, 2, 4, 6)
    assert torch.equal(view.undo(view.of(images), (4, 6)), images)


def test_a_scaled_view_has_the_size_of_the_image_again() -> None:
    ramp = torch.linspace(0, 1, 40).expand(1, 1, 24, 40)
    view = View(scale=0.5)
    assert view.of(ramp).shape == (1, 1, 12, 20)
    assert torch.allclose(view.undo(view.of(ramp), (24, 40))[..., 2:-2], ramp[..., 2:-2], atol=0.02)


def test_the_mean_is_that_of_the_logits_of_each_view(model: Segmenter) -> None:
    images = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    x = model.normalize(images)

    def at(scale: float, flip: bool) -> Tensor:
        seen = x if scale == 1 else F.interpolate(x, (66, 94), mode="bilinear", align_corners=False)
        logits = model(seen.flip(-1)).flip(-1) if flip else model(seen)
        return logits if scale == 1 else F.interpolate(logits, (33, 47), mode="bilinear", align_corners=False)

    model.views = Views(["horizontal"], scales=[1.0, 2.0])
    with torch.inference_mode():
        averaged = model(x)
        model.views = None
        expected = (at(1, False) + at(1, True) + at(2, False) + at(2, True)) / 4
    assert torch.allclose(averaged, expected, atol=1e-5)
    assert not torch.allclose(averaged, at(1, False), atol=1e-2)


def test_a_flipped_image_has_the_flipped_prediction(model: Segmenter) -> None:
    images = model.normalize(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    model.views = Views(["horizontal", "vertical"], rotations=True)
    with torch.inference_mode():
        straight, turned = model(images), model(images.rot90(1, (2, 3)))
    model.views = None
    assert torch.allclose(straight.rot90(1, (2, 3)), turned, atol=1e-5)


def test_auxiliary_logits_are_averaged_too() -> None:
    images = torch.rand(1, 1, 4, 4)
    first, second = average_views(lambda x: [x, 2 * x], images, Views(["horizontal"]))
    assert torch.allclose(first, images)
    assert torch.allclose(second, 2 * images)


def test_a_training_sees_each_image_as_it_is(model: Segmenter) -> None:
    images = model.normalize(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    calls: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda *call: calls.append(call[1][0]))
    model.views = Views(["horizontal"])
    model.train()
    model(images)
    model.eval()
    model(images)
    hook.remove()
    model.views = None
    assert len(calls) == 1 + 2


def test_a_saved_model_keeps_its_views(model: Segmenter) -> None:
    model.views = Views(["horizontal"], scales=[0.75, 1.0])
    config = json.loads(json.dumps(model.config()))
    model.views = None
    twin = Segmenter.from_config(config)
    assert twin.views is not None
    assert twin.views.all == Views(["horizontal"], scales=(0.75, 1.0)).all
    assert Segmenter.from_config({**config, "views": None}).views is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": ["sideways"]}, r"tta.flips=\['sideways'\]: expected horizontal and vertical"),
        ({"scales": [0.0]}, "expected up to 10 numbers from 0.25 to 4.0"),
        ({"scales": []}, "expected up to 10 numbers"),
        ({"scales": [1.0] * 11}, "expected up to 10 numbers"),
        ({"scales": [float("nan")]}, "expected up to 10 numbers"),
    ],
)
def test_views_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Views(**options)
