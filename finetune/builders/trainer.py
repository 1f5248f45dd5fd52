"""Builds Lightning's Trainer from a config."""

from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from finetune.builders.devices import runs_on_cpu
from finetune.builders.targets import check_target
from finetune.callbacks import ApplyTuningPlan, GracefulShutdown
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.engine.fsdp_strategy import FullySharded
from finetune.engine.loggers import for_resumed_run
from finetune.engine.precision import CPUMixedPrecision
from finetune.engine.sync_batchnorm import SyncBatchNorm

C = TypeVar("C", bound=pl.Callback)


def build_trainer(config: Config, folder: Path, step: int | None = None) -> pl.Trainer:
    """Build Lightning's Trainer with the configured callbacks and loggers, which write to the run folder.

    Args:
        config: config of a training.
        folder: run folder.
        step: optimizer step after which the training is resumed; None for a new training.

    Raises:
        ConfigError: Lightning, a callback or a logger rejects a setting.
    """
    try:
        callbacks = [
            _instantiate(entry, pl.Callback, f"callbacks.{name}")
            for name, entry in config["callbacks"].items()
            if entry
        ]
        entries = for_resumed_run(config["logger"] or {}, step) if step is not None else config["logger"] or {}
        loggers = [_instantiate(entry, Logger, f"logger.{name}") for name, entry in entries.items() if entry]
        return pl.Trainer(
            **{
                "num_sanity_val_steps": 0,  # the data has been checked before
                "use_distributed_sampler": False,  # our samplers shard without padding
                "enable_model_summary": False,  # the plan logs more
                "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
                "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
                **config["trainer"],
                "sync_batchnorm": False,  # our plugin does it
                **_plugins(config["trainer"]),
                **({"strategy": FullySharded()} if config["trainer"]["strategy"] == "fsdp2" else {}),
            },
            callbacks=[ApplyTuningPlan(), *callbacks, GracefulShutdown()],
            logger=loggers or False,
            default_root_dir=folder,
        )
    except ConfigError:
        raise
    except (ValueError, TypeError, HydraException, MisconfigurationException) as error:
        raise ConfigError(f"trainer, callbacks or logger: {error}") from error


def _plugins(settings: Config) -> Config:
    """Return the Trainer's arguments for precision, checkpoint files and synchronized batch norm."""
    plugins: list[Any] = [CheckpointFiles(), *([SyncBatchNorm()] if settings.get("sync_batchnorm") else [])]
    fsdp2 = settings["strategy"] == "fsdp2"  # whose strategy brings its own precision plugin
    if settings["precision"] == "bf16-mixed" and runs_on_cpu(settings) and not fsdp2:
        return {"precision": None, "plugins": [*plugins, CPUMixedPrecision()]}
    return {"plugins": plugins}


def _instantiate(entry: Config, base: type[Any], key: str) -> Any:
    check_target(entry, base, key)
    return instantiate(entry, _convert_="all")  # plain lists and dicts, as in Python


def find_callback(trainer: pl.Trainer, kind: type[C]) -> C | None:
    """Return the trainer's first callback of a class, or None."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # missing in the class
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)
