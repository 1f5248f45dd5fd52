"""ONNX files: they compute what the model does for any size, say what they are, and run without torch."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import finetune
from finetune.checkpoints.saved_model import SavedModel
from finetune.config.errors import ConfigError
from finetune.exporters import ExportError, OnnxFile, export_model
from finetune.exporters.deployed_model import adaptive_mean
from finetune.inference import ClassIndices, ClassMasks, Predictor
from finetune.inference.saving import find_names, save_predictions
from finetune.models.views import Views
from finetune.plots import palette
from tests.samples import draw_folder, on_folder, save, shell

onnx = pytest.importorskip("onnx", reason="pip install 'finetune-seg[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'finetune-seg[export]'")

NAMES = ("ground", "wall", "sky")
SIZES = ((1, 3, 64, 96), (3, 3, 33, 47), (2, 3, 70, 31))
TASKS = {"semantic": ClassIndices(NAMES), "multilabel": ClassMasks(NAMES, [0.5, 0.4, 0.6])}


def sample_model(head: str = "linear", task: str = "semantic", **options: Any) -> SavedModel:
    """Return a small model."""
    torch.manual_seed(0)
    model = finetune.Segmenter(options.pop("backbone", "test_resnet"), head, NAMES, weights="none", **options).eval()
    return SavedModel(model, {}, {"name": task}, {"test/iou": 0.5})


def session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(str(folder / "model.onnx"))


@pytest.mark.parametrize("outputs", ["classes", "logits", "probabilities"])
@pytest.mark.parametrize("task", TASKS)
def test_a_file_computes_what_the_model_does_for_images_of_any_size(outputs: str, task: str, tmp_path: Path) -> None:
    saved, output = sample_model(task=task), TASKS[task]
    export_model(OnnxFile(output, outputs=outputs), saved, tmp_path)
    run = session(tmp_path)
    assert [each.name for each in run.get_outputs()] == [outputs]
    for shape in SIZES:
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            logits = saved.model(saved.model.normalize(images))
        expected = {"logits": logits, "probabilities": output.probabilities(logits), "classes": output.decode(logits)}
        computed = torch.from_numpy(run.run(None, {"images": images.numpy()})[0])
        assert computed.dtype == expected[outputs].dtype
        assert (computed.float() - expected[outputs].float()).abs().max() < 1e-5


def test_flips_and_turns_of_test_time_are_in_the_file(tmp_path: Path) -> None:
    saved = sample_model()
    saved.model.views = Views(["vertical"], rotations=True)
    export_model(OnnxFile(ClassIndices(NAMES), outputs="logits"), saved, tmp_path)
    images = torch.randint(0, 256, SIZES[1], dtype=torch.uint8)
    with torch.inference_mode():
        expected = saved.model(saved.model.normalize(images))
    computed = session(tmp_path).run(None, {"images": images.numpy()})[0]
    assert np.abs(computed - expected.numpy()).max() < 1e-5


def test_the_metadata_say_what_the_file_computes(tmp_path: Path) -> None:
    export_model(OnnxFile(ClassIndices(NAMES), size=(64, 96)), sample_model(in_channels=1), tmp_path)
    run = session(tmp_path)
    facts = json.loads(run.get_modelmeta().custom_metadata_map["finetune"])
    assert facts["classes"] == list(NAMES)
    assert facts["colors"] == [list(color) for color in palette(3)]
    assert facts["size"] == [64, 96]
    assert (facts["outputs"], facts["weights_license"]) == ("classes", "unknown")
    assert run.get_inputs()[0].shape == ["batch", 1, 64, 96]
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run.run(None, {"images": np.zeros((1, 1, 64, 64), np.uint8)})


@pytest.mark.parametrize("task", TASKS)
def test_the_script_writes_the_same_masks_as_predict_without_torch(task: str, tmp_path: Path) -> None:
    saved, output = sample_model(task=task), TASKS[task]
    export_model(OnnxFile(output), saved, tmp_path / "onnx")
    random = np.random.default_rng(0)
    save(tmp_path / "photos" / "color.png", random.integers(0, 256, (37, 53, 3), np.uint8))
    save(tmp_path / "photos" / "gray.png", random.integers(0, 256, (64, 40), np.uint8))
    predictor = Predictor(saved.model, "cpu", output)
    expected = save_predictions(predictor, find_names(predictor, tmp_path / "photos"), tmp_path / "predict")
    script = tmp_path / "onnx" / "serve.py"
    block = f"import runpy, sys; sys.modules.update(torch=None, finetune=None); runpy.run_path({str(script)!r}, "
    block += "run_name='__main__')"
    photos = [str(path) for path in sorted((tmp_path / "photos").iterdir())]
    done = shell(sys.executable, "-c", block, *photos, "--output", "masks", "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == [path.name for path in expected]
    for path in expected:
        written, wanted = Image.open(tmp_path / "masks" / path.name), Image.open(path)
        assert np.array_equal(np.asarray(written), np.asarray(wanted))
        assert written.getpalette() == wanted.getpalette()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6), (7, 11)])
def test_pooling_by_matrices_is_adaptive_pooling(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 4, 7, 11)
    assert torch.allclose(adaptive_mean(maps, size), F.adaptive_avg_pool2d(maps, size), atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on a folder of images, 3 of them to validate."""
    photos = draw_folder(tmp_path_factory.mktemp("photos"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.commands.scoring.write_examples", lambda *_: None)
        patched.setattr("finetune.commands.train.run_page", lambda folder: "")
        trained = finetune.train(
            *on_folder(photos), "data.val=0.25", "data.test=0.0", f"output={tmp_path_factory.mktemp('run')}"
        )
    return trained.folder


def test_an_export_is_checked_on_the_validation_images_of_the_run(run: Path, tmp_path: Path) -> None:
    result = finetune.export(f"run={run}", "format=onnx", f"output={tmp_path / 'onnx'}", "size=[40,32]")
    assert result.agreement.images == 3
    scores = result.agreement.scores()
    assert scores is not None
    assert scores[1] == pytest.approx(scores[2], abs=1e-3)
    assert session(tmp_path / "onnx").get_inputs()[0].shape == ["batch", 3, 40, 32]


def test_a_plain_vit_is_written_for_one_size_and_refused_for_any(tmp_path: Path, capsys: Any) -> None:
    saved, output = sample_model("segformer", backbone="test_vit"), TASKS["semantic"]
    _, agreement = export_model(OnnxFile(output, size=(50, 70)), saved, tmp_path / "one")
    assert agreement.equal_labels == 1.0
    with pytest.raises(ExportError, match=r"(?s)backbone test_vit with head segformer .* size=\[height,width\]"):
        export_model(OnnxFile(output), saved, tmp_path / "any")
    assert not (tmp_path / "any").exists()
    assert capsys.readouterr().out == ""  # torch would print its graph


def test_images_that_the_trace_takes_as_constant_are_noticed_without_data(tmp_path: Path) -> None:
    saved = sample_model("segformer", backbone="test_vit", backbone_options={"img_size": 64})  # resamples larger images
    with pytest.raises(ExportError, match="outputs that differ by up to"):
        export_model(OnnxFile(TASKS["semantic"], size=(96, 96)), saved, tmp_path)


def test_half_precision_halves_the_file_and_keeps_the_labels(tmp_path: Path) -> None:
    saved = sample_model()
    for precision in ("float32", "float16"):
        files, agreement = export_model(OnnxFile(TASKS["semantic"], precision=precision), saved, tmp_path / precision)
    assert agreement.equal_labels > 0.99
    assert files[0].stat().st_size < 0.6 * (tmp_path / "float32" / "model.onnx").stat().st_size


@pytest.mark.slow
def test_a_quantized_file_has_8_bit_weights_and_the_scores_of_the_run(run: Path, tmp_path: Path) -> None:
    result = finetune.export(f"run={run}", "format=onnx", f"output={tmp_path / 'int8'}", "precision=int8")
    file = onnx.load(tmp_path / "int8" / "model.onnx")
    weights = [each for each in file.graph.initializer if len(each.dims) == 4 and each.dims[0] > 1]  # not the mean
    kinds = [each.data_type for each in weights]
    assert kinds.count(onnx.TensorProto.INT8) == len(kinds) - 1 > 10  # all but the classifier's
    assert [each.name for each in file.graph.output] == ["classes"]
    assert result.agreement.images == 3
    assert 0 < result.agreement.difference < 1


def test_a_file_that_computes_something_else_is_refused_with_the_numbers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = OnnxFile.load

    def mirrored(self: OnnxFile, folder: Path) -> Any:
        compute = load(self, folder)
        return lambda images: compute(images.flip(-1))

    monkeypatch.setattr(OnnxFile, "load", mirrored)
    with pytest.raises(ExportError, match=r"outputs that differ by up to .*, and other labels for .*% of the pixels"):
        finetune.export(f"run={run}", "format=onnx", f"output={tmp_path / 'onnx'}")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("precision=half",), "precision=half: Choose from: float32, float16, int8"),
        (("outputs=class",), "outputs=class: Did you mean classes"),
        (("size=320",), r"size=320: expected \[height, width\] in pixels"),
        (("data.batch_size=4",), "an export reads one image at a time"),
        (("data.root=nowhere",), "check=0 takes random ones"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, run: Path, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.export(f"run={run}", "format=onnx", "output=out", *overrides)
    assert list(folder.iterdir()) == []


def test_a_model_without_images_is_not_quantized(run: Path, folder: Path) -> None:
    shutil.copytree(run / "model", folder / "alone")
    with pytest.raises(ConfigError, match="precision=int8 needs images that show which values occur"):
        finetune.export(f"run={folder / 'alone'}", "format=onnx", "output=out", "precision=int8", "check=0")


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.exporters.onnx_file.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ONNX files need onnx, onnxruntime, .*'finetune-seg\[export\]'"):
        OnnxFile(ClassIndices(NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["unet", "unet summed", "fpn", "deeplabv3plus", "segformer", "upernet", "pspnet"])
def test_the_default_backbone_exports_for_any_size_under_the_commonest_heads(head: str, tmp_path: Path) -> None:
    options = {"head_options": {"sum_logits": True}} if head == "unet summed" else {}
    saved = sample_model(head.removesuffix(" summed"), backbone="tf_efficientnet_lite0", **options)
    output = ClassIndices(NAMES)
    export_model(OnnxFile(output, outputs="logits"), saved, tmp_path)
    run = session(tmp_path)
    for shape in ((1, 3, 96, 160), (2, 3, 131, 77)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            expected = saved.model(saved.model.normalize(images))
        computed = torch.from_numpy(run.run(None, {"images": images.numpy()})[0])
        assert (computed - expected).abs().max() < 1e-4 * max(1, float(expected.abs().max()))


@pytest.mark.slow
def test_onnxruntime_keeps_no_identifier_in_the_home_folder(tmp_path: Path) -> None:
    code = "import finetune.exporters.onnx_file, onnxruntime"
    done = shell(sys.executable, "-c", code, cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [str(path) for path in tmp_path.rglob("*") if "Microsoft" in str(path)] == []
