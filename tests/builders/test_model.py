"""Models that a config describes."""

import pytest

from finetune.builders.model import build_model
from tests.samples import MODEL, decided


def test_a_model_that_needs_no_weights_reads_no_file_of_them() -> None:
    backbone = [setting for setting in MODEL if setting.startswith("backbone")]
    config = decided([*backbone, "task=instance", "head.channels=16", "head.weights=missing.pth"])
    assert build_model(config, ["a", "b"], weighted=False).class_names == ("a", "b")
    with pytest.raises(ValueError, match=r"cannot read weights from 'missing\.pth'"):
        build_model(config, ["a", "b"])
