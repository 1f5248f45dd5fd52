"""The callback that applies the tuning plan."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.engine.ddp import average_statistics, check_ranks_agree, keep_buffers, wrap_again
from finetune.engine.rank_zero import rank_zero_logger
from finetune.io.messages import suggest
from finetune.tasks import TuningTask, require_task
from finetune.tuning.describe import describe_change
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.plateau_detector import PlateauDetector
from finetune.tuning.schedules import Plateau
from finetune.tuning.timing import plateaus_awaited, waits_for_plateau

logger = rank_zero_logger(__name__)


class ApplyTuningPlan(pl.Callback):
    """A callback that freezes and unfreezes on all ranks as the task's plan says, and logs what trains.

    It applies the plan at the start of the training, at the start of every epoch and after every validation.

    Attributes:
        record: learning rates of all layer groups; None before the training starts.
    """

    def __init__(self) -> None:
        self.record: LRHistory | None = None
        self._detector: PlateauDetector | None = None
        self._best: dict[str, Tensor] = {}
        self._restores_best = False  # at the start of the next epoch
        self._trainable: set[str] = set()
        self._norms: list[nn.Module] = []
        self._restored: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze before DDP wraps the model; DDP must not register parameters that get no gradient."""
        if stage == "fit":
            task = require_task(pl_module, self)
            task.forget_progress()  # the task or callback may have been used in an earlier training
            self._best, self._restores_best, self._restored = {}, False, {}
            self._apply(task)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what each rule matched."""
        task = require_task(pl_module, self)
        self._detector = task.plan.plateau.detector()
        self.record = LRHistory(task.groups)
        for line in task.describe_plan():
            logger.info(line)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state of a checkpoint. A training that is resumed inside an epoch gets no epoch start."""
        if self._restored:
            assert self._detector is not None
            assert self.record is not None
            self._detector.load_state_dict(self._restored["detector"])
            self.record.load_state_dict(self._restored["record"])
            self._best, self._restores_best = self._restored["best"], self._restored["due"]
        keep_buffers(trainer)
        task = require_task(pl_module, self)
        self._advance(trainer, task, resumed=bool(self._restored))
        task.refresh_rates()  # the rates in the checkpoint may be those of a shorter training

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze and unfreeze what is due, and undo any `train()` on frozen layers."""
        task = require_task(pl_module, self)
        self._restore_best(task)
        self._advance(trainer, task)
        check_ranks_agree(trainer, task.model)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Record the learning rates of the step."""
        task = require_task(pl_module, self)
        if self.record is not None and task.course is not None:
            rates = [group["lr"] for group in optimizer.param_groups]
            self.record.add(trainer.global_step / task.course.steps, rates, self._trainable)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average batch-norm statistics over the ranks, each of which has seen its own images only."""
        average_statistics(trainer, self._norms)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the plan again, since validations may be inside an epoch, and check whether the score has plateaued."""
        if trainer.state.fn != "fit":
            return
        task = require_task(pl_module, self)
        self._apply(task)
        if not trainer.sanity_checking:
            self._follow_score(trainer, task)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the ranks agree, and warn of plateaus that the plan waited for in vain."""
        task = require_task(pl_module, self)
        check_ranks_agree(trainer, task.model)
        awaited, reached = plateaus_awaited(task.assigned.values()), len(task.timeline.plateaus)
        is_waiting = waits_for_plateau(task.assigned.values(), trainer.current_epoch, task.timeline)
        if is_waiting and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            logger.warning(
                f"the plan waits for {awaited} plateaus of {task.plan.plateau.monitor}, but the score had {reached}: "
                f"{describe_change((), self._trainable, task.places).partition('; ')[2]} at the end. Lower "
                f"tuning.plateau.patience, validate more often, or train longer."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs in addition to the task's own state."""
        detector = self._detector.state_dict() if self._detector is not None else {}
        record = self.record.state_dict() if self.record is not None else {}
        return {"detector": detector, "record": record, "best": self._best, "due": self._restores_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the training starts."""
        self._restored = state_dict if state_dict.get("detector") else {}

    def _advance(self, trainer: pl.Trainer, task: TuningTask, resumed: bool = False) -> None:
        """Apply the plan to this epoch; if that changes what trains, wrap the model again and log the change."""
        before = self._trainable
        if not self._apply(task) and before == self._trainable:
            return
        task.refresh_rates()
        wrap_again(trainer)
        check_ranks_agree(trainer, task.model)
        change, epoch = describe_change(before, self._trainable, task.places), trainer.current_epoch
        logger.info(f"epoch {epoch + 1}: {'as in the checkpoint, ' if resumed else ''}{change}")
        if self.record is not None and task.course is not None and epoch in task.course.phases(task.timeline):
            self.record.boundaries = sorted({*self.record.boundaries, float(epoch)})

    def _apply(self, task: TuningTask) -> bool:
        changed = task.apply_plan()
        self._trainable = task.trainable()
        self._norms = [m for m in task.model.modules() if m.training and getattr(m, "running_var", None) is not None]
        return changed

    def _follow_score(self, trainer: pl.Trainer, task: TuningTask) -> None:
        """Report the score to the schedule and to the plan, if they depend on it."""
        curve = task.course.curve if task.course else None
        if isinstance(curve, Plateau):
            curve.report(_score(trainer, curve.monitor, "schedule.monitor"), trainer.global_step)
            task.refresh_rates()
        plateaus = task.timeline.plateaus
        is_pending = bool(plateaus) and plateaus[-1] > trainer.current_epoch  # takes effect with the next epoch
        is_waiting = waits_for_plateau(task.assigned.values(), trainer.current_epoch, task.timeline)
        if is_waiting and not is_pending and self._detector is not None:
            self._detect_plateau(trainer, task, self._detector)

    def _detect_plateau(self, trainer: pl.Trainer, task: TuningTask, detector: PlateauDetector) -> None:
        plateau = task.plan.plateau
        has_plateaued = detector.update(_score(trainer, plateau.monitor, "tuning.plateau.monitor"))
        if plateau.restore_best and detector.improved:
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in task.model.state_dict().items()}
        if has_plateaued:
            logger.info(f"{plateau.monitor} has not improved for {plateau.patience} validations: next step of the plan")
            task.record_plateau()
            detector.reset()
            self._restores_best = plateau.restore_best and bool(self._best)  # no score may have been a number

    def _restore_best(self, task: TuningTask) -> None:
        """Start a phase from the best weights of the last one, once that one's last checkpoint has been written."""
        if self._restores_best:
            task.model.load_state_dict(self._best)
            self._best, self._restores_best = {}, False


def _score(trainer: pl.Trainer, monitor: str, setting: str) -> float:
    logged = trainer.callback_metrics
    if monitor not in logged:
        raise ValueError(f"{setting}='{monitor}' is not logged. {suggest(monitor, sorted(logged))}")
    return float(logged[monitor])
