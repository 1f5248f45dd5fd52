"""The command `benchmark`: rows, files and figure; what cannot run is left out."""

import csv
import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from PIL import Image

import finetune
from finetune.checkpoints.saved_model import load_model, save_model
from finetune.commands import benchmark
from finetune.commands.benchmark import _size
from finetune.config.errors import ConfigError
from finetune.models import Segmenter
from tests.samples import exit_code

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Return folders of two models with scores."""
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    for name, iou in (("good", 0.8), ("poor", 0.4)):
        save_model(tmp_path / name, model, {}, {"test/iou": iou})
    return tmp_path / "good", tmp_path / "poor"


def test_runs_are_measured_at_each_batch_size_and_drawn(
    models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"run=[{','.join(map(str, models))}]"
    result = finetune.benchmark(runs, "forms=[torch]", "size=[32,48]", "seconds=0", "output=out")
    assert [(Path(row.run).name, row.batch_size) for row in result.rows] == [
        ("good", 1), ("good", 4), ("poor", 1), ("poor", 4)
    ]  # fmt: skip
    for row in result.rows:
        assert (row.height, row.width) == (32, 48)
        assert 0 < row.p5_ms <= row.median_ms <= row.p95_ms
        assert row.images_per_second == pytest.approx(1000 * row.batch_size / row.median_ms)
    with Path("out/benchmark.csv").open(newline="") as file:
        assert [float(row["median_ms"]) for row in csv.DictReader(file)] == [row.median_ms for row in result.rows]
    assert json.loads(Path("out/machine.json").read_text())["threads"] == torch.get_num_threads()
    assert Image.open("out/latency.png").width > 300
    parameters = sum(p.numel() for p in finetune.load(models[0]).model.parameters())
    assert f"{parameters / 1e6:.2f}M parameters" in capsys.readouterr().out


def test_the_size_is_that_of_images_before_they_are_reduced(models: tuple[Path, Path]) -> None:
    saved = load_model(models[0])
    saved.model.reduce = 4
    assert _size({"size": None}, models[0], saved) == (256, 384)  # four times the smallest of the backbone
    assert _size({"size": [64, 96]}, models[0], saved) == (64, 96)


def test_a_form_that_cannot_run_is_left_out_and_said(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Own(Exception):
        """As those of ONNX Runtime, which have no base in common with others."""

    def broken(*_: object) -> dict[str, benchmark.Predict]:
        raise Own("no compiler\nat all")

    monkeypatch.setitem(benchmark.FORMS, "compiled", broken)
    result = finetune.benchmark(f"run={models[0]}", "seconds=0", "batch_sizes=[1]", "output=out")
    assert [row.form for row in result.rows] == ["torch"]
    shown = "".join(capsys.readouterr())
    assert "compiled is left out: no compiler" in shown
    assert f"needs exported files: finetune export run={models[0]} format=onnx" in shown
    assert not Path("out/latency.png").exists()


def test_exported_files_are_measured_by_their_precision(models: tuple[Path, Path]) -> None:
    pytest.importorskip("onnxruntime")
    finetune.export(f"run={models[0]}", "format=onnx", f"output={models[0] / 'export' / 'onnx'}")
    result = finetune.benchmark(f"run={models[0]}", "forms=[onnx]", "seconds=0", "batch_sizes=[2]", "output=out")
    assert [(row.form, row.batch_size) for row in result.rows] == [("onnx float32", 2)]
    copytree(models[0] / "export" / "onnx", models[0] / "export" / "onnx_2")
    result = finetune.benchmark(f"run={models[0]}", "forms=[onnx]", "seconds=0", "batch_sizes=[2]", "output=both")
    assert [row.form for row in result.rows] == ["onnx float32 (onnx)", "onnx float32 (onnx_2)"]


@pytest.mark.parametrize(
    "setting", ["forms=[tensorrt]", "batch_sizes=[0]", "batch_sizes=[]", "size=[64]", "seconds=-1"]
)
def test_settings_out_of_range_are_refused(setting: str, models: tuple[Path, Path]) -> None:
    assert exit_code("benchmark", f"run={models[0]}", setting) == 2


@pytest.mark.slow
def test_a_compiled_model_predicts_as_the_original(models: tuple[Path, Path]) -> None:
    predictor = finetune.load(models[0], device="cpu")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(
        benchmark.FORMS["compiled"](predictor, models[0])["compiled"](images), predictor.predict_images(images)
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("size=512", r"size=512: expected \[height, width\] in pixels"),
        ("size=[64.5,64]", r"size=\[64.5, 64\]: expected \[height, width\] in pixels"),
        ("batch_sizes=[1.5]", r"batch_sizes=\[1.5\]: expected a list of whole numbers"),
        ("batch_sizes=[a]", r"batch_sizes=\[.a.\]: expected a list of whole numbers"),
        ("seconds=abc", "seconds=abc: expected 0 or more"),
        ("batch_sizes=8", r"batch_sizes=8: expected a list, batch_sizes=\[8\]"),
        ("forms=torch", r"forms=torch: expected a list, forms=\[torch\]"),
    ],
)
def test_a_setting_of_another_type_is_refused(models: tuple[Path, Path], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.benchmark(f"run={models[0]}", override)
