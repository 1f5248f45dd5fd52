"""Low-rank adapters: trained by the command, saved to a small file, and loaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune
from finetune.checkpoints.adapters import load_adapters, save_adapters
from finetune.checkpoints.saved_model import ModelError, load_model
from finetune.commands.train import TrainResult
from finetune.models import Segmenter
from tests.samples import SYNTHETIC


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with pretrained weights."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(5)
    backbone = Segmenter("test_resnet.r160_in1k", weights="none").backbone.model
    for name, parameter in backbone.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # they start at 0 and pass no gradient
    save_file(backbone.state_dict(), home / "pretrained.safetensors")
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> TrainResult:
    overrides = ("tuning=lora", "tuning.lora.rank=2", f"backbone.weights={home / 'pretrained.safetensors'}")
    return finetune.train(*SYNTHETIC, *overrides, "optimizer.lr=1e-2", f"output={home / 'run'}")


def test_a_run_saves_a_merged_model(run: TrainResult, home: Path) -> None:
    state = load_file(run.folder / "model" / "model.safetensors")
    names = {f"backbone.model.{name}" for name in load_file(home / "pretrained.safetensors")}
    assert {name for name in state if name.startswith("backbone.")} == names
    assert not load_model(run.folder).model.has_lora


def test_the_adapters_give_the_same_model(run: TrainResult) -> None:
    images = torch.rand(1, 3, 32, 32)
    merged, adapted = load_model(run.folder).model, load_model(run.folder / "adapters").model
    assert adapted.has_lora
    with torch.no_grad():
        assert torch.equal(merged(images), adapted(images))


def test_the_best_checkpoint_gives_the_same_model(run: TrainResult) -> None:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_model(run.best).model(images), load_model(run.folder).model(images))


def test_the_adapters_leave_out_the_pretrained_weights(run: TrainResult) -> None:
    names = set(load_file(run.folder / "adapters" / "adapters.safetensors"))
    assert any(name.endswith("parametrizations.weight.0.up") for name in names)
    assert not any(name.endswith("parametrizations.weight.original") for name in names)


def test_the_pretrained_weights_are_unchanged(run: TrainResult, home: Path) -> None:
    model = load_adapters(run.folder / "adapters")
    layer = model.backbone.model.layer1[0].conv1
    start = load_file(home / "pretrained.safetensors")["layer1.0.conv1.weight"]
    assert torch.equal(layer.parametrizations.weight.original, start)
    assert not torch.equal(layer.weight, start)


def test_other_pretrained_weights_are_refused(run: TrainResult, home: Path, tmp_path: Path) -> None:
    state = load_file(home / "pretrained.safetensors")
    state["layer1.0.conv1.weight"][0, 0, 0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")
    folder = tmp_path / "adapters"
    folder.mkdir()
    config = json.loads((run.folder / "adapters" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weights": str(tmp_path / "other.safetensors")}))
    (folder / "adapters.safetensors").write_bytes((run.folder / "adapters" / "adapters.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"are not those that the adapters in .* were trained"):
        load_model(folder)


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapters.safetensors").write_bytes(b"nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the adapters in .* cannot be used"):
        load_model(tmp_path)


def test_adapters_of_a_training_in_half_precision_are_loaded(home: Path, tmp_path: Path) -> None:
    weights = str(home / "pretrained.safetensors")
    model = Segmenter("test_resnet.r160_in1k", weights=weights, lora={"rank": 2}).to(torch.bfloat16)
    save_adapters(tmp_path / "adapters", model)
    loaded = load_adapters(tmp_path / "adapters")
    name = next(name for name, _ in loaded.named_parameters() if name.endswith(".up"))
    assert torch.equal(dict(loaded.named_parameters())[name], dict(model.named_parameters())[name].float())
