"""Finished models on disk: `model.safetensors`, `config.json` and a model card."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune.checkpoints.adapters import FILE as ADAPTERS
from finetune.checkpoints.adapters import SEMANTIC, load_adapters
from finetune.checkpoints.hub import download, is_address
from finetune.checkpoints.model_card import model_card
from finetune.checkpoints.rotation import next_intact_checkpoint
from finetune.io.atomic_write import replace_text, write_together
from finetune.io.safe_files import FileError, check_plain, inside, read_json, read_tensors, read_whole
from finetune.models import PyramidModel, Segmenter, TunableModel, model_class
from finetune.models.ensemble import check_alike
from finetune.models.memory_limit import SizeLimit

logger = logging.getLogger(__name__)

FORMAT = 1
DISTRIBUTION = "finetune-seg"
SPARE = 2**24  # numbers that a model may have beyond the bytes of its weights file, for buffers that are not saved


class ModelError(ValueError):
    """A path without a model of this toolkit, or with one that cannot be read safely."""


@dataclass(frozen=True)
class SavedModel:
    """A model that was read from disk.

    Attributes:
        model: in eval mode, on the CPU.
        data: facts about the training data, such as `ignore_index`; empty for a training checkpoint and for adapters.
        task: name and options of the task, which say how the outputs are read.
        scores: name -> value on the test or validation split; empty for a training checkpoint and for adapters.
    """

    model: PyramidModel
    data: dict[str, Any]
    task: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def segmenter(self) -> Segmenter:
        """The model, as one that classifies pixels.

        Raises:
            ModelError: it finds objects.
        """
        if not isinstance(self.model, Segmenter):
            raise ModelError(
                f"the model finds objects (task={self.task['name']}); this needs one that classifies pixels."
            )
        return self.model

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Classes of the masks that it was trained on: those of the model, and the background if it finds objects."""
        return tuple(self.data.get("classes") or self.model.class_names)


def save_model(
    folder: Path,
    model: TunableModel,
    data: Mapping[str, Any],
    scores: Mapping[str, float],
    task: Mapping[str, Any] = SEMANTIC,
    place: str = "path/of/this/folder",
) -> None:
    """Write a model folder; the old files stay until all new ones are on the disk.

    Args:
        folder: created if missing.
        model: the model to save, with its config.
        data: plain facts about the training data, such as `ignore_index`.
        scores: name -> value, for the model card.
        task: plain data, from the task's `config()`.
        place: path or address that the model is loaded from, for the model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = {
        "format": FORMAT,
        "made_by": f"{DISTRIBUTION} {version(DISTRIBUTION)}",
        "model": model.config(),
        "task": dict(task),
        "data": dict(data),
        "scores": {name: round(value, 6) for name, value in scores.items() if not math.isnan(value)},
    }
    writers: dict[str, Callable[[Path], object]] = {
        "model.safetensors": lambda part: save_file(state, part, metadata={"format": "pt"}),
        "config.json": lambda part: part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"),
        "README.md": lambda part: part.write_text(model_card(model, scores, task, place), encoding="utf-8"),
    }
    write_together(folder, writers)


def config_file(path: Path) -> Path:
    """Return the config of a finished model in a run folder or a model folder.

    Raises:
        ModelError: there is none.
    """
    file = (path / "model" if (path / "model" / "config.json").is_file() else path) / "config.json"
    if not file.is_file():
        raise ModelError(f"'{path}' has no config.json of a finished model. Name a run that has ended, or its model/.")
    return file


def store_temperature(file: Path, temperature: float, former: float = 1.0) -> None:
    """Store a temperature in a model's config, and change its thresholds so that the masks stay the same.

    Args:
        file: of `config_file`, of a model that can be loaded.
        temperature: to store.
        former: that the thresholds are meant for.
    """
    config = read_json(file)
    config["model"]["temperature"] = temperature
    if thresholds := config.get("task", {}).get("thresholds"):
        config["task"]["thresholds"] = _at_temperature(thresholds, temperature, former)
    replace_text(file, json.dumps(config, indent=2) + "\n")


def load_model(path: Path) -> SavedModel:
    """Load a model from a run folder, its `model/` or `adapters/` folder, a checkpoint file, or `hf://user/name`.

    No code in the files runs: weights are read as plain tensors, and names are looked up in tables of this toolkit.
    Only files below the path are read, and the model is not much larger than its weights file. Adapters get their
    pretrained weights from the source in their config.

    Raises:
        ModelError: there is no model, or it is damaged, of another toolkit, or not safe to read.
    """
    try:
        return _load(download(path) if is_address(path) else path)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(str(error)) from error


def load_models(paths: Sequence[Path]) -> list[SavedModel]:
    """Load models that predict together; see `load_model`.

    Raises:
        ModelError: one of them cannot be loaded, or they have other classes, channels or tasks.
    """
    saved = [load_model(path) for path in paths]
    try:
        check_alike([each.model for each in saved])
    except ValueError as error:
        raise ModelError(str(error)) from error
    for path, each in zip(paths[1:], saved[1:], strict=True):
        if _uncalibrated(each) != _uncalibrated(saved[0]):
            raise ModelError(
                f"models that predict together need the same task and options: '{paths[0]}' has {saved[0].task}, and "
                f"'{path}' {each.task}."
            )
        ranges = [model.data.get("value_range") for model in (saved[0], each)]
        if None not in ranges and ranges[0] != ranges[1]:
            logger.warning(
                f"'{path}' was trained with data.value_range={ranges[1]}, but reads images with {ranges[0]}, as "
                f"'{paths[0]}' does. Models that are trained with the same data.value_range predict better together."
            )
    if len(saved) > 1 and isinstance(saved[0].task.get("thresholds"), list):
        saved[0] = replace(saved[0], task={**saved[0].task, "thresholds": _joint_thresholds(saved)})
    return saved


def _joint_thresholds(saved: Sequence[SavedModel]) -> list[float]:
    """Return the thresholds for the mean of calibrated logits: what the thresholds of each model are on average."""
    each = torch.tensor([model.task["thresholds"] for model in saved], dtype=torch.float64)
    joint: list[float] = each.logit().mean(dim=0).sigmoid().tolist()
    return joint


def _at_temperature(thresholds: Sequence[float], temperature: float, former: float) -> list[float]:
    """Return the thresholds of probabilities at a temperature that give the masks of those at the former one."""
    logits = torch.tensor(thresholds, dtype=torch.float64).logit()
    moved: list[float] = (logits * (former / temperature)).sigmoid().tolist()
    return moved


def _uncalibrated(saved: SavedModel) -> dict[str, Any]:
    """Return the task of a model with the thresholds that it would have without a temperature."""
    thresholds = saved.task.get("thresholds")
    if not isinstance(saved.model, Segmenter) or not isinstance(thresholds, list):
        return saved.task
    if not all(isinstance(value, int | float) for value in thresholds):
        return saved.task  # damaged, which is an error when its output is built
    moved = _at_temperature(thresholds, 1.0, saved.model.temperature)
    return {**saved.task, "thresholds": [round(value, 6) for value in moved]}


def _load(path: Path) -> SavedModel:
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    if (folder / ADAPTERS).is_file():
        model = _load_adapters(inside(folder, path))
        return SavedModel(model, {}, _task(read_json(inside(folder / "config.json", path)), folder / "config.json"))
    if (folder / "config.json").is_file():
        return _load_folder(folder, path)
    if path.is_dir() and (path / "checkpoints" / "best.ckpt").is_file():
        return _load_checkpoint(inside(path / "checkpoints" / "best.ckpt", path))  # an unfinished run
    if path.is_file():
        return _load_checkpoint(path)
    raise ModelError(
        f"no model at '{path}'. Expected a run folder (with model/ or checkpoints/best.ckpt in it), a model folder "
        f"(with config.json and model.safetensors), a .ckpt file, or hf://user/name."
    )


def _load_adapters(folder: Path) -> PyramidModel:
    try:
        return load_adapters(folder)
    except Exception as error:  # invalid settings can raise anything
        raise ModelError(f"the adapters in '{folder}' cannot be used: {error}") from error


def _load_folder(folder: Path, root: Path) -> SavedModel:
    config = read_json(inside(folder / "config.json", root))
    weights = inside(folder / "model.safetensors", root)
    state = read_tensors(weights)
    if not isinstance(config, dict) or not {"format", "model", "data"} <= set(config):
        raise ModelError(
            f"'{folder / 'config.json'}' lacks 'format', 'model' or 'data'; it is damaged, or of another program."
        )
    if config["format"] != FORMAT:
        raise ModelError(f"'{folder}' has format {config['format']}; this version reads format {FORMAT}.")
    if not isinstance(config["data"], dict):
        raise ModelError(f"'{folder / 'config.json'}' has data={config['data']!r}; expected a group of settings.")
    task, scores = _task(config, folder / "config.json"), config.get("scores")
    model = _build(config["model"], state, weights)
    return SavedModel(model, config["data"], task, scores if isinstance(scores, dict) else {})


def _load_checkpoint(path: Path) -> SavedModel:
    try:
        content = read_whole(path)
    except FileError as error:
        other = next_intact_checkpoint(path)
        raise ModelError(f"{error} The next intact one: '{other}'." if other else str(error)) from error
    if not isinstance(content, dict) or not {"model_config", "state_dict"} <= set(content):
        raise ModelError(f"'{path}' was not written by this toolkit: it lacks 'model_config' or 'state_dict'.")
    config, state, prefix = content["model_config"], content["state_dict"], "model."
    check_plain(config, path, "model_config")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ModelError(f"'{path}' has a 'state_dict' that is no mapping of names to tensors.")
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return SavedModel(_build(config, state, path), {}, _task(content, path))


def _task(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    task = content.get("task", SEMANTIC)
    if not isinstance(task, Mapping) or not isinstance(task.get("name"), str):
        raise ModelError(f"'{path}' has task={str(task)[:100]}; expected a group of settings with a name.")
    check_plain(dict(task), path, "task")
    return dict(task)


def _build(config: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> PyramidModel:
    """Build the model of a config, with weights that were read from a file."""
    try:
        model = empty_model(config, path)
        model.load_state_dict(state)
    except Exception as error:  # invalid settings can raise anything
        raise ModelError(f"the weights in '{path}' do not fit the model described there: {error}") from error
    return model.eval()


def empty_model(config: Mapping[str, Any], path: Path) -> PyramidModel:
    """Build the model of a config without weights; limit its size by that of its weights file."""
    with SizeLimit(path.stat().st_size + SPARE):
        model: PyramidModel = model_class(config).from_config(config)
        model.backbone.dummy_input()  # counts too: an untrusted config may name a huge input size
    return model
