"""Where a training is, and whether it can go on from there as if it had never stopped."""

from typing import Any

import lightning.pytorch as pl


def can_save(trainer: pl.Trainer) -> bool:
    """Whether a training can go on exactly from here, at the end of a batch.

    Not while gradients are accumulated, which no checkpoint holds; nor before a validation or the end of an epoch,
    which come next: Lightning would leave them out.
    """
    validates = trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # there in a training
    return not (accumulates(trainer) or ends_epoch(trainer) or validates)


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether there are gradients that no optimizer step has used yet."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def ends_epoch(trainer: pl.Trainer) -> bool:
    """Whether the epoch ends behind this batch: with its last one, or cut short because the training ends."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or trainer.fit_loop.epoch_loop._is_training_done


def out_of_steps(trainer: pl.Trainer) -> bool:
    """Whether the training has made all its `max_steps`."""
    return 0 <= trainer.max_steps <= trainer.global_step


def cut_short(trainer: pl.Trainer) -> bool:
    """Whether the latest epoch has ended before its last batch."""
    epochs = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return epochs.ready == epochs.processed and 0 < batches < trainer.num_training_batches  # type: ignore[attr-defined]  # missing in the class


def rewind_before_validation(loops: dict[str, Any]) -> dict[str, Any]:
    """The state of a trainer's loops in a validation as that from which Lightning makes the whole of it again.

    It does so where one batch of the validation was begun and none was finished.

    Args:
        loops: of fitting, as in a checkpoint.
    """
    key = "epoch_loop.val_loop.batch_progress"
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    return {**loops, key: {**loops[key], "total": begun, "current": begun, "is_last_batch": False}}


def rewind_into_epoch(loops: dict[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """The state of the loops behind an epoch that was cut short as that from which Lightning goes on inside it.

    Args:
        loops: of fitting, as in a checkpoint.
        trainer: whose epoch was cut short.
    """
    epochs = {
        kind: {**counts, "processed": counts["ready"] - 1, "completed": counts["ready"] - 1}
        for kind, counts in loops["epoch_progress"].items()
    }
    inner = dict(loops["epoch_loop.state_dict"])
    # a validation that was due here is not made again, but the step before it is counted for the loggers again
    inner["_batches_that_stepped"] -= _validation_was_due(trainer)
    return {**loops, "epoch_progress": epochs, "epoch_loop.state_dict": inner}


def _validation_was_due(trainer: pl.Trainer) -> bool:
    """Whether there is a validation behind this batch in any case, and not only because the training ends."""
    stops, trainer.should_stop = trainer.should_stop, False
    try:
        return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # not asked for
    finally:
        trainer.should_stop = stops


def resume_by_epochs(trainer: pl.Trainer) -> None:
    """Let Lightning go on with a training of `max_steps` steps as it does with any other.

    Behind the end of an epoch it would end that epoch once more, with its row and checkpoint, and leave the next out.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
