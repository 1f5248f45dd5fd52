"""What a training starts with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from finetune.models import Segmenter
from finetune.runs.prepare import initial_model


@pytest.mark.parametrize(("init_from", "weights"), [(None, "pretrained"), ("outputs/run", "none")])
def test_a_resumed_run_that_started_from_another_has_no_pretrained_weights_to_name(
    tmp_path: Path, init_from: str | None, weights: str
) -> None:
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    (tmp_path / "last.ckpt").touch()
    point = cast(Any, SimpleNamespace(state={"model_config": model.config()}, checkpoint=tmp_path / "last.ckpt"))
    config = {"init_from": init_from, "backbone": {"weights": "pretrained"}}
    assert initial_model(config, cast(Any, None), point)[0].backbone.weights == weights
