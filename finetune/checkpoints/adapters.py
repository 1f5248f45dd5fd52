"""Low-rank adapters on disk: a few megabytes that belong to pretrained weights stored elsewhere."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.io.atomic_write import write_together
from finetune.io.messages import shortlist
from finetune.io.safe_files import inside, read_json, read_tensors
from finetune.models import PyramidModel, TunableModel, model_class
from finetune.models.lora import ADAPTER, adapted_layers
from finetune.models.memory_limit import SizeLimit

FILE = "adapters.safetensors"
SEMANTIC: Mapping[str, Any] = MappingProxyType({"name": "semantic"})  # the task of models that name none
LARGEST = 2**31  # numbers in a model with adapters, whose size no file here limits; timm's largest pyramid has 10**9
# types that a training may have parameters in
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def save_adapters(
    folder: Path,
    model: TunableModel,
    trained: Collection[str] = (),
    task: Mapping[str, Any] = SEMANTIC,
) -> None:
    """Write `adapters.safetensors`, which includes decoder, head and statistics, and the `config.json` to use it.

    Args:
        folder: created if missing.
        model: a model whose backbone has adapters.
        trained: full names of trained parameters; those of the backbone are saved too.
        task: plain data, from the task's `config()`.
    """
    state = {name: t.detach().cpu().contiguous() for name, t in adapter_state(model, trained).items()}
    pretrained, weights = sorted(pretrained_parameters(model) - set(trained)), model.backbone.weights
    weights = str(Path(weights).resolve()) if Path(weights).is_file() else weights
    parameters = dict(model.named_parameters())
    dtypes = {str(parameters[name].dtype).removeprefix("torch.") for name in pretrained}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    facts = {"weights": weights, "pretrained": pretrained, "checksum": _checksum(model, pretrained), "dtype": dtype}
    text = json.dumps({"model": model.config(), "task": dict(task), **facts}, indent=2) + "\n"
    writers: dict[str, Callable[[Path], object]] = {
        FILE: lambda part: save_file(state, part, metadata={"format": "pt"}),
        "config.json": lambda part: part.write_text(text),
    }
    write_together(folder, writers)


def load_adapters(folder: Path) -> PyramidModel:
    """Load a model that `save_adapters` wrote, with its pretrained weights from their original source.

    The source is timm, a known package, or a file on this machine, never a URL.

    Raises:
        ValueError: the pretrained weights are missing or differ from the original ones, or the adapters do not fit.
    """
    config = read_json(inside(folder / "config.json", folder))
    if not isinstance(config, dict) or not {"model", "weights", "pretrained", "checksum"} <= set(config):
        raise ValueError(
            f"'{folder / 'config.json'}' does not belong to adapters: expected model, weights, pretrained, checksum."
        )
    with SizeLimit(LARGEST):
        model = model_class(config["model"]).from_config(config["model"], weights=str(config["weights"]))
        model.backbone.dummy_input()  # counts too: an untrusted config may name a huge input size
    load_adapter_state(model, read_tensors(inside(folder / FILE, folder)))
    if _checksum(model, config["pretrained"], config.get("dtype")) != config["checksum"]:
        raise ValueError(
            f"the pretrained weights '{config['weights']}' are not those that the adapters in '{folder}' were trained "
            f"with. Get the same ones, or use the run's model/ folder, which holds all weights."
        )
    return model.eval()


def _checksum(model: TunableModel, names: Collection[str], dtype: str | None = None) -> str:
    """Return the hash of parameters, in the type that a training had them in; None for their own."""
    digest, parameters = hashlib.sha256(), dict(model.named_parameters())
    for name in names:
        values = parameters[name].detach().cpu().flatten()
        values = values.to(DTYPES[dtype]) if dtype in DTYPES else values
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_state(model: TunableModel, trained: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the state of a model without the pretrained parameters of its backbone.

    It has the adapters with their scales, the decoder, the head, and all buffers, because batch norm statistics change
    without training. As in a `state_dict`, the tensors are not copies.

    Args:
        model: a model whose backbone has adapters.
        trained: full names of trained parameters; those of the backbone, such as its norms, are included.

    Raises:
        ValueError: the backbone has no adapters, or the model has no parameter of a name in `trained`.
    """
    if not adapted_layers(model.backbone):
        raise ValueError(
            "the backbone has no adapters, so any of its weights may have changed; save the full state_dict."
        )
    state, left_out = model.state_dict(), pretrained_parameters(model) - set(trained)
    if unknown := [name for name in trained if name not in state]:
        raise ValueError(f"trained={shortlist(unknown, 4)}: the model has no such parameters. Give their full names.")
    return {name: tensor for name, tensor in state.items() if name not in left_out}


def load_adapter_state(model: PyramidModel, state: Mapping[str, Tensor]) -> None:
    """Load a state from `adapter_state` into a model with the same pretrained backbone.

    Args:
        model: a model with the same weights, and adapters of the same rank and targets; alpha is in the state.
        state: the state from `adapter_state`.

    Raises:
        ValueError: the state lacks tensors, or has unknown ones or other shapes; the model is unchanged.
    """
    own = model.state_dict()
    missing = [name for name in own.keys() - pretrained_parameters(model) if name not in state]
    unexpected = [name for name in state if name not in own]
    misshapen = [name for name in state.keys() & own.keys() if state[name].shape != own[name].shape]
    mismatches = {"lacks": missing, "has, unlike the model,": unexpected, "has in another shape": misshapen}
    if texts := [
        f"{verb} {len(names)} tensors ({shortlist(sorted(names), 4)})" for verb, names in mismatches.items() if names
    ]:
        raise ValueError(
            f"the adapters do not fit the model: the state {'; it '.join(texts)}. Build the model with the same "
            f"backbone, head and classes, and call add_lora on its backbone with the same rank and targets."
        )
    model.load_state_dict(state, strict=False)


def pretrained_parameters(model: TunableModel) -> set[str]:
    """Return the names of the backbone's parameters that its pretrained weights contain."""
    return {f"backbone.{name}" for name, _ in model.backbone.named_parameters() if not re.search(ADAPTER, name)}
