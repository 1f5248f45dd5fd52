"""What every way of learning shares: the tuning plan, the optimizer's groups, the schedule, seeded steps."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from finetune.engine.environment import numerics_environment
from finetune.engine.fsdp import gather_full, local_shard, shard, shard_like
from finetune.engine.fsdp_strategy import FullySharded
from finetune.engine.lightning_private import attached_trainer, is_accumulating, resume_by_epochs
from finetune.engine.loop_state import cut_short, rewind_into_epoch
from finetune.losses.weight_penalties import l1, l2_sp
from finetune.models import Segmenter
from finetune.tuning.describe import describe
from finetune.tuning.freeze import apply_trainability, check_norms
from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.groups import optimizer_groups, parameter_groups
from finetune.tuning.parameter_info import parameter_infos
from finetune.tuning.plan import Assignment, Plan
from finetune.tuning.plan_feasibility import check_timing, min_epochs_per_plateau
from finetune.tuning.schedules import Plateau, schedule
from finetune.tuning.timing import Timeline, phase_starts, trainable, waits_for_plateau
from finetune.tuning.weight_averaging import check_resumable


class TuningTask(pl.LightningModule):
    """A model that is tuned by a plan.

    Args:
        model: what is trained.
        plan: which parameters train, when, and how fast.
        optimizer: a name that timm knows.
        lr: peak learning rate, before the rules' scales.
        weight_decay: for kernels and matrices.
        optimizer_options: further arguments of the optimizer.
        schedule_name: a name in `SCHEDULES`.
        warmup: optimizer steps, or a share of all steps when below 1.
        schedule_options: further arguments of the schedule.
        l1: weight of the sum of all kernels' absolute values, as a penalty.
        l2_sp: weight of half the squared distance of the backbone from its pretrained weights, as a penalty.
        seed: of everything random in a step, such as dropout.

    Attributes:
        places: of all parameters that can train, by name.
        assigned: the rule that takes each of them.
        groups: of the optimizer.
        timeline: how long the training is, and when its score plateaued.
        course: of the learning rates; there once the optimizer is.
        local_loss_sums: what this rank had a part of the last loss, which is that of all ranks.
    """

    def __init__(
        self,
        model: Segmenter,
        plan: Plan | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        optimizer_options: Mapping[str, Any] | None = None,
        schedule_name: str = "poly",
        warmup: float = 0.05,
        schedule_options: Mapping[str, Any] | None = None,
        l1: float = 0.0,
        l2_sp: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # kernels in this order run up to a quarter faster on CPU, and on GPU under mixed precision
        self.model = model.to(memory_format=torch.channels_last)
        self.plan = plan or Plan()
        self.optimizer_name = optimizer
        self.lr = lr
        self.optimizer_options = dict(optimizer_options or {})
        self.schedule = partial(schedule, schedule_name, warmup=warmup, **dict(schedule_options or {}))
        self.penalties = {"l1": l1, "l2_sp": l2_sp}
        self.seed = seed
        unused = model.unused_parameters()
        self._tunable = {name: p for name, p in model.named_parameters() if name not in unused}
        self.places = parameter_infos(self._tunable, model.layer_groups(fine=self.plan.layers == "blocks"))
        self.assigned = self.plan.assign(self.places)
        check_norms(model, self.assigned)
        self.groups = parameter_groups(self.places, self.assigned, lr, weight_decay, model.no_weight_decay())
        self.timeline = Timeline()
        self.course: GroupLRSchedule | None = None
        backbone = {name: p for name, p in self._tunable.items() if name.startswith("backbone.")}
        self._start = {name: p.detach().clone() for name, p in backbone.items()} if l2_sp else {}
        self._schedule_state: dict[str, Any] = {}
        self.local_loss_sums: list[Tensor] = []

    def trainable(self) -> set[str]:
        """Names of the parameters that train in the current epoch."""
        return trainable(self.assigned, self.current_epoch, self.timeline)

    def trainable_at_any_time(self) -> set[str]:
        """Names of the parameters that train at some time."""
        return {name for name, assignment in self.assigned.items() if not assignment.rule.never_trains}

    def plan_is_pending(self) -> bool:
        """Whether something is still to be unfrozen or frozen in a later epoch."""
        starts = phase_starts(self.assigned.values(), self.timeline)
        last = self.timeline.epochs
        return starts[-1] > self.current_epoch or waits_for_plateau(self.assigned.values(), last, self.timeline)

    def apply_plan(self) -> bool:
        """Make parameters and modules train or rest as the plan says; whether a parameter was frozen or unfrozen."""
        return apply_trainability(self.model, self.trainable(), self.norms())

    def norms(self) -> dict[str, str]:
        """What the batch norms around parameters do where it is not what these do."""
        return {name: a.rule.norms for name, a in self.assigned.items() if a.rule.norms != "train"}

    def describe_plan(self) -> list[str]:
        """Lines that say which rule took what, and when it trains."""
        return describe(self.assigned, self.places, self.timeline)

    def configure_model(self) -> None:
        """Shard the model, if the strategy is one that shards; once, however often Lightning calls.

        Raises:
            TypeError: a strategy of Lightning's that would shard in another way.
        """
        if self.device_mesh is None:
            return
        if not isinstance(self.trainer.strategy, FullySharded):
            given = type(self.trainer.strategy).__name__
            raise TypeError(
                f"this task is not sharded by {given}; use finetune.engine.fsdp_strategy.FullySharded() instead."
            )
        shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Groups that stay as they are through all phases; one step-wise schedule keeps their ratios."""
        self.timeline = replace(self.timeline, epochs=training_epochs(self.trainer))
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        assignments = [group.assignment for group in self.groups]
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            pace = min_epochs_per_plateau(self.plan.plateau.patience, validations(self.trainer))
            check_timing(self.assigned, replace(self.timeline, plateaus=()), pace)  # max_steps may have made it shorter
        total = int(self.trainer.estimated_stepping_batches)
        self.course = GroupLRSchedule(self.plan, assignments, self.schedule, self.timeline.epochs, steps, total)
        self._restore_schedule()
        # sharding makes new parameters
        self._tunable = {name: p for name, p in self.model.named_parameters() if name in self._tunable}
        groups = optimizer_groups(self.groups, self._tunable)
        optimizer = create_optimizer_v2(groups, self.optimizer_name, lr=self.lr, **self.optimizer_options)
        factors: list[Callable[[int], float]] = [partial(self._factor, assignment) for assignment in assignments]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step", "name": "lr"},
        }

    def _factor(self, assignment: Assignment, step: int) -> float:
        assert self.course is not None
        return self.course.multiplier(assignment, step, self.timeline)

    def refresh_rates(self) -> None:
        """Set the learning rates of the next step anew: the scheduler did before the validation decided anything."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            assert isinstance(scheduler, LambdaLR)
            rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, base, factor in rates:
                group["lr"] = base * factor(scheduler.last_epoch)

    def record_plateau(self) -> None:
        """Note that the score has stopped improving in this epoch; the plan moves on with the next."""
        self.timeline = replace(self.timeline, plateaus=(*self.timeline.plateaus, self.current_epoch + 1))

    def penalty(self) -> Tensor | float:
        """What the plan's penalties add to the loss: L1 of the kernels, distance from the pretrained backbone.

        Of a sharded model every rank adds what its own shares contribute, which is what it needs for its gradients.
        """
        total: Tensor | float = 0.0
        moving = {name: local_shard(p) for name, p in self._tunable.items() if p.requires_grad}
        if weight := self.penalties["l1"]:
            total = total + weight * l1(p for p in moving.values() if p.ndim > 1)
        if weight := self.penalties["l2_sp"]:
            self._start = {name: shard_like(start, self._tunable[name]) for name, start in self._start.items()}
            start = {name: local_shard(start) for name, start in self._start.items()}
            total = total + weight * l2_sp({name: p for name, p in moving.items() if name in start}, start)
        return total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the model is built from and by what, and what the plan cannot know from the step alone."""
        checkpoint["model_config"] = self.model.config()
        checkpoint["made_by"] = numerics_environment(self.trainer)
        checkpoint["exact"] = not is_accumulating(
            self.trainer
        )  # whether a training can go on from it as if uninterrupted
        if cut_short(self.trainer):
            checkpoint["loops"]["fit_loop"] = rewind_into_epoch(checkpoint["loops"]["fit_loop"], self.trainer)
        curve = self.course.curve if self.course is not None else None
        checkpoint["tuning"] = {
            "plateaus": list(self.timeline.plateaus),
            "epochs": self.timeline.fraction_base,
            "schedule": curve.state_dict() if isinstance(curve, Plateau) else {},
            "start": {name: gather_full(start).cpu() for name, start in self._start.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there; whatever trained trains again at the next `apply_plan`."""
        trainer = attached_trainer(self)
        if trainer is not None and trainer.state.fn == "fit":
            resume_by_epochs(trainer)
            check_resumable(checkpoint, [callback.state_key for callback in trainer.callbacks])  # type: ignore[attr-defined]  # missing in the class
        state = checkpoint.get("tuning", {})
        plateaus, smallest = tuple(state.get("plateaus", ())), state.get("epochs", sys.maxsize)
        self.timeline = replace(self.timeline, plateaus=plateaus, smallest_epochs=smallest)
        self._start = state.get("start") if self._start and state.get("start") else self._start
        self._schedule_state = state.get("schedule", {})
        self._restore_schedule()

    def _restore_schedule(self) -> None:
        if self._schedule_state and self.course is not None and isinstance(self.course.curve, Plateau):
            self.course.curve.load_state_dict(self._schedule_state)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step by its place, so that a step does not depend on those before it."""
        torch.manual_seed(step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))


def training_epochs(trainer: pl.Trainer) -> int:
    """Epochs that a training has, the last one perhaps cut short by the trainer's `max_steps`."""
    total = trainer.estimated_stepping_batches  # loads the batches, so that they can be counted
    return max(1, math.ceil(total / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)))


def validations(trainer: pl.Trainer) -> float:
    """How many an epoch has; less than 1 where not every epoch has one."""
    batches = int(trainer.num_training_batches)
    between = trainer.val_check_batch if isinstance(trainer.val_check_batch, int) else batches  # or by the clock
    return (batches // between or batches / between) / (trainer.check_val_every_n_epoch or 1)


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """A seed for one training step, different for each argument.

    >>> len({step_seed(s, e, b, r) for s in range(3) for e in range(3) for b in range(3) for r in range(3)})
    81
    """
    mixed = 0
    for value in (seed, epoch, batch, rank):
        mixed = (mixed * 6364136223846793005 + value + 1442695040888963407) % 2**63
    return mixed
