"""Programs of torch.export: from uint8 images to predictions, for several sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters import ExportError, TorchProgram, export_model
from finetune.inference import ClassIndices

OUTPUT = ClassIndices(("ground", "wall", "sky"))


def sample_model(backbone: str, head: str, **options: Any) -> SavedModel:
    torch.manual_seed(0)
    model = finetune.Segmenter(backbone, head, OUTPUT.class_names, weights="none", **options).eval()
    return SavedModel(model, {}, {"name": "semantic"})


def check(program: Any, saved: SavedModel, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    with torch.inference_mode():
        expected = OUTPUT.decode(saved.model(saved.model.normalize(images)))
        (computed,) = program(images)
    assert computed.dtype == torch.uint8
    assert (computed == expected).float().mean() > 0.999


@pytest.mark.slow
def test_a_program_of_one_size_takes_any_number_of_images(tmp_path: Path) -> None:
    saved = sample_model("test_resnet", "linear")
    files, agreement = export_model(TorchProgram(OUTPUT, size=(50, 70)), saved, tmp_path)
    assert agreement.equal_labels == 1.0
    extra = {"metadata.json": ""}
    program = torch.export.load(files[0], extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["classes"] == list(OUTPUT.class_names)
    for count in (1, 3):
        check(program, saved, (count, 3, 50, 70))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["unet", "unet summed", "fpn", "deeplabv3plus", "segformer", "upernet", "pspnet"])
def test_a_program_of_the_default_backbone_takes_multiples_of_32(head: str, tmp_path: Path) -> None:
    options = {"head_options": {"sum_logits": True}} if head == "unet summed" else {}
    saved = sample_model("tf_efficientnet_lite0", head.removesuffix(" summed"), **options)
    files, _ = export_model(TorchProgram(OUTPUT), saved, tmp_path)
    program = torch.export.load(files[0]).module()
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        check(program, saved, shape)


@pytest.mark.slow
def test_a_program_of_a_model_that_reduces_images_takes_as_many_times_larger_ones(tmp_path: Path) -> None:
    saved = sample_model("test_resnet", "fpn")
    saved.model.reduce = 2
    files, _ = export_model(TorchProgram(OUTPUT), saved, tmp_path / "any")
    program = torch.export.load(files[0]).module()
    for shape in ((1, 3, 128, 128), (3, 3, 192, 320)):
        check(program, saved, shape)
    files, _ = export_model(TorchProgram(OUTPUT, size=(51, 70)), saved, tmp_path / "one")
    check(torch.export.load(files[0]).module(), saved, (2, 3, 51, 70))


def test_a_model_that_torch_cannot_write_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("some operator")

    monkeypatch.setattr("torch.export.export", fail)
    with pytest.raises(ExportError, match=r"backbone test_resnet with head linear cannot be exported .*some operator"):
        export_model(TorchProgram(OUTPUT), sample_model("test_resnet", "linear"), tmp_path)
    assert list(tmp_path.iterdir()) == []
