"""Steps in their order, in predictions and in the model's own words."""

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.builders.post import build_post
from finetune.config.errors import ConfigError
from finetune.inference import ClassIndices, ClassMasks, Output, Predictor
from finetune.inference.post import POST_STEPS, PostProcessing
from finetune.inference.post.guided_filter import GuidedFilter
from finetune.inference.post.regions import MinSize
from finetune.inference.post.smooth import Smooth
from finetune.models import Segmenter

NAMES = ["background", "leaf", "stone"]
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.mark.parametrize("output", [ClassIndices(NAMES), ClassMasks(NAMES)], ids=["indices", "masks"])
def test_logits_of_probabilities_have_these_probabilities(output: Output) -> None:
    logits = torch.randn(2, 3, 5, 6) * 3
    p = output.probabilities(logits)
    assert torch.allclose(output.probabilities(output.logits(p)), p, atol=1e-5)
    certain = torch.zeros(1, 3, 1, 1)
    certain[0, 0] = 1
    assert output.logits(certain).isfinite().all()


class Halved:
    def refine(self, probabilities: Tensor, images: Tensor) -> Tensor:
        return probabilities * (images[:, :1] > 0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_predictor_takes_the_steps_in_their_order(batch_size: int) -> None:
    torch.manual_seed(0)
    model = Segmenter("test_resnet.r160_in1k", "fpn", NAMES, weights="none", head_options=SMALL)
    images = torch.randint(0, 256, (batch_size, 3, 40, 48), dtype=torch.uint8)
    plain = Predictor(model, "cpu").predict_images(images)
    steps = {"guided_filter": GuidedFilter(2), "smooth": Smooth(1), "min_size": MinSize(NAMES, 60)}
    found = Predictor(model, "cpu", post=PostProcessing(steps)).predict_images(images)
    with torch.no_grad():
        p = GuidedFilter(2).refine(model(model.normalize(images)).softmax(1), images)
    expected = [MinSize(NAMES, 60).clean(Smooth(1).clean(each)) for each in p.argmax(1).byte().numpy()]
    assert (found.numpy() == np.stack(expected)).mean() > 0.999
    assert (found != plain).any()
    labels = Predictor(model, "cpu", ClassMasks(NAMES), post=PostProcessing(steps)).predict_images(images)
    assert labels.shape == (batch_size, 3, 40, 48)
    _, halved = Predictor(
        model, "cpu", ClassMasks(NAMES), post=PostProcessing({"x": Halved()})
    ).predict_with_probabilities(images * 0)
    assert halved is not None
    assert halved.max() < 1e-5


def test_steps_on_probabilities_come_first() -> None:
    with pytest.raises(
        ConfigError, match=r"post=\[smooth,guided_filter\]: guided_filter changes probabilities, so put"
    ):
        build_post({"smooth": {}, "guided_filter": {}}, ClassIndices(NAMES))
    assert list(build_post({"guided_filter": None, "smooth": {"radius": 3}}, ClassIndices(NAMES)).steps) == [
        "guided_filter",
        "smooth",
    ]
    assert build_post(None, ClassIndices(NAMES)) == PostProcessing()


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build_post({"smooth": {"radius": "2"}, "min_size": {"pixel": 3}}, ClassIndices(NAMES))
    assert "post.smooth.radius=2: expected a whole number" in str(error.value)
    assert "there is no setting post.min_size.pixel. Did you mean pixels" in str(error.value)
    with pytest.raises(ConfigError, match="post has no step 'median'"):
        build_post({"median": {}}, ClassIndices(NAMES))
    with pytest.raises(ConfigError, match="radius=0: expected 1 pixel or more"):
        build_post({"smooth": {"radius": 0}}, ClassIndices(NAMES))


def test_holes_need_a_background_in_class_indices_and_none_in_masks() -> None:
    with pytest.raises(ConfigError, match="no class is called background, so nothing is a hole"):
        build_post({"fill_holes": None}, ClassIndices(["road", "sky"]))
    assert list(build_post({"fill_holes": None}, ClassMasks(["road", "sky"])).steps) == ["fill_holes"]


def test_a_step_from_outside_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POST_STEPS, "halved", Halved)  # type: ignore[arg-type]  # a dict
    assert isinstance(build_post({"halved": None, "smooth": None}, ClassIndices(NAMES)).steps["halved"], Halved)
