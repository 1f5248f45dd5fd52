"""A training that was cut off, and went on from its checkpoint, against the same training in one go."""

import csv
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from finetune.callbacks import (
    EMA,
    SWA,
    ApplyTuningPlan,
    Checkpoint,
    EarlyStopping,
    GracefulShutdown,
    IoU,
    MetricsCSV,
    TrainingInterrupted,
)
from finetune.callbacks.metrics_csv import MEASURED
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.data import Augment
from finetune.data.module import SegmentationData
from finetune.tuning.plan import Plan, Rule
from tests.models.sampling import slow_unless
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import Sizes, tiny_task, tiny_trainer

EPOCHS, STEPS = 3, 4  # an epoch
THAWING = Plan((Rule("backbone", train=[[1, None]]), Rule(".")))


class Cut(Exception):
    """What ends a training in these tests."""


class CutOff(pl.Callback):
    """Ends the training before a batch, counted over all epochs, as a killed process would."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Cut


class Signalled(pl.Callback):
    """Sends this process a signal, as a cluster or a person would, at the n-th call of a hook."""

    def __init__(self, hook: str, count: int, number: int = signal.SIGTERM) -> None:
        self.left = count
        self.number = number
        setattr(self, hook, self._call)

    def _call(self, trainer: pl.Trainer, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def data(workers: int = 0) -> SegmentationData:
    dataset = SyntheticDataset(4 * STEPS + 1, 40, 0, transform=Augment(32, rotation=10))
    return SegmentationData(dataset, Sizes(5, seed=0, split="val"), batch_size=4, num_workers=workers)


def fit(
    folder: Path,
    *extra: pl.Callback,
    average: type[pl.Callback] | None = EMA,
    resume: str | None = None,
    workers: int = 0,
    schedule: str = "cosine",
    patience: int = 9,
    **options: Any,
) -> Any:
    """Train with all that has a state; the task, or None where the training was cut off."""
    task = tiny_task(plan=THAWING, schedule_name=schedule)
    callbacks: Sequence[pl.Callback] = [
        *(ApplyTuningPlan(), IoU(table=False), EarlyStopping(patience=patience, min_delta=1.0), MetricsCSV()),
        *([average()] if average else []),
        *extra,
        *(GracefulShutdown(), Checkpoint(every_n_steps=1)),
    ]
    trainer = tiny_trainer(
        *callbacks,
        **{"max_epochs": EPOCHS, **options},
        default_root_dir=folder,
        enable_checkpointing=True,
        plugins=CheckpointFiles(),
    )
    try:
        trainer.fit(task, datamodule=data(workers), ckpt_path=folder / "checkpoints" / resume if resume else None)
    except (Cut, TrainingInterrupted):
        return None
    return task


def left(folder: Path) -> dict[str, Any]:
    """Return the last and best checkpoint of a training, and its rows without time and memory."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    kept = {name: torch.load(folder / "checkpoints" / name, weights_only=True) for name in ("last.ckpt", "best.ckpt")}
    for content in kept.values():
        content["callbacks"]["MetricsCSV"].pop("seconds")
        for row in content["callbacks"]["MetricsCSV"]["rows"]:
            for name in MEASURED:
                row.pop(name, None)
        content.pop("loops")  # Lightning's own counts differ after a restart, without any effect
    return {"rows": rows, **kept}


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested things differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{place}/{i}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        return [] if same else [place]
    return [] if one == other or (one != one and other != other) else [f"{place}: {one} {other}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder) is not None
    return left(folder)


def often(*quick: Any, slow: Sequence[Any] = ()) -> list[Any]:
    """Cases, of which some are for a long run of the tests only."""
    return [
        *quick,
        *(pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in slow),
    ]


@pytest.mark.parametrize("batch", often(1, 6, slow=(2, 3, 4, 5, 7, 8, 9, 10, 11)))
def test_cut_off_before_any_batch_it_ends_as_if_it_had_never_stopped(
    batch: int, tmp_path: Path, whole: dict[str, Any]
) -> None:
    assert fit(tmp_path, CutOff(batch)) is None
    assert fit(tmp_path, resume="last.ckpt") is not None
    assert differences(left(tmp_path), whole) == []


HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_batch_start")
HOOKS = (*HOOKS, "on_validation_end", "on_train_epoch_end", "on_train_epoch_start")
QUICK = [(hook, 2) for hook in HOOKS[1::2]]


@pytest.mark.parametrize(
    ("hook", "count"), often(*QUICK, slow=[case for h in HOOKS for n in (1, 2, 3) if (case := (h, n)) not in QUICK])
)
def test_a_training_stopped_anywhere_and_resumed_equals_an_uninterrupted_one(
    hook: str, count: int, tmp_path: Path, whole: dict[str, Any]
) -> None:
    assert fit(tmp_path, Signalled(hook, count)) is None
    assert fit(tmp_path, resume="last.ckpt") is not None
    assert differences(left(tmp_path), whole) == []


@pytest.mark.slow
def test_resuming_is_exact_with_workers_and_averaged_weights(tmp_path: Path) -> None:
    for name, cuts in {"whole": (), "cut": (6, 9)}.items():
        for batch in cuts:
            fit(
                tmp_path / name, CutOff(batch), average=SWA, workers=2, resume="last.ckpt" if batch != cuts[0] else None
            )
        assert fit(tmp_path / name, average=SWA, workers=2, resume="last.ckpt" if cuts else None) is not None
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


@pytest.mark.slow
def test_resuming_is_exact_with_accumulated_gradients_and_validations_inside_an_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 3}
    for name, cuts in {"whole": (), "cut": (2, 3, 7, 11)}.items():
        for batch in cuts:
            fit(tmp_path / name, CutOff(batch), resume="last.ckpt" if batch != cuts[0] else None, **options)
        assert fit(tmp_path / name, resume="last.ckpt" if cuts else None, **options) is not None
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


@pytest.mark.parametrize("batch", often(8, slow=(1, 2, 3, 4, 5, 6, 7, 9)))
def test_resuming_is_exact_with_max_steps(batch: int, tmp_path: Path) -> None:
    """Ten steps, which end inside the third epoch."""
    for name in ("whole", "cut"):
        if name == "cut":
            assert fit(tmp_path / name, CutOff(batch), max_steps=10) is None
        assert fit(tmp_path / name, resume="last.ckpt" if name == "cut" else None, max_steps=10) is not None
    assert left(tmp_path / "cut")["last.ckpt"]["SegmentationData"]["batches"] == 2
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


@pytest.mark.parametrize("hook", often("on_train_batch_end", slow=("on_validation_start", "on_validation_batch_start")))
def test_a_training_stopped_after_its_last_step_is_finished_when_resumed(hook: str, tmp_path: Path) -> None:
    """Eight steps, which end with the second epoch."""
    first = {"on_validation_start": 2, "on_validation_batch_start": 3, "on_train_batch_end": 8}[hook]
    assert fit(tmp_path / "whole", max_steps=8) is not None
    assert fit(tmp_path / "cut", Signalled(hook, first), max_steps=8) is None
    assert fit(tmp_path / "cut", resume="last.ckpt", max_steps=8) is not None
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


LONGER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "steps": ({"max_steps": 6}, {"max_steps": 10}),
    "steps and validations": ({"max_steps": 6, "val_check_interval": 2}, {"max_steps": 10, "val_check_interval": 2}),
    "steps and accumulation": (
        {"max_steps": 3, "accumulate_grad_batches": 2},
        {"max_steps": 5, "accumulate_grad_batches": 2},
    ),
    "patience": ({"patience": 3, "val_check_interval": 2}, {"patience": 9, "val_check_interval": 2}),
}


@pytest.mark.parametrize("case", slow_unless(["steps"], LONGER))
def test_a_training_that_ended_inside_an_epoch_can_be_extended_exactly(case: str, tmp_path: Path) -> None:
    shorter, longer = LONGER[case]
    options: dict[str, Any] = {"average": None, "schedule": "constant"}  # what does not depend on the length
    assert fit(tmp_path / "whole", **options, **longer) is not None
    first = fit(tmp_path / "cut", **options, **shorter)
    ended = left(tmp_path / "cut")
    assert 0 < ended["last.ckpt"]["SegmentationData"]["batches"] < STEPS  # inside an epoch
    loss = float(ended["rows"][-1]["train/loss"])
    assert loss == pytest.approx(float(first.train_loss), rel=1e-6)
    assert loss not in [float(row["train/loss"]) for row in ended["rows"][:-1]]
    assert fit(tmp_path / "cut", resume="last.ckpt", **options, **longer) is not None
    found = differences(left(tmp_path / "cut"), left(tmp_path / "whole"))
    assert [place for place in found if not re.search(r"/(tuning/epochs|patience): \d", place)] == []  # as it began


@pytest.mark.slow
@pytest.mark.parametrize("case", LONGER)
def test_a_training_killed_as_it_ends_inside_an_epoch_writes_its_last_row_when_resumed(
    case: str, tmp_path: Path
) -> None:
    """Cut off when all is saved but what comes at the end of the epoch."""
    options: dict[str, Any] = {"average": None, "schedule": "constant", **LONGER[case][0]}

    class CutBeforeTheEnd(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.is_last_batch:
                raise Cut

    assert fit(tmp_path / "whole", **options) is not None
    assert fit(tmp_path / "cut", CutBeforeTheEnd(), **options) is None
    assert fit(tmp_path / "cut", resume="last.ckpt", **options) is not None
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


def test_an_end_inside_an_accumulation_leaves_the_last_checkpoint_that_is_exact(tmp_path: Path) -> None:
    options: dict[str, Any] = {"average": None, "schedule": "constant", "accumulate_grad_batches": 2}
    longer = {**options, "val_check_interval": 3, "patience": 9}
    assert fit(tmp_path / "whole", **longer) is not None
    assert fit(tmp_path / "cut", **{**longer, "patience": 1}) is not None
    assert left(tmp_path / "cut")["last.ckpt"]["global_step"] == 3
    assert fit(tmp_path / "cut", resume="last.ckpt", **longer) is not None
    assert differences(left(tmp_path / "cut"), left(tmp_path / "whole")) == []


def test_without_the_place_in_the_data_the_same_comparison_fails(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(tmp_path, CutOff(6)) is None
    monkeypatch.setattr(SegmentationData, "load_state_dict", lambda self, state: None)
    assert fit(tmp_path, resume="last.ckpt") is not None
    assert differences(left(tmp_path), whole) != []


def test_lightnings_own_checkpoints_do_not_resume_exactly(tmp_path: Path) -> None:
    """What is saved behind the last batch of an epoch: Lightning leaves its validation out."""
    seen: dict[str, int] = {}

    class Count(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen[name] = seen.get(name, 0) + 1

    for name, options in {"whole": {}, "cut": {"limit": STEPS}}.items():
        saver = ModelCheckpoint(
            tmp_path / name, every_n_train_steps=STEPS, save_top_k=-1, save_on_train_epoch_end=False
        )
        trainer = tiny_trainer(ApplyTuningPlan(), Count(), saver, max_epochs=2, enable_checkpointing=True)
        trainer.fit(tiny_task(), datamodule=data())
        if options:
            path = tmp_path / name / f"epoch=0-step={STEPS}.ckpt"
            seen[name] = 0
            trainer = tiny_trainer(ApplyTuningPlan(), Count(), max_epochs=2)
            trainer.fit(tiny_task(), datamodule=data(), ckpt_path=path, weights_only=True)
    assert seen == {"whole": 2, "cut": 1}
