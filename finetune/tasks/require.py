"""The check of callbacks that they observe a task that can be tuned."""

import lightning.pytorch as pl

from finetune.tasks.base import TuningTask


def require_task(module: pl.LightningModule, user: object) -> TuningTask:
    """Return a LightningModule as a task of ours.

    Args:
        module: given to the Trainer.
        user: callback that needs a task, for the message.

    Raises:
        TypeError: the module is of another class.
    """
    if not isinstance(module, TuningTask):
        raise TypeError(
            f"{type(user).__name__} needs a TuningTask, but the Trainer got a {type(module).__name__}. Train a "
            f"TuningTask, or take the callback away."
        )
    return module
