"""The base of tasks that tune a model: the tuning plan, optimizer groups, schedule, seeded steps."""

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
from finetune.inference.output import TaskOutput
from finetune.losses.weight_penalties import l1, l2_sp
from finetune.metrics.evaluator import Evaluator
from finetune.models import TunableModel
from finetune.tasks.scored_task import ScoredTask
from finetune.tuning.describe import describe
from finetune.tuning.freeze import apply_trainability, check_norms
from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.groups import optimizer_groups, parameter_groups
from finetune.tuning.parameter_info import parameter_infos
from finetune.tuning.plan import Assignment, Plan
from finetune.tuning.plan_feasibility import check_timing, min_epochs_per_plateau, validations_per_epoch
from finetune.tuning.schedules import Plateau, schedule
from finetune.tuning.timing import Timeline, phase_starts, trainable, waits_for_plateau
from finetune.tuning.weight_averaging import check_resumable


class TuningTask(ScoredTask):
    """A task that tunes its model by a plan.

    Args:
        model: the network.
        evaluator: counts predictions and computes scores.
        output: turns the model's outputs into predictions.
        plan: which parameters train, when, and how fast.
        optimizer: a name that timm knows.
        lr: peak learning rate, before the rules' scales.
        weight_decay: for kernels and matrices.
        optimizer_options: further arguments of the optimizer.
        schedule_name: a name in `SCHEDULES`.
        warmup: optimizer steps, or a fraction of all steps if below 1.
        schedule_options: further arguments of the schedule.
        l1: weight of the L1 penalty: the sum of the absolute values of all kernels.
        l2_sp: weight of the L2-SP penalty: half the squared distance of the backbone from its pretrained weights.
        seed: of everything random in a step, such as dropout.

    Attributes:
        places: position in the model of each parameter that can train, by name.
        assigned: the rule that each of them matches.
        groups: parameter groups of the optimizer.
        timeline: length of the training, and when its score plateaued.
        course: learning rates over the training; None until the optimizer exists.
    """

    def __init__(
        self,
        model: TunableModel,
        evaluator: Evaluator,
        output: TaskOutput,
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
        super().__init__(evaluator, output)
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

    def forget_progress(self) -> None:
        """Forget how far an earlier training of this task has come; its weights stay."""
        self.timeline, self._schedule_state = Timeline(), {}

    def trainable(self) -> set[str]:
        """Return the names of the parameters that train in the current epoch."""
        return trainable(self.assigned, self.current_epoch, self.timeline)

    def trainable_at_any_time(self) -> set[str]:
        """Return the names of the parameters that train at some time."""
        return {name for name, assignment in self.assigned.items() if not assignment.rule.never_trains}

    def plan_is_pending(self) -> bool:
        """Return whether a later epoch unfreezes or freezes something."""
        starts = phase_starts(self.assigned.values(), self.timeline)
        last = self.timeline.epochs
        return starts[-1] > self.current_epoch or waits_for_plateau(self.assigned.values(), last, self.timeline)

    def apply_plan(self) -> bool:
        """Freeze and unfreeze parameters and modules as planned; return whether any parameter changed."""
        return apply_trainability(self.model, self.trainable(), self.norms())

    def norms(self) -> dict[str, str]:
        """Return the mode of the batch norms around parameters, by parameter name, where it is not `train`."""
        return {name: a.rule.norms for name, a in self.assigned.items() if a.rule.norms != "train"}

    def describe_plan(self) -> list[str]:
        """Return lines with the parameters of each rule, and when they train."""
        return describe(self.assigned, self.places, self.timeline)

    def configure_model(self) -> None:
        """Shard the model if the strategy shards; once, however often Lightning calls.

        Raises:
            TypeError: a strategy of Lightning that shards in another way.
        """
        if self.device_mesh is None:
            return
        if not isinstance(self.trainer.strategy, FullySharded):
            given = type(self.trainer.strategy).__name__
            raise TypeError(
                f"{given} cannot shard this task; use finetune.engine.fsdp_strategy.FullySharded() instead."
            )
        shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer, with groups that never change, and one schedule for all of them."""
        self.timeline = replace(self.timeline, epochs=training_epochs(self.trainer))
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        assignments = [group.assignment for group in self.groups]
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            pace = min_epochs_per_plateau(self.plan.plateau.patience, validations(self.trainer))
            check_timing(self.assigned, replace(self.timeline, plateaus=()), pace)  # max_steps may have shortened it
        total = int(self.trainer.estimated_stepping_batches)
        self.course = GroupLRSchedule(self.plan, assignments, self.schedule, steps, total)
        self._restore_schedule()
        # sharding replaces parameters
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
        """Set the learning rates of the next step again: the scheduler set them before the validation ended."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            assert isinstance(scheduler, LambdaLR)
            rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, base, factor in rates:
                group["lr"] = base * factor(scheduler.last_epoch)

    def record_plateau(self) -> None:
        """Record that the score stopped improving in this epoch; the plan advances with the next."""
        self.timeline = replace(self.timeline, plateaus=(*self.timeline.plateaus, self.current_epoch + 1))

    def penalty(self) -> Tensor | float:
        """Return the penalties on the trainable parameters: L1 and L2-SP.

        With a sharded model each rank returns the penalty of its own shards, which is what its gradients need.
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

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step by its position, so that it does not depend on the steps before it."""
        torch.manual_seed(step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the config of the model, the environment, and the tuning state that does not follow from the step."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["model_config"] = self.model.config()
        checkpoint["made_by"] = numerics_environment(self.trainer)
        checkpoint["exact"] = not is_accumulating(self.trainer)  # whether a resumed run equals an uninterrupted one
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
        """Restore the tuning state; the next `apply_plan` freezes and unfreezes parameters."""
        super().on_load_checkpoint(checkpoint)
        trainer = attached_trainer(self)
        if trainer is not None and trainer.state.fn == "fit":
            resume_by_epochs(trainer)
            check_resumable(checkpoint, [callback.state_key for callback in trainer.callbacks])  # type: ignore[attr-defined]  # missing in the class
        state = checkpoint.get("tuning", {})
        plateaus, smallest = tuple(state.get("plateaus", ())), state.get("epochs", sys.maxsize)
        self.timeline = replace(self.timeline, plateaus=plateaus, smallest_epochs=smallest)
        if self._start and state.get("start"):
            self._start = state["start"]
        self._schedule_state = state.get("schedule", {})
        self._restore_schedule()

    def _restore_schedule(self) -> None:
        if self._schedule_state and self.course is not None and isinstance(self.course.curve, Plateau):
            self.course.curve.load_state_dict(self._schedule_state)


def training_epochs(trainer: pl.Trainer) -> int:
    """Return the number of epochs of a training; the trainer's `max_steps` may cut the last one short."""
    total = trainer.estimated_stepping_batches  # loads the batches, so that they can be counted
    return max(1, math.ceil(total / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)))


def validations(trainer: pl.Trainer) -> float:
    """Return the number of validations per epoch; below 1 if not every epoch has one."""
    batches = int(trainer.num_training_batches)
    between = trainer.val_check_batch if isinstance(trainer.val_check_batch, int) else batches  # or by time
    return validations_per_epoch(batches, between, trainer.check_val_every_n_epoch)


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """Return a seed for one training step, different for each combination of arguments.

    >>> len({step_seed(s, e, b, r) for s in range(3) for e in range(3) for b in range(3) for r in range(3)})
    81
    """
    mixed = 0
    for value in (seed, epoch, batch, rank):
        mixed = (mixed * 6364136223846793005 + value + 1442695040888963407) % 2**63
    return mixed
