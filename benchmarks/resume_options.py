"""Resume trainings with each option of Lightning's Trainer and each of its callbacks, and compare their ends.

python benchmarks/resume_options.py [NAME ...]

Each training is stopped by an error inside its second epoch and resumed. It is exact if its weights, its `metrics.csv`
and its scores are those of an uninterrupted training, bit for bit. Prints the rows of the table in
docs/reproducibility.md, and fails if one of them differs from `finetune/runs/exactness.py`.
"""

import csv
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file

import finetune
from finetune.config.errors import ConfigError
from finetune.runs.exactness import EXACT, INEXACT, REFUSED

BASE = (
    *("backbone=timm", "backbone.name=test_resnet.r160_in1k", "backbone.weights=none", "head=linear"),
    *("data=synthetic", "data.count=36", "data.size=32", "data.batch_size=4", "augment=strong", "augment.crop=32"),
    *("trainer.max_epochs=3", "trainer.accelerator=cpu", "trainer.precision=32-true", "optimizer.lr=1e-2"),
    *("checkpoint.every_n_steps=1", "callbacks.preview=null", "callbacks.progress=null", "callbacks.iou.table=false"),
)
CRASH = ("+callbacks.crash._target_=benchmarks.resume_options.Crash", "callbacks.early_stopping.patience=9")


def option(name: str, value: Any) -> tuple[str, ...]:
    """Return the override of a Trainer's option that conf/trainer may have or not."""
    return (f"++trainer.{name}={value}",)


def callback(name: str, **options: Any) -> tuple[str, ...]:
    """Return the overrides that add a callback of Lightning."""
    target = f"+callbacks.other._target_=lightning.pytorch.callbacks.{name}"
    return (target, *(f"+callbacks.other.{key}={value}" for key, value in options.items()))


OPTIONS: dict[str, Any] = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "precision": "bf16-mixed",
    "max_epochs": 4,
    "min_epochs": 2,
    "max_steps": 14,
    "min_steps": 3,
    "max_time": "'00:01:00:00'",
    "limit_train_batches": 4,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "limit_predict_batches": 1,
    "overfit_batches": 4,
    "val_check_interval": 0.5,
    "check_val_every_n_epoch": 2,
    "num_sanity_val_steps": 1,
    "log_every_n_steps": 2,
    "enable_checkpointing": True,
    "enable_progress_bar": False,
    "enable_model_summary": True,
    "accumulate_grad_batches": 2,
    "gradient_clip_val": 0.1,
    "gradient_clip_algorithm": "value",
    "deterministic": True,
    "benchmark": True,
    "inference_mode": False,
    "use_distributed_sampler": True,
    "profiler": "simple",
    "detect_anomaly": True,
    "sync_batchnorm": True,
    "reload_dataloaders_every_n_epochs": 1,
    "enable_autolog_hparams": False,
}
CALLBACKS: dict[str, dict[str, Any]] = {
    "BatchSizeFinder": {},
    "DeviceStatsMonitor": {},
    "EMAWeightAveraging": {},
    "EarlyStopping": {"monitor": "val/loss", "mode": "min", "patience": 9},
    "GradientAccumulationScheduler": {"scheduling": "{1:2}"},
    "LearningRateFinder": {},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val/iou", "mode": "max"},
    "ModelSummary": {},
    "OnExceptionCheckpoint": {"dirpath": "extra"},
    "StochasticWeightAveraging": {"swa_lrs": 1e-3, "swa_epoch_start": 1},
    "TQDMProgressBar": {},
    "Timer": {"duration": "'00:01:00:00'"},
    "WeightAveraging": {},
}
LOGGER = ("+logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "+logger.csv.save_dir=logs")


def cases() -> dict[str, tuple[str, ...]]:
    """Return the overrides of every case, by its name in the table."""
    found = {f"trainer.{name}": option(name, value) for name, value in OPTIONS.items()}
    for name, options in CALLBACKS.items():
        found[name] = (*callback(name, **options), *(LOGGER if name.endswith("Monitor") else ()))
    return found


class Crash(pl.Callback):
    """Ends the training with an error, inside its second epoch."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raise in the fourth batch of the second epoch."""
        if (trainer.current_epoch, batch_idx) == (1, 3):
            raise RuntimeError("stopped on purpose")


def outcome(run: Path) -> tuple[Any, ...]:
    """Return the metrics without their times, and all tensors of the model and the last checkpoint."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    tensors = dict(load_file(run / "model" / "model.safetensors"))
    tensors |= torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return rows, tensors


def judge(overrides: tuple[str, ...], home: Path) -> str:
    """Return `exact`, `inexact` or `refused`, with what differs or why."""
    try:
        finetune.train(*BASE, *overrides, "callbacks.early_stopping.patience=9", f"output={home / 'whole'}")
    except ConfigError as error:
        return f"refused: {str(error).splitlines()[0]}"
    try:
        finetune.train(*BASE, *overrides, *CRASH, f"output={home / 'stopped'}")
        return "not stopped"
    except RuntimeError as error:
        if "on purpose" not in str(error):
            raise
    own = [text for text in overrides if "callbacks.other" in text or "logger.csv" in text]  # as code to import
    finetune.train(f"resume={home / 'stopped'}", "+callbacks.crash=null", *own)
    (rows, tensors), (other_rows, other_tensors) = outcome(home / "whole"), outcome(home / "stopped")
    if rows != other_rows:
        return "inexact: metrics.csv differs"
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, other_tensors[name])]
    return f"inexact: {len(different)} of {len(tensors)} tensors differ" if different else "exact"


def main() -> None:
    """Judge the named cases, or all, and compare them with the tables of the package."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    expected = {
        **dict.fromkeys(EXACT, "exact"),
        **dict.fromkeys(INEXACT, "inexact"),
        **dict.fromkeys(REFUSED, "refused"),
    }
    wrong = []
    for name, overrides in cases().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as home:
            os.chdir(home)
            try:
                verdict = judge(overrides, Path(home))
            except Exception as error:
                verdict = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"| `{name}` | {verdict} |", flush=True)
        wrong += [name] if verdict.partition(":")[0] != expected.get(name) else []
    if wrong:
        sys.exit(f"other than in finetune/runs/exactness.py: {', '.join(wrong)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
