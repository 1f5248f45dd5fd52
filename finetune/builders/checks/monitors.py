"""Find mistakes in what a training monitors: scores that are not logged, and directions that contradict the score."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.task import find_task, task_settings
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.io.messages import suggest
from finetune.metrics.monitor import monitor_mode


def check_monitors(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if what a callback, the plan or the schedule monitors is wrong; see `check_monitored`."""
    check_monitored(config, data.model_classes)


def check_monitored(config: Config, classes: Sequence[str]) -> None:
    """Raise a ConfigError if a monitor is no value that a validation of these classes logs, or has the wrong mode."""
    task = find_task(task_settings(config))
    evaluator, loss = task.evaluator_type(classes), [] if task.takes_objects else ["loss"]
    scores = evaluator.compute(evaluator.counts()) if _logs_scores(config["callbacks"]) else ()
    values = [f"val/{name}" for name in (*loss, *scores)]  # train/loss comes later
    for group, settings in _monitors(config).items():
        monitor = settings["monitor"]
        if monitor not in values and not is_foreign(settings):
            hint = (
                suggest(monitor, values) if scores else "Scores are logged by callbacks.iou: leave ~callbacks.iou out."
            )
            raise ConfigError(f"{group}.monitor='{monitor}' is not logged by a validation. {hint}")
        try:
            monitor_mode(monitor, settings["mode"], f"{group}.mode")
        except ValueError as error:
            text = str(error).replace(", or auto.", f": +{group}.mode=...") if is_foreign(settings) else str(error)
            raise ConfigError(text) from error


def monitored(config: Config) -> dict[str, str]:
    """Return the monitors of the training, by the group of their setting."""
    return {group: settings["monitor"] for group, settings in _monitors(config).items()}


def _monitors(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the settings that hold a monitor and its mode, by group; `checkpoint` stands for all that follow it."""
    groups = {f"callbacks.{name}": settings for name, settings in config["callbacks"].items()}
    groups |= {"tuning.plateau": config["tuning"]["plateau"], "schedule": config["schedule"]}
    monitors = {"checkpoint": config["checkpoint"]}
    for group, settings in groups.items():
        if not isinstance(settings, dict) or "monitor" not in settings:
            continue
        if not settings["monitor"]:
            if is_foreign(settings):  # such as a ModelCheckpoint that keeps the latest
                continue
            raise ConfigError(f"{group}.monitor is not set. Set it to a score such as val/iou, or remove {group}.")
        if not _follows(settings, config["checkpoint"]):
            # the callbacks of Lightning that monitor a score have min as their default
            monitors[group] = {"mode": "min" if is_foreign(settings) else "auto", **settings}
    return monitors


def _follows(settings: Config, followed: Config) -> bool:
    """Return whether settings monitor the same score, in the same direction, as others."""
    return (settings["monitor"], settings.get("mode")) == (followed["monitor"], followed["mode"])


def _logs_scores(callbacks: Config) -> bool:
    """Return whether scores are logged, as far as is known here, or no callback monitors one."""
    entries = [entry for entry in callbacks.values() if isinstance(entry, dict)]
    if not any("monitor" in entry for entry in entries):
        return True
    return any(is_foreign(entry) or entry.get("_target_", "").endswith(".IoU") for entry in entries)


def is_foreign(settings: Config) -> bool:
    """Return whether settings are of a callback of another package, which may monitor a value that we do not know."""
    return not str(settings.get("_target_", "finetune.")).startswith("finetune.")
