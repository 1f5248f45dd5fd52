"""Models in other formats: they compute the same, or they are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import finetune
from finetune.checkpoints.saved_model import SavedModel, save_model
from finetune.config.errors import ConfigError
from finetune.exporters import EXPORTERS, ExportError, Limits, export_model
from finetune.exporters.agreement import Outputs
from finetune.models.input_size import Size

LORA = {"rank": 2, "alpha": 4, "targets": None}


def fine_tuned(head: str = "linear", **options: Any) -> SavedModel:
    """Return a small model whose weights and statistics are unlike any pretrained ones."""
    torch.manual_seed(0)
    model = finetune.Segmenter("test_resnet", head, 3, weights="none", **options).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / 100)
    return SavedModel(model, {"ignore_index": 255}, {"name": "semantic"}, {"test/iou": 0.5})


@pytest.mark.parametrize("name", ["safetensors", "timm"])
@pytest.mark.parametrize(
    "options", [{}, {"in_channels": 1}, {"output_stride": 8, "head": "fcn"}, {"lora": LORA}], ids=str
)
def test_every_exact_format_computes_what_the_model_does(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    files, agreement = export_model(EXPORTERS[name](), fine_tuned(**options), tmp_path / "out")
    assert agreement.difference == 0
    assert {file.name for file in files} >= {"model.safetensors", "config.json"}


def test_an_exported_backbone_gives_timms_features_from_the_line_that_is_shown(tmp_path: Path) -> None:
    saved, exporter = fine_tuned(mean=(0.1, 0.2, 0.3)), EXPORTERS["timm"]()
    export_model(exporter, saved, tmp_path)
    network = eval(exporter.usage(tmp_path), {"timm": timm}).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.forward_features(images), saved.model.backbone.model.forward_features(images))
    assert network.pretrained_cfg["mean"] == pytest.approx((0.1, 0.2, 0.3))


class HalvedLogits:
    """A format of a user's own, with a bug."""

    limits = Limits(difference=1e-4)
    size: Size | None = None
    multiple = 1

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        torch.save(saved.model.state_dict(), folder / "weights.pt")
        return [folder / "weights.pt"]

    def expected(self, saved: SavedModel, images: Tensor) -> dict[str, Tensor]:
        return {"logits": saved.model(saved.model.normalize(images))}

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        model = fine_tuned().model
        model.load_state_dict(torch.load(folder / "weights.pt"))
        return lambda images: {"logits": model(model.normalize(images)) / 2}

    def usage(self, folder: Path) -> str:
        return "torch.load(...)"


def test_a_format_from_outside_works_by_an_entry_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = fine_tuned()
    save_model(tmp_path / "model", saved.model, saved.data, saved.scores, saved.task)
    monkeypatch.setitem(EXPORTERS, "halved", HalvedLogits)
    with pytest.raises(ExportError, match=r"backbone test_resnet with head linear cannot .* differ by up to"):
        finetune.export(f"run={tmp_path}", "format=halved", f"output={tmp_path / 'halved'}")
    assert not (tmp_path / "halved").exists()
    monkeypatch.setattr(HalvedLogits, "limits", Limits(difference=100.0))
    result = finetune.export(f"run={tmp_path}", "format=halved", f"output={tmp_path / 'again'}")
    assert [file.name for file in result.files] == ["weights.pt"]
    assert 0 < result.agreement.difference < 100


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_an_export_that_is_cut_off_leaves_nothing_but_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def cut_off(exporter: object, saved: SavedModel, folder: Path) -> list[Path]:
        (folder / "weights.pt").write_text("half")
        raise error

    monkeypatch.setattr(HalvedLogits, "write", cut_off)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(type(error)):
        export_model(HalvedLogits(), fine_tuned(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_images_that_are_smaller_than_a_program_takes_are_not_compared(tmp_path: Path) -> None:
    compared: list[tuple[int, ...]] = []

    class Recording(HalvedLogits):
        limits, multiple = Limits(difference=100.0), 32

        def expected(self, saved: SavedModel, images: Tensor) -> dict[str, Tensor]:
            compared.append(tuple(images.shape[-2:]))
            return super().expected(saved, images)

    samples = [(torch.zeros(1, 3, side, 80, dtype=torch.uint8), torch.zeros(1, side, 80)) for side in (40, 70)]
    export_model(Recording(), fine_tuned(), tmp_path, samples=samples)
    assert (32, 64) not in compared
    assert compared[-1] == (64, 64)


def test_the_command_writes_below_the_run_and_keeps_the_scores(tmp_path: Path) -> None:
    saved = fine_tuned()
    save_model(tmp_path / "model", saved.model, saved.data, saved.scores, saved.task)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "env.json").touch()
    first = finetune.export(f"run={tmp_path}")
    again = finetune.export(f"run={tmp_path}")
    assert first.folder == tmp_path / "export" / "safetensors"
    assert again.folder == tmp_path / "export" / "safetensors_2"
    assert "test/iou: 0.5000" in (first.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run=nowhere",), "no model at 'nowhere'"),
        (("run=null",), "run is not set"),
        (("run=x", "format=tim"), "unknown format 'tim'. Did you mean timm?"),
        (("run=x", "format=timm", "precision=int8"), "format=timm has unknown options: 'precision'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.export(*overrides)
    assert list(folder.iterdir()) == []
