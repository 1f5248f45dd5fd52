"""Prepare a training: its config, model and data, for a new run or as a resumed run had them."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from finetune.builders.checks.trainer import check_budget
from finetune.builders.data import build_source
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import device_count
from finetune.builders.model import build_model, build_model_from
from finetune.builders.splits import keeps_split
from finetune.checkpoints.saved_model import empty_model, load_model
from finetune.config.compose import as_composed, to_run_config
from finetune.config.errors import ConfigError
from finetune.config.overrides import override, typed
from finetune.data import Record, write_splits
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.fingerprint import changes, fingerprints, read_fingerprints, write_fingerprints
from finetune.data.splitting.exclude import read_exclusions
from finetune.engine.command_line import add_for_other_ranks
from finetune.engine.environment import numerics_environment
from finetune.engine.loggers import with_run_ids
from finetune.engine.rank_zero import is_first_process
from finetune.io.atomic_write import replace_text
from finetune.models import PyramidModel
from finetune.reports.data_section import FINDINGS
from finetune.runs.exactness import inexact_settings
from finetune.runs.folder import check_new, is_finished
from finetune.runs.resume import ResumePoint, find_resume_point, has_no_checkpoint
from finetune.runs.resumed_config import override_strings, resumed_config

logger = logging.getLogger(__name__)


def resolve_run_config(overrides: Sequence[str | DictConfig]) -> tuple[dict[str, Any], ResumePoint | None]:
    """Return the config of a training, and where it resumes, if it does.

    Further ranks, which Lightning starts with the command line of this process, get the same folder and checkpoint.

    Raises:
        ConfigError: overrides that do not fit, or a run that cannot be resumed with them.
    """
    composed = as_composed(overrides, "train")
    new = to_run_config(composed)
    point = find_resume_point(new, override_strings(overrides)) if composed.resume else None
    if point is None:
        return _new_run_config(new), None
    if composed.init_from and composed.resume != "auto":
        raise ConfigError("resume continues a run, but init_from starts a new one. Leave one of them out.")
    merged, changed = resumed_config(composed, override_strings(overrides), point.folder)
    if composed.init_from and new["init_from"] != merged["init_from"]:
        raise ConfigError(
            f"resume=auto continues the run in '{point.folder}', which started from init_from={merged['init_from']}, "
            f"not from {new['init_from']}. Leave init_from out, or give a new training another name=."
        )
    batch_size = resumed_batch_size(merged["trainer"], point)
    if "data.batch_size" in changed and merged["data"]["batch_size"] != batch_size:
        raise ConfigError(
            f"data.batch_size={merged['data']['batch_size']}: the run has {point.images_in_a_step} images in a step "
            f"of all devices, so data.batch_size={batch_size}. Leave it out, and it is set so."
        )
    merged["data"]["batch_size"] = batch_size
    check_epochs(merged["trainer"]["max_epochs"], point)
    check_steps(merged["trainer"].get("max_steps", -1), point)
    check_time(merged["trainer"].get("max_time"), point)
    check_patience((merged.get("callbacks") or {}).get("early_stopping") or {}, point)
    if composed.resume == "auto":  # a rank that starts later might find another run
        others = (override("output", str(point.folder)), override("resume", str(point.checkpoint)))
        add_for_other_ranks(*others, *(["init_from=null"] if composed.init_from else []))
    return {**merged, "logger": with_run_ids(merged.get("logger") or {})}, point


def _new_run_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a new run, whose folder is free and whose length is set once."""
    check_budget(config)
    folder, resume = Path(config["output"]), config["resume"]
    if is_first_process() and not (resume == "auto" and has_no_checkpoint(folder)):
        check_new(folder)
    add_for_other_ranks(override("output", config["output"]), *(["resume=null"] if resume else []))
    return {**config, "resume": None, "logger": with_run_ids(config.get("logger") or {})}


def resumed_batch_size(settings: Mapping[str, Any], point: ResumePoint) -> int:
    """Return the images per device with which all devices together have as many in a step as before.

    Raises:
        ConfigError: they do not divide evenly.
    """
    devices = device_count(settings)
    images, rest = divmod(point.images_in_a_step, devices)
    if rest:
        raise ConfigError(
            f"the run has {point.images_in_a_step} images in a step, which {devices} devices cannot share evenly. Use "
            f"another trainer.devices; or start a new training with its weights: {typed('init_from', point.folder)}"
        )
    return images


def check_epochs(epochs: int | None, point: ResumePoint) -> None:
    """Raise a ConfigError if no epoch is left to train."""
    if epochs is None:
        raise ConfigError("trainer.max_epochs=null: a resumed training needs an end. Set a number of epochs.")
    if type(epochs) is not int:
        raise ConfigError(f"trainer.max_epochs={epochs}: expected a whole number.")
    if epochs < point.epochs:
        raise ConfigError(f"trainer.max_epochs={epochs}: the run has completed {point.epochs} epochs already.")
    if is_finished(point.folder) and epochs <= point.epochs:
        raise ConfigError(
            f"the run in '{point.folder}' is finished, with {point.epochs} epochs. To train it for longer: "
            f"trainer.max_epochs={2 * point.epochs}; for a new training with its weights: "
            f"{typed('init_from', point.folder)}"
        )


def check_steps(steps: int, point: ResumePoint) -> None:
    """Raise a ConfigError if no step is left to train; -1 is any number of steps."""
    if is_finished(point.folder) and 0 <= steps <= point.step:
        raise ConfigError(
            f"the run in '{point.folder}' is finished, with {point.step} steps. To train it for longer: "
            f"+trainer.max_steps={2 * point.step}; for a new training with its weights: "
            f"{typed('init_from', point.folder)}"
        )


def check_time(limit: Any, point: ResumePoint) -> None:
    """Raise a ConfigError if Lightning's timer would end a finished run again at once; it counts from its start."""
    if is_finished(point.folder) and limit is not None and point.seconds >= (Timer(limit).time_remaining() or 0):
        raise ConfigError(
            f"trainer.max_time={limit}: the run has trained for {point.seconds:,.0f} s already, which count. Give it "
            f"more time in all, such as +trainer.max_time=01:00:00:00 for a day."
        )


def check_patience(settings: Mapping[str, Any], point: ResumePoint) -> None:
    """Raise a ConfigError if a finished run would be stopped early again at once."""
    patience, waited = settings.get("patience"), point.validations_without_improvement
    if is_finished(point.folder) and patience is not None and waited >= patience:
        raise ConfigError(
            f"the run in '{point.folder}' was stopped early after {point.epochs} epochs, as {settings['monitor']} "
            f"had not improved for {waited} validations. To train on all the same: "
            f"callbacks.early_stopping.patience={2 * patience}, or ~callbacks.early_stopping"
        )


def with_splits(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config with the split that the run was started with, unless its data has a split of its own."""
    settings, splits = config["data"], folder / "splits.csv"
    if settings.get("splits") or not splits.is_file() or keeps_split(build_source(settings).records(), settings):
        return dict(config)
    made = {"splits": str(splits), "group": None, "stratify": False, "folds": None, "fold": None}
    return {**config, "data": {**settings, **made}}


def initial_model(
    config: Mapping[str, Any], data: DatasetBundle, point: ResumePoint | None = None
) -> tuple[PyramidModel, list[str]]:
    """Return the model with the weights that the config asks for, and lines to log about them.

    Args:
        config: of the training.
        data: of the training.
        point: where a run resumes; its model is empty, as the checkpoint is loaded into it later.
    """
    if point is not None:
        model = empty_model(point.state["model_config"], point.checkpoint)
        named = "none" if config["init_from"] else config["backbone"]["weights"]  # as where the run started
        model.backbone.weights = str(named or "none")  # recorded in adapters/config.json
        return model, []
    if not config["init_from"]:
        return build_model(config, data.model_classes), []
    model, line = build_model_from(config, data.model_classes, load_model(Path(config["init_from"])).model)
    return model, [line]


def note_data(
    folder: Path, records: Sequence[Record], before: ResumePoint | None, cache: FileCache | None = None
) -> None:
    """Write the split and the fingerprints of a new run; warn about images that have changed since a resumed one."""
    path = folder / "fingerprints.csv"
    by_record = fingerprints(records, cache)
    if before is None:
        write_splits(folder / "splits.csv", records)
        if by_record:
            write_fingerprints(path, by_record)
    elif path.is_file() and (difference := changes(read_fingerprints(path), by_record)):
        logger.warning(f"the data has changed since the run was started: {difference}. It resumes with the new data.")


def note_facts(folder: Path, settings: Mapping[str, Any], data: DatasetBundle) -> None:
    """Write `data.json` of a new run, and copy the findings of the audit that wrote `data.exclude`, if one did."""
    facts = {"settings": {name: value for name, value in settings.items() if value is not None}, **data.facts()}
    if exclude := settings.get("exclude"):
        facts["notes"].append(
            f"{len(read_exclusions(Path(exclude))):,} names in '{exclude}' are left out (data.exclude)"
        )
        if (findings := Path(exclude).with_name(FINDINGS)).is_file():
            (folder / "audit").mkdir(exist_ok=True)
            shutil.copyfile(findings, folder / "audit" / FINDINGS)
    replace_text(folder / "data.json", json.dumps(facts) + "\n")


def describe_resumption(point: ResumePoint, trainer: pl.Trainer, config: Mapping[str, Any]) -> list[str]:
    """Return lines that say where a run resumes, and what will not be exactly as if it had never stopped."""
    before = point.state["made_by"]
    lines = [f"resuming {point.folder} after step {point.step:,}, {point.epochs} whole epochs"]
    for name, value in numerics_environment(trainer).items():
        if name in INEXACT and name in before and before[name] != value:
            lines.append(f"{name} {value} instead of {before[name]}: {INEXACT[name]}")
    return [*lines, *inexact_settings(config)]


MAY_ROUND_DIFFERENTLY = "it may round differently; the weights may not be the same to the last bit"
INEXACT = {
    "torch": MAY_ROUND_DIFFERENTLY,
    "devices": "each step has the same images, but it rounds differently, batch norms see other parts of it, and each "
    "device draws its own dropout; the weights will not be the same to the last bit",
    "strategy": MAY_ROUND_DIFFERENTLY,
    "accelerator": "it rounds differently and draws other dropout; the weights will not be the same to the last bit",
    "device": MAY_ROUND_DIFFERENTLY,
    "precision": "it rounds differently; the weights will not be the same to the last bit",
    "deterministic": MAY_ROUND_DIFFERENTLY,
    "threads": "sums are split differently; the weights may not be the same to the last bit",
}
