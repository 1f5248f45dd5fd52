"""Lightning's private API, which is used in few other places.

These are two calls in `data/module.py`, which may not import this package, a key in `loop_state.py`, and two methods
that `callbacks/early_stopping.py` extends.

Check this file when Lightning is upgraded; `tests/engine/test_lightning_private.py` fails if a private name is missing.
"""

import subprocess

import lightning.pytorch as pl
from lightning.fabric.utilities.distributed import _suggested_max_num_threads
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher


def attached_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """Return the module's trainer, or None before it has one.

    Private because `module.trainer` raises RuntimeError where there is none.
    """
    return module._trainer


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Return whether there are gradients that no optimizer step has used yet, at the end of a batch.

    Private because no hook or attribute tells it; it also depends on which batch is the last of its epoch.
    """
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_validation_next(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows, at the end of a training batch.

    Private because it depends on five arguments of the Trainer, the clock and `should_stop`.
    """
    fetcher = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)  # type: ignore[arg-type]  # never None in a training


def can_stop_early(trainer: pl.Trainer) -> bool:
    """Return whether `min_epochs` and `min_steps` allow the training to stop.

    Private because `trainer.should_stop` is only the request, which Lightning may put off.
    """
    return trainer.fit_loop._can_stop_early


def has_trained_epoch(trainer: pl.Trainer) -> bool:
    """Return whether the epoch's last batch, or the training's last step, has been trained.

    Private because `trainer.is_last_batch` knows nothing of `max_steps`.
    """
    return trainer.fit_loop.epoch_loop._is_training_done


def resume_by_epochs(trainer: pl.Trainer) -> None:
    """Let Lightning resume a training of `max_steps` steps like one of `max_epochs` epochs.

    By steps, it would end a finished epoch a second time, with its row and checkpoint, and skip the next one. Private
    because the Trainer has no argument for it.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def disable_signal_handlers(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM and, under SLURM, SIGUSR1.

    It would end the process with code 0, miss a signal that arrives in the last batch, and wait for all ranks. Private
    because only SLURM's handlers can be switched off, with a plugin.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def launched_processes(trainer: pl.Trainer) -> list["subprocess.Popen[bytes]"]:
    """Return the ranks that Lightning has started from this process; none under torchrun or SLURM.

    Private because launchers have no public type, and Lightning only ends them by killing this process.
    """
    launcher = trainer.strategy.launcher
    return list(launcher.procs) if isinstance(launcher, _SubprocessScriptLauncher) else []


def calls_function_in_ranks(trainer: pl.Trainer) -> bool:
    """Return whether ranks are forked or spawned from this process to call a function.

    Private because launchers have no public type.
    """
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def stop_launcher_monitor(trainer: pl.Trainer) -> None:
    """Let the ranks end one after the other.

    A thread of Lightning would kill this process as soon as one of them has ended. It ends by itself when the list of
    processes that it looks at is empty. Private because nothing else stops that thread.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        watched, launcher.procs = launcher.procs, list(launcher.procs)
        watched.clear()


def threads_per_process(processes: int) -> int:
    """Return how many threads Lightning gives each of the processes that it launches on this machine.

    Private because it is set when the processes start, and has to be known before.
    """
    return _suggested_max_num_threads(processes)


def set_data_parallel_size(strategy: ModelParallelStrategy, size: int) -> None:
    """Shard over so many devices.

    Private because the constructor needs the number before the Trainer has counted nodes and devices.
    """
    strategy._data_parallel_size = size
