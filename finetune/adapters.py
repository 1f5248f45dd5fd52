"""Low-rank adapters on disk: a few megabytes beside the pretrained weights that they belong to."""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors.torch import save_file

from finetune.files import inside, read_json, read_tensors
from finetune.models import Segmenter
from finetune.models.lora import adapter_state, load_adapter_state, pretrained_parameters
from finetune.models.size import SizeLimit
from finetune.writing import write_together

FILE = "adapters.safetensors"
LARGEST = 2**31  # numbers in a model below adapters, whose size no file here tells; timm's largest pyramid has 10**9


def save_adapters(folder: Path, model: Segmenter, trained: Collection[str] = ()) -> None:
    """Write `adapters.safetensors`, with decoder, head and statistics in it, and the `config.json` to use them.

    Args:
        folder: made if need be.
        model: whose backbone has adapters.
        trained: full names of parameters that trained; those of the backbone are kept too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().cpu().contiguous() for name, t in adapter_state(model, trained).items()}
    kept, weights = sorted(pretrained_parameters(model) - set(trained)), model.backbone.weights
    weights = str(Path(weights).resolve()) if Path(weights).is_file() else weights
    facts = {"weights": weights, "pretrained": kept, "checksum": _checksum(model, kept)}
    text = json.dumps({"model": model.config(), **facts}, indent=2) + "\n"
    writers: dict[str, Callable[[Path], object]] = {
        FILE: lambda part: save_file(state, part, metadata={"format": "pt"}),
        "config.json": lambda part: part.write_text(text),
    }
    write_together(folder, writers)


def load_adapters(folder: Path) -> Segmenter:
    """The model of `save_adapters`, its pretrained weights taken from where they came from then.

    Those are timm's own, a known package's, or a file of this machine; none is fetched from an address.

    Raises:
        ValueError: weights that cannot be had, are not the same as then, or adapters that do not fit.
    """
    config = read_json(inside(folder / "config.json", folder))
    if not isinstance(config, dict) or not {"model", "weights", "pretrained", "checksum"} <= set(config):
        raise ValueError(f"'{folder / 'config.json'}' was not written beside adapters; it lacks 'weights' or others.")
    with SizeLimit(LARGEST):
        model = Segmenter.from_config(config["model"], weights=str(config["weights"]))
        model.backbone.picture()  # counts too: a stranger may have chosen a size to which every image would be brought
    load_adapter_state(model, read_tensors(inside(folder / FILE, folder)))
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
