"""Lightning's private API: every name that is used exists, and only one file uses them."""

import ast
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

import finetune
from finetune.callbacks import EarlyStopping
from finetune.engine.lightning_private import (
    attached_trainer,
    disable_signal_handlers,
    launched_processes,
    resume_by_epochs,
    set_data_parallel_size,
    threads_per_process,
)
from tests.tasks.tiny_run import tiny_trainer

PACKAGE = Path(finetune.__file__).parent
ALLOWED = {"engine/lightning_private.py": 8, "data/module.py": 2}  # file -> least number of uses


@pytest.mark.parametrize(
    "name",
    [
        "fit_loop._data_fetcher",
        "fit_loop._can_stop_early",
        "fit_loop._iteration_based_training",
        "fit_loop.epoch_loop._should_accumulate",
        "fit_loop.epoch_loop._should_check_val_fx",
        "fit_loop.epoch_loop._is_training_done",
        "_signal_connector.register_signal_handlers",
        "_accelerator_connector.use_distributed_sampler",
        "strategy.launcher.procs",
    ],
)
def test_a_private_name_still_exists(name: str) -> None:
    attrgetter(name)(tiny_trainer(devices=2, strategy="ddp"))  # raises AttributeError otherwise


def test_overridden_private_methods_still_exist() -> None:
    for method in ("_evaluate_stopping_criteria", "_validate_condition_metric"):
        assert callable(getattr(EarlyStopping.__base__, method))
    assert hasattr(ModelParallelStrategy(), "_data_parallel_size")
    assert "_batches_that_stepped" in tiny_trainer().fit_loop.epoch_loop.on_save_checkpoint()
    assert "epoch_loop.val_loop.batch_progress" in tiny_trainer().fit_loop.state_dict()


def test_the_size_of_a_mesh_can_be_set() -> None:
    strategy = ModelParallelStrategy()
    set_data_parallel_size(strategy, 3)
    assert strategy._data_parallel_size == 3


def test_a_module_without_a_trainer_has_none() -> None:
    module, trainer = pl.LightningModule(), tiny_trainer()
    assert attached_trainer(module) is None
    module.trainer = trainer
    assert attached_trainer(module) is trainer


def test_a_trainer_resumes_by_epochs_and_handles_no_signals() -> None:
    trainer = tiny_trainer(max_steps=3)
    assert trainer.fit_loop._iteration_based_training()
    resume_by_epochs(trainer)
    assert not trainer.fit_loop._iteration_based_training()
    disable_signal_handlers(trainer)
    trainer._signal_connector.register_signal_handlers()
    assert trainer._signal_connector._original_handlers == {}


def test_a_single_process_has_launched_no_others() -> None:
    assert launched_processes(tiny_trainer()) == []
    assert threads_per_process(1) >= threads_per_process(2) >= 1


def private_uses(source: str) -> Iterator[str]:
    """Find private names that are imported from Lightning, or read from an object with a Lightning name."""
    objects = ("trainer", "_trainer", "fit_loop", "epoch_loop", "launcher", "strategy")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value).split(".")[-1]
            if owner in objects or node.attr == "_trainer":
                yield f"{owner}.{node.attr}"


def test_only_one_file_uses_private_names() -> None:
    uses = {
        path.relative_to(PACKAGE).as_posix(): list(private_uses(path.read_text())) for path in PACKAGE.rglob("*.py")
    }
    assert {name for name, found in uses.items() if found} == set(ALLOWED)
    assert all(len(uses[name]) >= count for name, count in ALLOWED.items())
