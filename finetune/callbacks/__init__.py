"""Callbacks that apply the plan, save, log, warn, stop and average; one a file."""

from finetune.callbacks.apply_plan import ApplyTuningPlan
from finetune.callbacks.checkpoint import Checkpoint
from finetune.callbacks.diagnosis import Diagnosis
from finetune.callbacks.early_stopping import EarlyStopping
from finetune.callbacks.graceful_shutdown import GracefulShutdown, TrainingInterrupted
from finetune.callbacks.iou import IoU
from finetune.callbacks.metrics_csv import MetricsCSV
from finetune.callbacks.non_finite_guard import NonFiniteError, NonFiniteGuard
from finetune.callbacks.preview import Preview
from finetune.callbacks.progress import Progress
from finetune.callbacks.weight_averaging import EMA, SWA

__all__ = [
    "EMA",
    "SWA",
    "ApplyTuningPlan",
    "Checkpoint",
    "Diagnosis",
    "EarlyStopping",
    "GracefulShutdown",
    "IoU",
    "MetricsCSV",
    "NonFiniteError",
    "NonFiniteGuard",
    "Preview",
    "Progress",
    "TrainingInterrupted",
]
