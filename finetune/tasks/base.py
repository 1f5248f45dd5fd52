"""What every way of learning shares: the tuning plan, the optimizer's groups, the schedule, seeded steps."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim import create_optimizer_v2
from torch.optim.lr_scheduler import LambdaLR

from finetune.models import Segmenter
from finetune.tuning.freeze import apply_trainability
from finetune.tuning.groups import parameter_groups
from finetune.tuning.plan import Plan, Rule, describe
from finetune.tuning.schedules import schedule

logger = logging.getLogger(__name__)


class TuningTask(pl.LightningModule):
    """A model that is tuned by a plan.

    Args:
        model: what is trained.
        plan: which parameters train, and how fast.
        optimizer: a name that timm knows.
        lr: peak learning rate, before the rules' scales.
        weight_decay: for kernels and matrices.
        optimizer_options: further arguments of the optimizer.
        schedule_name: `constant`, `cosine`, `poly` or `one_cycle`.
        warmup: optimizer steps, or a share of all steps when below 1.
        schedule_options: further arguments of the schedule.
        seed: of everything random in a step, such as dropout.
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        # kernels in this order run up to a quarter faster on CPU, and on GPU under mixed precision
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer_name = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer_options = dict(optimizer_options or {})
        self.schedule_name = schedule_name
        self.warmup = warmup
        self.schedule_options = dict(schedule_options or {})
        self.seed = seed
        unused = model.unused_parameters()
        self._tunable = {name: p for name, p in model.named_parameters() if name not in unused}
        self.assigned: dict[str, Rule] = (plan or Plan()).assign(self._tunable)

    def apply_plan(self) -> None:
        """Make parameters and modules train or rest as the plan says."""
        apply_trainability(self.model, {name for name, rule in self.assigned.items() if rule.trains})

    def describe_plan(self) -> list[str]:
        """Lines that say which rule took what."""
        return describe(self.assigned, {name: p.numel() for name, p in self._tunable.items()})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One group for each rule, part and decay; one step-wise factor for all groups keeps their ratios."""
        groups = parameter_groups(self._tunable, self.assigned, self.lr, self.weight_decay)
        optimizer = create_optimizer_v2(groups, self.optimizer_name, lr=self.lr, **self.optimizer_options)
        total = int(self.trainer.estimated_stepping_batches)
        factor = schedule(self.schedule_name, total, self.warmup, **self.schedule_options)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step", "name": "lr"},
        }

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step by its place, so that a step does not depend on those before it."""
        torch.manual_seed(step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """A seed for one training step, different for each argument.

    >>> len({step_seed(s, e, b, r) for s in range(3) for e in range(3) for b in range(3) for r in range(3)})
    81
    """
    mixed = 0
    for value in (seed, epoch, batch, rank):
        mixed = (mixed * 6364136223846793005 + value + 1442695040888963407) % 2**63
    return mixed
