"""The head for an auxiliary training loss."""

from typing import Any

import pytest
import torch

from finetune.models import Segmenter
from finetune.models.heads import HEADS, AuxiliaryHead
from tests.models.heads.pyramids import SMALL, draw, pyramid_for

OPTIONS = {"channels": 8}


def test_the_auxiliary_head_reads_one_map_and_returns_logits_for_every_pixel() -> None:
    pyramid = pyramid_for("fpn")
    auxiliary = AuxiliaryHead(pyramid, 4, level=3, convolutions=2, **OPTIONS)
    features = draw(pyramid, 32, 64, batch=2)
    assert auxiliary(features).shape == (2, 4, 32, 64)
    others = [f if level == 3 else f * 0 for level, f in enumerate(features)]
    auxiliary.eval()
    assert torch.equal(auxiliary(others), auxiliary(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1}, "auxiliary.level=1: expected 2 or 3 or 4 or 5"),
        ({"level": "4"}, "auxiliary.level=4: expected"),
        ({"channels": 0}, "auxiliary.channels=0: expected a whole number"),
        ({"dropout": 2}, "auxiliary.dropout=2: expected a number from 0 to 1"),
    ],
)
def test_invalid_options_are_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuxiliaryHead(pyramid_for("fpn"), 2, **options)


@pytest.mark.parametrize("head", [name for name in HEADS if name != "segnet"])
def test_an_auxiliary_head_changes_no_logits_of_any_head_and_every_used_parameter_trains(head: str) -> None:
    torch.manual_seed(0)
    options = {"weights": "none", "head_options": SMALL[head]}
    alone = Segmenter("test_resnet.r160_in1k", head, 3, **options)
    both = Segmenter("test_resnet.r160_in1k", head, 3, auxiliary={"level": 4, **OPTIONS}, **options)
    missing, extra = both.load_state_dict(alone.state_dict(), strict=False)
    assert (extra, {name.split(".")[0] for name in missing}) == ([], {"auxiliary"})
    images = torch.randn(2, 3, 40, 56)
    assert torch.equal(both.eval()(images), alone.eval()(images))
    *_, scores = both.train()(images, auxiliary=True)
    assert scores.shape == (2, 3, 40, 56)
    sum(logits.square().mean() for logits in both(images, auxiliary=True)).backward()
    without = {name for name, parameter in both.named_parameters() if parameter.grad is None}
    assert without == both.unused_parameters()


def test_a_rebuilt_model_has_its_auxiliary_head() -> None:
    model = Segmenter("test_vit.r160_in1k", "setr_pup", 2, weights="none", auxiliary={"level": 3, **OPTIONS})
    rebuilt = Segmenter.from_config(model.config())
    rebuilt.load_state_dict(model.state_dict())
    assert [name for name, _ in rebuilt.named_parameters()] == [name for name, _ in model.named_parameters()]
