"""Options of Lightning's Trainer and callbacks of Lightning: with which of them a training resumes exactly.

`benchmarks/resume_options.py` runs all of them and compares; docs/reproducibility.md has the table.
"""

from collections.abc import Iterator
from typing import Any

from finetune.builders.checks.trainer import REFUSED_CALLBACKS
from finetune.config.options import Config

EXACT_OPTIONS = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs", "min_epochs", "max_steps"),
    *("min_steps", "max_time", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("limit_predict_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"),
    *("log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark"),
    *("inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly", "sync_batchnorm"),
    *("reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "fast_dev_run"),
)
EXACT_CALLBACKS = (
    *("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary"),
    *("OnExceptionCheckpoint", "TQDMProgressBar", "Timer", "WeightAveraging"),
)
INEXACT = {
    "trainer.overfit_batches": "an epoch that is resumed starts again with its first batch",
    "EMAWeightAveraging": "a comparison ended with other scores; average=ema is exact",
    "GradientAccumulationScheduler": "an epoch that is resumed has the accumulation of the first epoch",
}
REFUSED = tuple(REFUSED_CALLBACKS)
EXACT = (*(f"trainer.{name}" for name in EXACT_OPTIONS), *EXACT_CALLBACKS)


def inexact_settings(config: Config) -> Iterator[str]:
    """Yield a line for each Trainer option and callback with which a resumed training may end differently.

    Args:
        config: of a training.
    """
    names: dict[str, Any] = {f"trainer.{name}": value for name, value in config["trainer"].items()}
    for name, entry in config["callbacks"].items():
        package, _, class_name = str((entry or {}).get("_target_", "finetune.")).rpartition(".")
        if not package.startswith("finetune"):
            names[class_name if package.startswith("lightning.") else f"callbacks.{name}"] = entry
    for name, value in names.items():
        if name in INEXACT and value:
            yield f"{name}: not exactly as if it had never stopped, because {INEXACT[name]}"
        elif name not in EXACT and value:
            yield f"{name}: it is not known whether a training with it resumes exactly"
