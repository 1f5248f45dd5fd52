"""Low-rank adapters on disk: a few megabytes beside the pretrained weights that they belong to."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune.models import Segmenter
from finetune.models.lora import adapter_state, load_adapter_state, pretrained_parameters

FILE = "adapters.safetensors"


def save_adapters(folder: Path, model: Segmenter, trained: Collection[str] = ()) -> None:
    """Write `adapters.safetensors`, with decoder, head and statistics in it, and the `config.json` to use them.

    Args:
        folder: made if need be.
        model: whose backbone has adapters.
        trained: full names of parameters that trained; those of the backbone are kept too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().cpu().contiguous() for name, t in adapter_state(model, trained).items()}
    save_file(state, folder / FILE, metadata={"format": "pt"})
    kept = sorted(pretrained_parameters(model) - set(trained))
    facts = {"weights": model.backbone.weights, "pretrained": kept, "checksum": _checksum(model, kept)}
    (folder / "config.json").write_text(json.dumps({"model": model.config(), **facts}, indent=2) + "\n")


def load_adapters(folder: Path) -> Segmenter:
    """The model of `save_adapters`, its pretrained weights taken from where they came from then.

    Raises:
        ValueError: weights that cannot be had, are not the same as then, or adapters that do not fit.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    model = Segmenter.from_config(config["model"], weights=config["weights"])
    load_adapter_state(model, load_file(folder / FILE))
    if _checksum(model, config["pretrained"]) != config["checksum"]:
        raise ValueError(
            f"the pretrained weights '{config['weights']}' are not those that the adapters in '{folder}' were trained "
            f"with. Get the same ones, or use the run's model/ folder, which holds all weights."
        )
    return model.eval()


def _checksum(model: Segmenter, names: Collection[str]) -> str:
    digest, parameters = hashlib.sha256(), dict(model.named_parameters())
    for name in names:
        digest.update(parameters[name].detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
