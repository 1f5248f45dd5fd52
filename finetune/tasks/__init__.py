"""Ways of learning, each a LightningModule."""

from finetune.tasks.base import TuningTask
from finetune.tasks.require import require_task
from finetune.tasks.semantic import SemanticTask

__all__ = ["SemanticTask", "TuningTask", "require_task"]
