"""The state of a training's loops: from where it can be resumed exactly, and how its saved state is rewound."""

from typing import Any

import lightning.pytorch as pl

from finetune.engine.lightning_private import can_stop_early, has_trained_epoch, is_accumulating, is_validation_next


def can_save(trainer: pl.Trainer) -> bool:
    """Return whether a training can be resumed exactly from the end of this batch.

    It cannot while gradients are accumulated, because no checkpoint holds them. Nor can it right before a validation or
    the end of an epoch, because Lightning would skip them on resume.
    """
    return not (is_accumulating(trainer) or ends_epoch(trainer) or is_validation_next(trainer))


def ends_epoch(trainer: pl.Trainer) -> bool:
    """Return whether the epoch ends after this batch, because it is the last one or because the training stops."""
    return (trainer.should_stop and can_stop_early(trainer)) or has_trained_epoch(trainer)


def window_scale(trainer: pl.Trainer, batch_idx: int) -> float:
    """Return the factor on a batch's loss with which a step is the mean over its batches, however few they are.

    Lightning divides by `accumulate_grad_batches` also in an epoch's last step, which may have fewer batches.

    Args:
        trainer: of the training.
        batch_idx: index of the batch in the epoch.
    """
    batches = trainer.accumulate_grad_batches
    rest = int(trainer.num_training_batches) - batch_idx // batches * batches
    return batches / min(batches, rest)


def is_out_of_steps(trainer: pl.Trainer) -> bool:
    """Return whether the training has made all its `max_steps`."""
    return 0 <= trainer.max_steps <= trainer.global_step


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Return whether the training ends with this epoch, at the end of an epoch."""
    limit = trainer.max_epochs
    is_last = limit is not None and 0 <= limit <= trainer.current_epoch + 1
    return is_last or is_out_of_steps(trainer) or (trainer.should_stop and can_stop_early(trainer))


def cut_short(trainer: pl.Trainer) -> bool:
    """Return whether the latest epoch has ended before its last batch."""
    epochs = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return epochs.ready == epochs.processed and 0 < batches < trainer.num_training_batches  # type: ignore[attr-defined]  # missing in the class


def rewind_before_validation(loops: dict[str, Any]) -> dict[str, Any]:
    """Rewind the state of the loops from inside a validation to its start, so that all of it is run again on resume.

    Lightning restarts a validation if one of its batches was begun and none was finished.

    Args:
        loops: `fit_loop` state of a checkpoint.
    """
    key = "epoch_loop.val_loop.batch_progress"
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    return {**loops, key: {**loops[key], "total": begun, "current": begun, "is_last_batch": False}}


def rewind_into_epoch(loops: dict[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """Rewind the state of the loops from the end of an epoch that was cut short to the batch after which it was cut.

    Args:
        loops: `fit_loop` state of a checkpoint.
        trainer: of the training whose epoch was cut short.
    """
    epochs = {
        scope: {**counts, "processed": counts["ready"] - 1, "completed": counts["ready"] - 1}
        for scope, counts in loops["epoch_progress"].items()
    }
    inner = dict(loops["epoch_loop.state_dict"])
    # a validation that was due here is not run again, but Lightning counts the step before it twice for the loggers
    inner["_batches_that_stepped"] -= _is_validation_due_anyway(trainer)
    return {**loops, "epoch_progress": epochs, "epoch_loop.state_dict": inner}


def _is_validation_due_anyway(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows this batch, and not only because the training stops."""
    stops, trainer.should_stop = trainer.should_stop, False
    try:
        return is_validation_next(trainer)
    finally:
        trainer.should_stop = stops
