"""Models of OpenVINO: they compute what torch does for any size, and say what they are."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune
from finetune.checkpoints.saved_model import SavedModel, save_model
from finetune.exporters import ExportError, OpenVinoModel, export_model
from finetune.exporters.openvino_model import import_openvino
from finetune.inference import ClassIndices, ClassMasks
from finetune.plots import palette
from tests.samples import draw_folder

if find_spec("openvino") is None:
    pytest.skip("pip install 'finetune-seg[openvino]'", allow_module_level=True)
openvino = import_openvino()
pytest.importorskip("onnxruntime", reason="pip install 'finetune-seg[export]'")

NAMES = ("ground", "wall", "sky")
SIZES = ((1, 3, 64, 96), (3, 3, 33, 47), (2, 3, 70, 31))
TASKS = {"semantic": ClassIndices(NAMES), "multilabel": ClassMasks(NAMES, [0.5, 0.4, 0.6])}


@pytest.fixture
def saved() -> SavedModel:
    """Return a small model."""
    torch.manual_seed(0)
    model = finetune.Segmenter("test_resnet", "linear", NAMES, weights="none").eval()
    return SavedModel(model, {}, {"name": "semantic"}, {"test/iou": 0.5})


def read(folder: Path) -> tuple[Any, Any]:
    """Return the model in a folder, and compiled."""
    model = openvino.Core().read_model(folder / "model.xml")
    return model, openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("semantic", "classes"),
        pytest.param("semantic", "logits", marks=pytest.mark.slow),
        pytest.param("multilabel", "classes", marks=pytest.mark.slow),
        ("multilabel", "probabilities"),
    ],
)
def test_a_model_computes_what_torch_does_for_images_of_any_size(
    task: str, outputs: str, saved: SavedModel, tmp_path: Path
) -> None:
    output = TASKS[task]
    export_model(OpenVinoModel(output, outputs=outputs), saved, tmp_path)
    model, run = read(tmp_path)
    assert [each.any_name for each in model.outputs] == [outputs]
    for shape in SIZES:
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            logits = saved.model(saved.model.normalize(images))
        expected = {"logits": logits, "probabilities": output.probabilities(logits), "classes": output.decode(logits)}
        computed = torch.from_numpy(run(images.numpy())[outputs])
        assert computed.dtype == expected[outputs].dtype
        assert (computed.float() - expected[outputs].float()).abs().max() < 1e-5


def test_the_model_of_one_size_says_what_it_computes(saved: SavedModel, tmp_path: Path) -> None:
    files, _ = export_model(OpenVinoModel(TASKS["semantic"], size=(64, 96)), saved, tmp_path)
    assert [file.name for file in files] == ["model.xml", "model.bin"]
    model, run = read(tmp_path)
    facts = json.loads(model.get_rt_info("finetune").value)
    assert facts["classes"] == list(NAMES)
    assert facts["colors"] == [list(color) for color in palette(3)]
    assert (facts["size"], facts["outputs"], facts["weights_license"]) == ([64, 96], "classes", "unknown")
    assert str(model.inputs[0].partial_shape) == "[?,3,64,96]"
    with pytest.raises(RuntimeError, match="shape"):
        run(np.zeros((1, 3, 64, 64), np.uint8))


def test_half_precision_halves_the_weights_and_keeps_the_labels(saved: SavedModel, tmp_path: Path) -> None:
    for precision in ("float32", "float16"):
        files, agreement = export_model(
            OpenVinoModel(TASKS["semantic"], precision=precision), saved, tmp_path / precision
        )
    assert agreement.equal_labels > 0.99
    assert agreement.difference > 0
    assert files[1].stat().st_size < 0.6 * (tmp_path / "float32" / "model.bin").stat().st_size


def test_a_model_is_compared_on_real_images_and_measured(saved: SavedModel, folder: Path) -> None:
    photos = draw_folder(folder / "photos")
    save_model(folder / "model", saved.model, {"ignore_index": 255}, saved.scores, saved.task)
    data = (f"data.root={photos}", "data.classes=[ground,wall,sky]", "check=3")
    result = finetune.export("run=model", "format=openvino", "precision=float16", "output=model/export/ov", *data)
    assert result.agreement.images == 3
    assert result.agreement.scores() is not None
    assert result.agreement.difference > 0
    rows = finetune.benchmark("run=model", "forms=[openvino]", "seconds=0", "batch_sizes=[2]", "size=[32,40]").rows
    assert [(row.form, row.batch_size) for row in rows] == [("openvino float16", 2)]


def test_a_model_that_computes_something_else_is_refused_with_the_numbers(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = OpenVinoModel.load

    def mirrored(self: OpenVinoModel, folder: Path) -> Any:
        compute = load(self, folder)
        return lambda images: compute(images.flip(-1))

    monkeypatch.setattr(OpenVinoModel, "load", mirrored)
    with pytest.raises(ExportError, match=r"outputs that differ by up to .*, and other labels for .*% of the pixels"):
        export_model(OpenVinoModel(TASKS["semantic"]), saved, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_quantized_models_are_refused() -> None:
    with pytest.raises(ValueError, match="precision=int8: Choose from: float32, float16"):
        OpenVinoModel(TASKS["semantic"], precision="int8")


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.exporters.openvino_model.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs openvino, not installed: .*'finetune-seg\[openvino\]'"):
        OpenVinoModel(TASKS["semantic"])


def test_openvino_is_imported_without_what_reports_its_use() -> None:
    assert import_openvino() is openvino
    assert sys.modules["openvino_telemetry"] is None
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"
