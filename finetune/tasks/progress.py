"""Where a training is, and whether it can go on from there as if it had never stopped."""

from typing import Any

import lightning.pytorch as pl


def can_save(trainer: pl.Trainer) -> bool:
    """Whether a training can go on exactly from here, at the end of a batch.

    Not while gradients are accumulated, which no checkpoint holds; nor before a validation or the end of an epoch,
    which come next: Lightning would leave them out.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    validates = trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    return not (accumulates(trainer) or trainer.is_last_batch or validates)


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether there are gradients that no optimizer step has used yet."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def before_validation(loops: dict[str, Any]) -> dict[str, Any]:
    """The state of a trainer's loops in a validation as that from which Lightning makes the whole of it again.

    It does so where one batch of the validation was begun and none was finished.

    Args:
        loops: of fitting, as in a checkpoint.
    """
    key = "epoch_loop.val_loop.batch_progress"
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    return {**loops, key: {**loops[key], "total": begun, "current": begun, "is_last_batch": False}}
