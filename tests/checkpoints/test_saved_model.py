"""Model folders and checkpoints: loading gives the saved model, and hostile or damaged files are refused."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune.checkpoints.adapters import save_adapters
from finetune.checkpoints.saved_model import (
    ModelError,
    config_file,
    load_model,
    load_models,
    save_model,
    store_temperature,
)
from finetune.models import Segmenter

FACTS = {"ignore_index": 255, "images": {"train": 8, "val": 2}}
SCORES = {"test/iou": 0.51234567, "test/pixel_accuracy": 0.9}


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    small = {"pyramid_channels": 32, "segmentation_channels": 64}
    model = Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea", "land"], weights="none", head_options=small)
    model(torch.randn(4, 3, 32, 32))  # in training mode, so that its statistics change
    return model.eval()


@pytest.fixture
def folder(model: Segmenter, tmp_path: Path) -> Path:
    save_model(tmp_path / "run" / "model", model, FACTS, SCORES)
    return tmp_path / "run" / "model"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change `config.json` in place."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def logits(model: Segmenter) -> torch.Tensor:
    pixels = torch.arange(3 * 37 * 53, dtype=torch.int64).mul(7919).remainder(256).to(torch.uint8)
    with torch.no_grad():
        return model(model.normalize(pixels.view(1, 3, 37, 53)))


def test_a_model_folder_gives_the_same_logits(model: Segmenter, folder: Path) -> None:
    saved = load_model(folder)
    assert torch.equal(logits(saved.model), logits(model))
    assert saved.model.class_names == ("sky", "sea", "land")
    assert saved.data == FACTS
    assert not saved.model.training


def test_weights_in_channels_last_are_saved(model: Segmenter, tmp_path: Path) -> None:
    twin = Segmenter.from_config(model.config())
    twin.load_state_dict(model.state_dict())
    save_model(tmp_path / "model", twin.eval().to(memory_format=torch.channels_last), FACTS, {})
    back = load_model(tmp_path / "model").model.state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_a_run_folder_gives_its_model(model: Segmenter, folder: Path) -> None:
    assert torch.equal(logits(load_model(folder.parent).model), logits(model))


def test_a_folder_has_files_that_other_libraries_read(model: Segmenter, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == json.loads(json.dumps(model.config()))
    assert config["scores"] == {"test/iou": 0.512346, "test/pixel_accuracy": 0.9}


def interrupt(state: dict[str, Any], path: Path, metadata: Any = None) -> NoReturn:
    """Write half a file, as a process that is killed does."""
    save_file(state, path)
    os.truncate(path, path.stat().st_size // 2)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["saved_model", "adapters"])
def test_an_interrupted_write_keeps_the_old_model(
    name: str, model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_adapters = Segmenter.from_config({**model.config(), "lora": {"rank": 2, "alpha": 2}})
    for _ in range(2):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with suppress(KeyboardInterrupt):
            if name == "saved_model":
                save_model(tmp_path, model, FACTS, {"test/iou": float(len(before))})
            else:
                save_adapters(tmp_path, with_adapters)
        monkeypatch.setattr(f"finetune.checkpoints.{name}.save_file", interrupt)
    assert len(before) >= 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_card_has_classes_scores_and_license(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for expected in ("sky, sea, land", "test/iou: 0.5123", "license: unknown", "test_resnet.r160_in1k"):
        assert expected in card


def test_a_fine_tuned_backbone_loads_into_timm(folder: Path, model: Segmenter) -> None:
    state = load_file(folder / "model.safetensors")
    prefix = "backbone.model."
    twin = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    twin.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(twin.forward_features(images), model.backbone.model.forward_features(images))


@pytest.mark.parametrize("damage", ["truncated", "emptied", "overwritten", "removed"])
def test_damaged_weights_are_refused(damage: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        new = {"truncated": content[: len(content) // 2], "emptied": b"", "overwritten": b"x" * 1000}
        path.write_bytes(new[damage])
    with pytest.raises(ModelError, match=r"is damaged|cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "null", '"text"'])
def test_a_damaged_config_is_refused(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=str(folder)):
        load_model(folder)


@pytest.mark.parametrize("key", ["format", "model", "data"])
def test_a_config_that_lacks_a_part_is_refused(key: str, folder: Path) -> None:
    edit(folder, lambda config: config.pop(key))
    with pytest.raises(ModelError, match=str(folder)):
        load_model(folder)


def test_an_unknown_format_version_is_named(folder: Path) -> None:
    edit(folder, lambda config: config.update(format=99))
    with pytest.raises(ModelError, match="has format 99; this version reads format 1"):
        load_model(folder)


@pytest.mark.parametrize("key", ["backbone", "head", "classes", "in_channels", "backbone_options", "mean", "std"])
def test_a_model_config_that_lacks_a_part_is_refused(key: str, folder: Path) -> None:
    edit(folder, lambda config: config["model"].pop(key))
    with pytest.raises(ModelError, match=key):
        load_model(folder)


def explode(*args: Any, **options: Any) -> NoReturn:
    raise AssertionError("this was run")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "hf-hub:someone/model",
        "hf_hub:someone/model",
        "local-dir:/etc",
        "../../etc/passwd",
        "resnet999",
        "",
    ],
)
def test_an_unknown_backbone_is_refused_without_reading_a_hub_or_disk(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, lambda config: config["model"].update(backbone=name))
    monkeypatch.setattr(timm, "create_model", explode)
    with pytest.raises(ModelError, match="unknown backbone"):
        load_model(folder)


@pytest.mark.parametrize("name", ["os.system", "__class__", "head_type"])
def test_an_unknown_head_is_refused(name: str, folder: Path) -> None:
    edit(folder, lambda config: config["model"].update(head=name))
    with pytest.raises(ModelError, match=f"unknown head '{name}'"):
        load_model(folder)


@pytest.mark.parametrize(
    "option",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg": {"url": "file:///etc/passwd"}},
        {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
        {"features_only": True},
    ],
)
def test_options_that_fetch_or_read_files_are_refused(
    option: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, lambda config: config["model"].update(backbone_options=option))
    monkeypatch.setattr(timm, "create_model", explode)
    with pytest.raises(ModelError, match=next(iter(option))):
        load_model(folder)


@pytest.mark.parametrize("place", ["top", "model", "data", "backbone_options", "head_options"])
def test_a_target_in_a_config_is_never_called(place: str, folder: Path, tmp_path: Path) -> None:
    bomb = {"_target_": "os.mkdir", "path": str(tmp_path / "exploded")}

    def plant(config: dict[str, Any]) -> None:
        places = {"top": config, "model": config["model"], "data": config["data"]}
        target = places.get(place) if place in places else config["model"][place]
        target.update(bomb)
        target["nested"] = bomb

    edit(folder, plant)
    if place in ("backbone_options", "head_options"):
        with pytest.raises(ModelError, match=r"_target_|nested|path"):
            load_model(folder)
    else:
        load_model(folder)  # unknown keys are ignored
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    edit(folder, lambda config: config["model"].update(classes=["sky", "sea"]))
    with pytest.raises(ModelError, match=r"(?s)do not fit the model described there.*size mismatch"):
        load_model(folder)


def test_a_missing_tensor_is_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("head.0.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"head\.0\.bias"):
        load_model(folder)


def checkpoint(model: Segmenter, **more: Any) -> dict[str, Any]:
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"state_dict": state, "model_config": model.config(), "epoch": 3, **more}


def test_a_checkpoint_gives_the_same_logits(model: Segmenter, tmp_path: Path) -> None:
    torch.save(checkpoint(model), tmp_path / "last.ckpt")
    saved = load_model(tmp_path / "last.ckpt")
    assert torch.equal(logits(saved.model), logits(model))
    assert saved.data == {}


def test_an_unfinished_run_is_loaded_from_its_best_checkpoint(model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint(model), tmp_path / "checkpoints" / "best.ckpt")
    assert torch.equal(logits(load_model(tmp_path).model), logits(model))


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"model": 3}])
def test_a_checkpoint_of_another_program_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"was not written by this toolkit"):
        load_model(tmp_path / "other.ckpt")


def test_a_checkpoint_without_weights_is_refused(model: Segmenter, tmp_path: Path) -> None:
    torch.save({"model_config": model.config()}, tmp_path / "bare.ckpt")
    with pytest.raises(ModelError, match=r"bare\.ckpt"):
        load_model(tmp_path / "bare.ckpt")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_path_without_a_model_is_refused_with_the_expected_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ModelError, match=r"no model at '.*Expected a run folder.*a model folder.*a \.ckpt file, or hf://user/name"
    ):
        load_model(tmp_path / name)


@pytest.mark.parametrize(("other", "warned"), [([0, 4095], False), ([0, 1000], True)])
def test_models_that_were_trained_with_other_value_ranges_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: list[int], warned: bool
) -> None:
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    for name, value_range in (("a", [0, 4095]), ("b", other)):
        save_model(tmp_path / name, model, {"value_range": value_range}, {})
    load_models([tmp_path / "a", tmp_path / "b"])
    text = f"'{tmp_path / 'b'}' was trained with data.value_range=[0, 1000], but reads images with [0, 4095]"
    assert (text in caplog.text) == warned


@pytest.mark.parametrize(("other", "together"), [([0.4, 0.5], True), ([0.4, 0.6], False)])
def test_models_of_masks_predict_together_if_their_thresholds_were_equal_before_they_were_calibrated(
    tmp_path: Path, other: list[float], together: bool
) -> None:
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    for name, thresholds, temperature in (("a", [0.4, 0.5], 1.4), ("b", other, 0.7)):
        save_model(tmp_path / name, model, {}, {}, {"name": "multilabel", "thresholds": thresholds})
        store_temperature(config_file(tmp_path / name), temperature)
    if together:
        first, second = (load_models([tmp_path / x, tmp_path / y])[0].task["thresholds"] for x, y in ("ab", "ba"))
        assert first == pytest.approx(second)
        logits = torch.linspace(-2, 2, 41)[:, None]  # of two equal models: their mean has the masks of each alone
        mean = (logits / 1.4 + logits / 0.7) / 2
        alone = logits.sigmoid() > torch.tensor([0.4, 0.5])
        assert torch.equal(mean.sigmoid() > torch.tensor(first), alone)
    else:
        with pytest.raises(ModelError, match="need the same task and options"):
            load_models([tmp_path / "a", tmp_path / "b"])
