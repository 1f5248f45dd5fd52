"""Finished models on disk: `model.safetensors`, `config.json` and a card; and how they are read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune.adapters import FILE as ADAPTERS
from finetune.adapters import load_adapters
from finetune.models import Segmenter

FORMAT = 1
DISTRIBUTION = "finetune-seg"


class ModelError(ValueError):
    """A path that holds no model of ours, or one that cannot be read safely."""


@dataclass(frozen=True)
class Saved:
    """A model that was read from disk.

    Attributes:
        model: in eval mode, on the CPU.
        data: what it knows of its data, such as `ignore_index`; empty for a training checkpoint.
    """

    model: Segmenter
    data: dict[str, Any]


def save_model(folder: Path, model: Segmenter, data: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write a model folder.

    Args:
        folder: made if need be.
        model: whose weights and config are kept.
        data: plain facts about the data, such as `ignore_index`.
        scores: name -> value, for the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "made_by": f"{DISTRIBUTION} {version(DISTRIBUTION)}",
        "model": model.config(),
        "data": dict(data),
        "scores": {name: round(value, 6) for name, value in scores.items()},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(_card(model, scores))


def load_model(path: Path) -> Saved:
    """A model from a run folder, its `model/` or `adapters/` folder, or a checkpoint file.

    Nothing of the file is executed: weights are read as plain tensors and names are looked up in our own tables.

    Raises:
        ModelError: no model there, or one that is damaged or made for something else.
    """
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if (folder / ADAPTERS).is_file():
        return Saved(_load_adapters(folder), {})
    if (folder / "config.json").is_file():
        return _load_folder(folder)
    if path.is_dir() and (path / "checkpoints" / "best.ckpt").is_file():
        path = path / "checkpoints" / "best.ckpt"  # a run that was cut off before it was finished
    if path.is_file():
        return _load_checkpoint(path)
    raise ModelError(
        f"no model at '{path}'. Expected a run folder (with model/ or checkpoints/best.ckpt in it), a model folder "
        f"(with config.json and model.safetensors), or a .ckpt file."
    )


def _load_adapters(folder: Path) -> Segmenter:
    try:
        return load_adapters(folder)
    except (OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelError(f"the adapters in '{folder}' cannot be used: {error}") from error


def _load_folder(folder: Path) -> Saved:
    try:
        config = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the model in '{folder}' cannot be read: {error}") from error
    except Exception as error:  # safetensors has an exception type of its own for damaged files
        raise ModelError(f"'{folder / 'model.safetensors'}' is damaged: {error}") from error
    if not isinstance(config, dict) or not {"format", "model", "data"} <= set(config):
        raise ModelError(
            f"'{folder / 'config.json'}' lacks 'format', 'model' or 'data'; it is not one of ours, or damaged."
        )
    if config["format"] != FORMAT:
        raise ModelError(f"'{folder}' has format {config['format']}; this version reads format {FORMAT}.")
    return Saved(_build(config["model"], state, folder), config["data"])


def _load_checkpoint(path: Path) -> Saved:
    try:
        content = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever the file makes it raise
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"'{path}' is no checkpoint that can be read as plain data: {reason}") from error
    if not isinstance(content, dict) or not {"model_config", "state_dict"} <= set(content):
        raise ModelError(f"'{path}' was not written by this toolkit: it lacks 'model_config' or 'state_dict'.")
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return Saved(_build(content["model_config"], state, path), {})


def _build(config: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> Segmenter:
    try:
        model = Segmenter.from_config(config)
        model.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelError(f"the weights in '{path}' do not fit the model described there: {error}") from error
    return model.eval()


def _card(model: Segmenter, scores: Mapping[str, float]) -> str:
    config = model.config()
    lines = [f"- {name}: {value:.4f}" for name, value in scores.items()]
    return "\n".join(
        [
            f"# {config['backbone']} with a {config['head']} head",
            "",
            f"Segments images into {model.classes} classes: {', '.join(model.class_names)}.",
            "",
            "## Use",
            "```python",
            "import finetune",
            'masks = finetune.load("path/of/this/folder").predict("photos/")',
            "```",
            "",
            "## Scores",
            "`iou` is of the whole set, averaged over the classes present.",
            "",
            *(lines or ["not evaluated"]),
            "",
            "## Limits",
            "It was fine-tuned on one data set; how well it does on other images has not been measured.",
            f"The backbone's pretrained weights have the licence: {config['weights_license']}.",
            "",
        ]
    )
