"""The images that an export is checked on and calibrated with, and the label that it ignores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.builders.export_samples import EvenSamples, export_samples
from finetune.checkpoints.saved_model import SavedModel
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.models import Segmenter
from tests.samples import draw_folder


def saved(**data: Any) -> SavedModel:
    model = Segmenter("test_resnet.r160_in1k", classes=["ground", "wall", "sky"], weights="none")
    return SavedModel(model, data, {"name": "semantic"})


def config(*overrides: str) -> Any:
    return load_config(["run=somewhere", *overrides], "export")


@pytest.mark.parametrize("values", [{"ignore_index": "*"}, {"ignore_index": [0, 300]}, {"ignore_index": "#ffffff"}])
def test_the_label_is_that_of_decoded_masks_and_not_the_value_in_files(values: dict[str, Any]) -> None:
    task, *samples = export_samples(config("format=onnx"), saved(mask_values=[1, 2, 3], **values), None, None)
    assert task.ignore_index == 255
    assert samples == [(), ()]


def test_masks_with_void_0_are_compared_by_their_own_label(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, values=(1, 2, 3))
    model = saved(ignore_index=0, mask_values=[1, 2, 3])
    task, samples, calibration = export_samples(config("format=onnx", f"data.root={root}"), model, None, None)
    assert isinstance(samples, EvenSamples)
    assert calibration == ()
    for _, target in samples:
        task.check_target(target[0], model.model.class_names, task.ignore_index)


def test_the_options_of_a_format_need_not_be_taken_back(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    _, samples, _ = export_samples(config("format=onnx", "data=folder", f"data.root={root}"), saved(), None, None)
    assert samples
    with pytest.raises(ConfigError, match=r"data\.batch_size: an export reads one image"):
        export_samples(config("format=onnx", f"data.root={root}", "data.batch_size=2"), saved(), None, None)


def test_a_quantized_model_is_calibrated_also_without_a_check(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    _, samples, calibration = export_samples(
        config("format=onnx", f"data.root={root}", "precision=int8", "check=0"), saved(), None, None
    )
    assert samples == ()
    assert isinstance(calibration, EvenSamples)


def test_training_images_are_read_for_a_quantized_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def found(config: Any, *rest: Any) -> Any:
        asked.append(config["split"])
        return SimpleNamespace(datasets={config["split"]: range(5)}, ignore_index=255), config["split"]

    monkeypatch.setattr("finetune.builders.export_samples.evaluation_data", found)
    trained: Any = {}
    export_samples(config("format=onnx"), saved(), trained, None)
    assert asked == ["val"]
    export_samples(config("format=onnx", "precision=int8"), saved(), trained, None)
    assert asked == ["val", "val", "train"]
