"""Applies the tuning plan: at the start of training, at every epoch start, and after every validation."""

import logging
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.engine.ddp import average_statistics, check_ranks_agree, keep_buffers, wrap_again
from finetune.io.messages import suggest
from finetune.tasks import TuningTask
from finetune.tuning.describe import describe_change
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.plateau_detector import PlateauDetector
from finetune.tuning.schedules import Plateau
from finetune.tuning.timing import Timeline, plateaus_awaited, waits_for_plateau

logger = logging.getLogger(__name__)


class ApplyTuningPlan(pl.Callback):
    """Keeps frozen what is frozen, unfreezes what is due on all ranks, and says what trains.

    Attributes:
        record: the learning rates of all layer groups; there once the training has begun.
    """

    def __init__(self) -> None:
        self.record: LRHistory | None = None
        self._detector: PlateauDetector | None = None
        self._best: dict[str, Tensor] = {}
        self._due = False  # the best weights go back in with the next epoch
        self._trained: set[str] = set()
        self._norms: list[nn.Module] = []
        self._restored: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze before DDP registers gradients (it must meet no parameter that never gets one)."""
        if stage == "fit":
            task = _task(pl_module)
            task.timeline = Timeline()  # nothing is left of an earlier training
            self._best, self._due, self._restored = {}, False, {}
            self._apply(task)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log which rule took what."""
        task = _task(pl_module)
        plateau = task.plan.plateau
        self._detector = PlateauDetector(plateau.patience, plateau.mode, plateau.min_delta)
        self.record = LRHistory(task.groups)
        for line in task.describe_plan():
            _say(line)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up a checkpoint's place in the plan; a training that goes on inside an epoch sees no epoch start."""
        if self._restored:
            assert self._detector is not None
            assert self.record is not None
            self._detector.load_state_dict(self._restored["detector"])
            self.record.load_state_dict(self._restored["record"])
            self._best, self._due = self._restored["best"], self._restored["due"]
        keep_buffers(trainer)
        self._advance(trainer, _task(pl_module), resumed=bool(self._restored))
        _task(pl_module).refresh_rates()  # a checkpoint has those of a training that may have been shorter

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unfreeze and freeze what is due, whatever called `train()` meanwhile."""
        self._restore_best(_task(pl_module))
        self._advance(trainer, _task(pl_module))
        check_ranks_agree(trainer, _task(pl_module).model)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Note the learning rates of the step."""
        task = _task(pl_module)
        if self.record is not None and task.course is not None:
            rates = [group["lr"] for group in optimizer.param_groups]
            self.record.add(trainer.global_step / task.course.steps, rates, self._trained)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Bring batch-norm statistics together: each rank has those of its own images."""
        average_statistics(trainer, self._norms)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the plan after a validation in the middle of an epoch too, and see whether the score has plateaued."""
        if trainer.state.fn != "fit":
            return
        task = _task(pl_module)
        self._apply(task)
        if not trainer.sanity_checking:
            self._watch(trainer, task)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make sure that the ranks have stayed together to the end, and say what never came."""
        task = _task(pl_module)
        check_ranks_agree(trainer, task.model)
        awaited, came = plateaus_awaited(task.assigned.values()), len(task.timeline.plateaus)
        missing = waits_for_plateau(task.assigned.values(), trainer.current_epoch, task.timeline)
        if missing and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            _warn(
                f"the plan waited for {awaited} plateaus of {task.plan.plateau.monitor}, and {came} came: "
                f"{describe_change((), self._trained, task.places).partition('; ')[2]} at the end. Lower "
                f"tuning.plateau.patience, validate more often, or train longer."
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs besides the task's own state."""
        detector = self._detector.state_dict() if self._detector is not None else {}
        record = self.record.state_dict() if self.record is not None else {}
        return {"detector": detector, "record": record, "best": self._best, "due": self._due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the training starts."""
        self._restored = state_dict if state_dict.get("detector") else {}

    def _advance(self, trainer: pl.Trainer, task: TuningTask, resumed: bool = False) -> None:
        """Apply the plan to this epoch; let DDP and the log know what changed."""
        before = self._trained
        if not self._apply(task) and before == self._trained:
            return
        task.refresh_rates()
        wrap_again(trainer)
        check_ranks_agree(trainer, task.model)
        change = describe_change(before, self._trained, task.places)
        _say(f"epoch {trainer.current_epoch + 1}: {'as the checkpoint had it, ' if resumed else ''}{change}")
        epoch = trainer.current_epoch
        if self.record is not None and task.course is not None and epoch in task.course.phases(task.timeline):
            self.record.boundaries = sorted({*self.record.boundaries, float(epoch)})

    def _apply(self, task: TuningTask) -> bool:
        changed = task.apply_plan()
        self._trained = task.trainable()
        self._norms = [m for m in task.model.modules() if m.training and getattr(m, "running_var", None) is not None]
        return changed

    def _watch(self, trainer: pl.Trainer, task: TuningTask) -> None:
        """Tell the schedule and the plan how the score goes."""
        curve, plateau = task.course.curve if task.course else None, task.plan.plateau
        if isinstance(curve, Plateau):
            curve.report(_score(trainer, curve.monitor, "schedule.monitor"), trainer.global_step)
            task.refresh_rates()
        plateaus = task.timeline.plateaus
        pending = bool(plateaus) and plateaus[-1] > trainer.current_epoch  # the plan moves on with the next epoch
        waits = waits_for_plateau(task.assigned.values(), trainer.current_epoch, task.timeline)
        if not waits or pending or self._detector is None:
            return
        plateaued = self._detector.update(_score(trainer, plateau.monitor, "tuning.plateau.monitor"))
        if plateau.restore_best and self._detector.improved:
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in task.model.state_dict().items()}
        if plateaued:
            _say(f"{plateau.monitor} has not improved for {plateau.patience} validations: the plan moves on")
            task.record_plateau()
            self._detector.reset()
            self._due = plateau.restore_best

    def _restore_best(self, task: TuningTask) -> None:
        """Begin a phase with the best weights of the last; not before all has been saved that belongs to these."""
        if self._due:
            task.model.load_state_dict(self._best)
            self._best, self._due = {}, False


def _score(trainer: pl.Trainer, monitor: str, setting: str) -> float:
    logged = trainer.callback_metrics
    if monitor not in logged:
        raise ValueError(f"{setting}='{monitor}' is not logged. {suggest(monitor, sorted(logged))}")
    return float(logged[monitor])


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)


@rank_zero_only
def _warn(message: str) -> None:
    logger.warning(message)


def _task(pl_module: pl.LightningModule) -> TuningTask:
    if not isinstance(pl_module, TuningTask):
        raise TypeError(f"the Tuning callback needs a TuningTask with a plan to apply, got {type(pl_module).__name__}.")
    return pl_module
