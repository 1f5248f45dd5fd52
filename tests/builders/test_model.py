"""Models that a config describes."""

import pytest
import torch

from finetune.builders.model import build_model, build_model_from
from finetune.config.errors import ConfigError
from tests.samples import MODEL, decided


def test_a_model_that_needs_no_weights_reads_no_file_of_them() -> None:
    backbone = [setting for setting in MODEL if setting.startswith("backbone")]
    config = decided([*backbone, "task=instance", "head.channels=16", "head.weights=missing.pth"])
    assert build_model(config, ["a", "b"], weighted=False).class_names == ("a", "b")
    with pytest.raises(ValueError, match=r"cannot read weights from 'missing\.pth'"):
        build_model(config, ["a", "b"])


def test_a_size_for_a_backbone_of_any_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone.image_size=\[64, 64\] has no effect.*takes images of any size"):
        build_model(decided([*MODEL, "backbone.image_size=[64,64]"]), ["a", "b"])


def test_a_classifier_is_taken_over_by_the_names_of_its_classes() -> None:
    config = decided([*MODEL, "init_from=source"])
    source = build_model(config, ["ground", "cat", "dog"])
    model, _ = build_model_from(config, ["ground", "dog", "cat"], source)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images)[:, [0, 2, 1]], source.eval()(images))
    other, line = build_model_from(config, ["road", "sky", "car"], source)
    assert "initialized: head.0.weight, head.0.bias" in line
    numbered, _ = build_model_from(config, ["class_0", "class_1", "class_2"], source)
    assert torch.equal(numbered.state_dict()["head.0.bias"], source.state_dict()["head.0.bias"])
    assert other.class_names == ("road", "sky", "car")
