"""The tasks, each a LightningModule, and the table of their names."""

from finetune.tasks.base import TuningTask
from finetune.tasks.instance import InstanceTask
from finetune.tasks.multilabel import MultilabelTask
from finetune.tasks.pixel_task import PixelTask
from finetune.tasks.require import require_task
from finetune.tasks.semantic import SemanticTask

TASKS: dict[str, type[TuningTask]] = {task.name: task for task in (SemanticTask, MultilabelTask, InstanceTask)}

__all__ = ["TASKS", "InstanceTask", "MultilabelTask", "PixelTask", "SemanticTask", "TuningTask", "require_task"]
