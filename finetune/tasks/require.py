"""The check of callbacks that they train a task that they can work with."""

from typing import TypeVar

import lightning.pytorch as pl

from finetune.tasks.base import TuningTask

T = TypeVar("T", bound=TuningTask)


def require_task(module: pl.LightningModule, task: type[T], user: object) -> T:
    """Return a LightningModule as a task of ours.

    Args:
        module: given to the Trainer.
        task: class that is needed.
        user: callback that needs it, for the message.

    Raises:
        TypeError: the module is of another class.
    """
    if not isinstance(module, task):
        raise TypeError(
            f"{type(user).__name__} needs a {task.__name__}, but the Trainer got a {type(module).__name__}. Train a "
            f"{task.__name__}, or take the callback away."
        )
    return module
