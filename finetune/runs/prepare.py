"""What a training begins with: its config, model and data, new or as a run that goes on had them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from finetune.builders.data import DatasetBundle, build_source
from finetune.builders.devices import device_count
from finetune.builders.model import build_model, build_model_from
from finetune.checkpoints.saved_model import empty_model, load_model
from finetune.config.compose import as_composed, to_run_config
from finetune.config.errors import ConfigError
from finetune.data import Record, write_splits
from finetune.data.fingerprint import changes, fingerprints, read_fingerprints, write_fingerprints
from finetune.engine.environment import numerics_environment
from finetune.engine.loggers import with_run_ids
from finetune.engine.rank_zero import is_first_process
from finetune.models import Segmenter
from finetune.runs.folder import check_new, is_finished
from finetune.runs.resume import ResumePoint, find_resume_point, has_no_checkpoint
from finetune.runs.resumed_config import override_strings, resumed_config

logger = logging.getLogger(__name__)


def resolve_run_config(words: Sequence[str | DictConfig]) -> tuple[dict[str, Any], ResumePoint | None]:
    """The config of a training, and the run that it goes on with, if it does.

    Raises:
        ConfigError: words that do not fit, or a run that cannot go on so.
    """
    config = as_composed(words, "train")
    before = find_resume_point(to_run_config(config), override_strings(words)) if config.resume else None
    if before is None:
        new = to_run_config(config)
        if is_first_process() and not (config.resume == "auto" and has_no_checkpoint(Path(new["output"]))):
            check_new(Path(new["output"]))
        return {**new, "resume": None, "logger": with_run_ids(new["logger"] or {})}, None
    if config.init_from:
        raise ConfigError("resume goes on with a run and init_from begins a new one; say one of them.")
    merged, changed = resumed_config(config, override_strings(words), before.folder)
    fitting = batch_size(merged["trainer"], before)
    if "data.batch_size" in changed and merged["data"]["batch_size"] != fitting:
        raise ConfigError(
            f"data.batch_size={merged['data']['batch_size']}: the run has {before.images_in_a_step} images in a step "
            f"of all devices, so data.batch_size={fitting}. Leave it out, and it is set so."
        )
    merged["data"]["batch_size"] = fitting
    check_epochs(merged["trainer"]["max_epochs"], before)
    check_steps(merged["trainer"].get("max_steps", -1), before)
    check_patience(merged["callbacks"].get("early_stopping") or {}, before)
    return {**merged, "logger": with_run_ids(merged["logger"] or {})}, before


def batch_size(settings: Mapping[str, Any], before: ResumePoint) -> int:
    """Images a device, so that all devices together have as many in a step as before.

    Raises:
        ConfigError: they do not divide.
    """
    devices = device_count(settings)
    each, rest = divmod(before.images_in_a_step, devices)
    if rest:
        raise ConfigError(
            f"the run has {before.images_in_a_step} images in a step, which {devices} devices cannot share evenly. Use "
            f"another trainer.devices; or begin a new training with its weights: init_from={before.folder}"
        )
    return each


def check_epochs(epochs: int, before: ResumePoint) -> None:
    """Raise a ConfigError where nothing is left to be done."""
    if epochs < before.epochs:
        raise ConfigError(f"trainer.max_epochs={epochs}: the run has {before.epochs} epochs behind it already.")
    if is_finished(before.folder) and epochs <= before.epochs:
        raise ConfigError(
            f"the run in '{before.folder}' is finished, with {before.epochs} epochs. To train it for longer: "
            f"trainer.max_epochs={2 * before.epochs}; for a new training with its weights: init_from={before.folder}"
        )


def check_steps(steps: int, before: ResumePoint) -> None:
    """Raise a ConfigError where all of so many steps were done, but for -1, which is any number."""
    if is_finished(before.folder) and 0 <= steps <= before.step:
        raise ConfigError(
            f"the run in '{before.folder}' is finished, with {before.step} steps. To train it for longer: "
            f"+trainer.max_steps={2 * before.step}; for a new training with its weights: init_from={before.folder}"
        )


def check_patience(settings: Mapping[str, Any], before: ResumePoint) -> None:
    """Raise a ConfigError where a finished run would stop early again at once."""
    patience = settings.get("patience")
    if is_finished(before.folder) and patience is not None and before.waited >= patience:
        raise ConfigError(
            f"the run in '{before.folder}' was stopped early after {before.epochs} epochs, as {settings['monitor']} "
            f"had not improved for {before.waited} validations. To go on all the same: "
            f"callbacks.early_stopping.patience={2 * patience}, or ~callbacks.early_stopping"
        )


def with_splits(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config with the split that the run was started with, unless its data has a split of its own."""
    settings, splits = config["data"], folder / "splits.csv"
    if settings.get("splits") or not splits.is_file():
        return dict(config)
    if all(record.split for record in build_source(settings).records()):
        return dict(config)
    return {**config, "data": {**settings, "splits": str(splits)}}


def initial_model(
    config: Mapping[str, Any], data: DatasetBundle, before: ResumePoint | None = None
) -> tuple[Segmenter, list[str]]:
    """The model, with the weights that were asked for or to be filled with a checkpoint's; lines to say about them."""
    if before is not None:
        model = empty_model(before.state["model_config"], before.checkpoint)
        model.backbone.weights = str(config["backbone"]["weights"] or "none")  # where they came from, once
        return model, []
    if not config["init_from"]:
        return build_model(config, data.classes), []
    model, told = build_model_from(config, data.classes, load_model(Path(config["init_from"])).model)
    return model, [told]


def note_data(folder: Path, records: Sequence[Record], before: ResumePoint | None) -> None:
    """Write the split and the fingerprints of a new run; warn about images that have changed since a resumed one."""
    path = folder / "fingerprints.csv"
    by_record = fingerprints(records)
    if before is None:
        write_splits(folder / "splits.csv", records)
        if by_record:
            write_fingerprints(path, by_record)
    elif path.is_file() and (difference := changes(read_fingerprints(path), by_record)):
        logger.warning(f"the data has changed since the run was started: {difference}. It resumes with the new data.")


def describe_resumption(before: ResumePoint, trainer: pl.Trainer) -> list[str]:
    """Where a run goes on, and what will not be exactly as if it had never stopped."""
    made = before.state["made_by"]
    lines = [f"going on with {before.folder} behind step {before.step:,}, {before.epochs} whole epochs"]
    for what, value in numerics_environment(trainer).items():
        if what in INEXACT and what in made and made[what] != value:
            lines.append(f"{what} {value} instead of {made[what]}: {INEXACT[what]}")
    return lines


MAY = "it may round otherwise; the weights may not be the same to the last bit"
INEXACT = {
    "torch": MAY,
    "devices": "each step has the same images, but it rounds otherwise, batch norms see other parts of it, and each "
    "device draws its own dropout; the weights will not be the same to the last bit",
    "strategy": MAY,
    "accelerator": "it rounds otherwise and draws other dropout; the weights will not be the same to the last bit",
    "device": MAY,
    "precision": "it rounds otherwise; the weights will not be the same to the last bit",
    "deterministic": MAY,
    "threads": "sums are split otherwise; the weights may not be the same to the last bit",
}
