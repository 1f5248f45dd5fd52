"""Loading that fails in this process, in workers, and in workers that are killed."""

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from finetune.data import DataError, FolderSource, SampleKey, SegmentationDataset, TrainSampler
from finetune.data.module import SegmentationData
from finetune.data.worker_errors import REASONS, TrackedDataLoader
from tests.samples import draw_folder
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import tiny_task, tiny_trainer

pytestmark = pytest.mark.alone

FATAL = 5  # index of the sample that things go wrong on
FATAL_NAME = "synthetic image 'train_00005' or its mask 'train_00005'"


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the temporary files that killed workers leave behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


class Unsendable(Exception):
    """Cannot be built from its own arguments, so it cannot be pickled either."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Fails(SyntheticDataset):
    """Does something else instead of drawing one of its images."""

    def __init__(self, action: Any, count: int = 8) -> None:
        super().__init__(count, 32)
        self.action = action

    def __getitem__(self, key: int | SampleKey) -> Any:
        if (key.index if isinstance(key, SampleKey) else key) == FATAL:
            self.action()
        return super().__getitem__(key)


class Ends:
    """Ends the process that calls it."""

    def __init__(self, by: signal.Signals | int) -> None:
        self.by = by

    def __call__(self) -> None:
        faulthandler.disable()  # pytest's, which would print what is meant to happen
        if isinstance(self.by, signal.Signals):
            os.kill(os.getpid(), self.by)
        os._exit(self.by)


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self) -> None:
        raise self.error


def loader(dataset: Any, split: str, workers: int = 2) -> DataLoader[Any]:
    data = SegmentationData(dataset, dataset, batch_size=2, num_workers=workers, seed=3)
    return data.train_dataloader() if split == "train" else data.val_dataloader()


def error_of(loader: DataLoader[Any]) -> Exception:
    try:
        list(loader)
    except Exception as error:
        return error.with_traceback(None)  # a traceback would keep the workers until some garbage collection
    pytest.fail("nothing went wrong")


def kill(worker: BaseProcess) -> None:
    with contextlib.suppress(RuntimeError):  # torch raises it in a signal handler, at any line
        worker.kill()
        worker.join()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_image_raises_the_same_error_with_and_without_workers(tmp_path: Path, split: str) -> None:
    dataset = SegmentationDataset(FolderSource(draw_folder(tmp_path)).records())
    dataset.records[FATAL].image.path.unlink()
    alone, error = (error_of(loader(dataset, split, workers)) for workers in (0, 2))
    assert type(error) is type(alone) is DataError
    assert str(error) == str(alone)
    assert str(error).startswith(f"cannot read '{dataset.records[FATAL].image.path}': FileNotFoundError: ")
    assert "\n" not in str(error)
    assert "in a loading worker:\nTraceback" in str(error.__cause__)  # for debugging
    assert "in read_image" in str(error.__cause__)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_without_a_file_name_gets_a_note_with_the_sample(tmp_path: Path, workers: int) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("plain")

    dataset = SegmentationDataset(FolderSource(draw_folder(tmp_path)).records()[:1], transform=fails)  # type: ignore[arg-type]
    error = error_of(loader(dataset, "val", workers))
    assert type(error) is ZeroDivisionError
    assert str(error) == "plain"
    assert error.__notes__ == [f"while reading {dataset.records[0].description}"]
    drawn = error_of(loader(Fails(Raises(KeyError("name"))), "val", workers))
    assert (type(drawn), drawn.args, drawn.__notes__) == (KeyError, ("name",), [f"while reading {FATAL_NAME}"])


def test_an_error_that_cannot_be_pickled_keeps_its_message() -> None:
    error = error_of(loader(Fails(Raises(Unsendable("one", "two"))), "val"))
    assert type(error) is RuntimeError
    assert str(error) == "Unsendable: one and two"


def test_images_of_different_sizes_raise_the_same_error_with_and_without_workers() -> None:
    mixed = SyntheticDataset(8, [32, 33])
    alone, error = (error_of(loader(mixed, "train", workers)) for workers in (0, 2))
    assert type(error) is DataError
    assert str(error) == str(alone)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_error_about_a_killed_worker_names_its_file(tmp_path: Path, split: str) -> None:
    class Dies(SegmentationDataset):
        def __getitem__(self, key: Any) -> Any:
            if (key.index if isinstance(key, SampleKey) else key) == FATAL:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(key)

    dataset = Dies(FolderSource(draw_folder(tmp_path)).records())
    error = error_of(loader(dataset, split))
    assert type(error) is RuntimeError
    assert f"was ended by SIGKILL while it read {dataset.records[FATAL].description}. " in str(error)
    assert "lower data.num_workers or data.batch_size. Or load in the training process" in str(error)
    assert "DataLoader" not in str(error)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGUSR2])
def test_the_error_names_the_signal_and_its_usual_cause(number: signal.Signals) -> None:
    error = error_of(loader(Fails(Ends(number)), "val"))
    assert f"was ended by {number.name} while it read {FATAL_NAME}. " in str(error)
    assert REASONS.get(number.name, "To see why, load in the training process") in str(error)


def test_the_error_about_a_worker_that_exits_names_its_code() -> None:
    error = error_of(loader(Fails(Ends(3)), "val"))
    assert f"ended with code 3 while it read {FATAL_NAME}. To see why, load in the training process" in str(error)


@pytest.mark.slow
def test_the_error_about_a_worker_that_dies_between_epochs_names_its_last_sample() -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    assert len(list(again)) == 2
    first = int(again.dataset.notes[0, 0])  # type: ignore[attr-defined]  # the worker of the first batch
    (worker,) = [each for each in again._workers if each.pid == first]
    kill(worker)
    assert f"worker {first} was ended by SIGKILL after it read synthetic image 'train_00001'" in str(error_of(again))


def test_a_batch_lost_with_its_worker_is_reported_as_the_death() -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    list(again)

    def reset() -> Any:
        raise ConnectionResetError("by peer")
        yield

    def batches() -> Any:
        return list(again._with_clear_errors(reset()))

    with pytest.raises(ConnectionResetError, match=r"^by peer$"):  # all alive
        batches()
    kill(again._workers[0])
    with pytest.raises(RuntimeError, match=r"^loading worker \d+ was ended by SIGKILL after it read synthetic image"):
        batches()


def test_torchs_signal_may_arrive_during_the_search_for_the_dead_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    list(again)
    pid = again._workers[1].pid

    def reset() -> Any:
        raise ConnectionResetError("by peer")
        yield

    def waits(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"DataLoader worker (pid {pid}) is killed by signal: Killed. ")

    monkeypatch.setattr("finetune.data.worker_errors.wait", waits)
    with pytest.raises(
        RuntimeError, match=rf"^loading worker {pid} was ended by SIGKILL after it read synthetic image"
    ):
        list(again._with_clear_errors(reset()))


def test_a_death_without_an_exit_code_is_reported() -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    list(again)
    worker = again._workers[0]
    with contextlib.suppress(RuntimeError):
        worker.kill()
        os.waitpid(worker.pid or 0, 0)  # as if torch's signal came before the exit code was noted
    assert worker.exitcode is None
    error = RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: Killed. ")
    again.describe_worker_death(error)
    assert f"worker {worker.pid} was ended by SIGKILL after it read synthetic image " in str(error)
    error = RuntimeError(f"DataLoader worker (pid(s) 1, {worker.pid}) exited unexpectedly")
    again.describe_worker_death(error)
    assert f"worker {worker.pid} died after it read synthetic image " in str(error)


def test_a_death_while_workers_are_starting_names_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    list(again)
    pids = [worker.pid for worker in again._workers]
    again._workers = ()  # as if they were not known yet
    for how, cause in (
        ("is killed by signal: Bus error. Try", "by SIGBUS"),
        ("exited with exit code 3. See", "code 3"),
    ):
        error = RuntimeError(f"DataLoader worker (pid {pids[0]}) {how} more")

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("finetune.data.worker_errors.active_children", fail)
        with pytest.raises(
            RuntimeError, match=rf"^loading worker {pids[0]} (was )?ended .*{cause} after it read synthetic image"
        ):
            iter(again)


class KillsAWorker(type(tiny_task())):  # type: ignore[misc]
    """Kills a worker in the middle of a step, while no batch is waited for."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        os.kill(self.trainer.train_dataloader._workers[1].pid, signal.SIGKILL)
        time.sleep(5)  # the signal ends it
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_a_worker_that_dies_during_a_training_step_is_reported() -> None:
    task = tiny_task()
    task.__class__ = KillsAWorker
    data = SegmentationData(SyntheticDataset(8, 32), SyntheticDataset(2, 32, split="val"), batch_size=2, num_workers=2)
    # on a busy machine, the worker may be ended before its first image
    with pytest.raises(RuntimeError, match=r"worker \d+ was ended by SIGKILL (after|while|before) it read"):
        tiny_trainer(limit_val_batches=0).fit(task, datamodule=data)


def test_other_errors_stay_unchanged() -> None:
    watched = loader(Fails(Ends(signal.SIGKILL)), "val")
    assert isinstance(watched, TrackedDataLoader)
    error_of(watched)
    for other in (
        RuntimeError("shapes do not match"),
        ValueError("DataLoader worker"),
        RuntimeError("DataLoader worker (pid 1)"),
    ):
        before = str(other)
        watched.describe_worker_death(other)
        assert str(other) == before


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_returns_the_samples_of_torchs_loader(split: str, workers: int) -> None:
    dataset = SyntheticDataset(7, 32)
    made = loader(dataset, split, workers)
    assert isinstance(made, DataLoader)
    assert isinstance(made.sampler, TrainSampler) == (split == "train")
    assert len(made) == (3 if split == "train" else 4)
    for epoch in range(2):  # persistent workers
        batches: Any = list(made)
        groups = batches if split == "train" else [group for batch in batches for group in batch]
        indices = torch.cat([group["index"] for group in groups]).tolist()
        expected = [key.index for key in TrainSampler(7, seed=3)][:6] if split == "train" else list(range(7))
        assert indices == expected, epoch
        assert torch.equal(groups[0]["image"][1], dataset[indices[1]]["image"])
    assert len(getattr(made, "_workers", ())) == workers


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_can_build_the_loaders_again(workers: int) -> None:
    data = SegmentationData(
        SyntheticDataset(8, 32), SyntheticDataset(2, 32, split="val"), batch_size=2, num_workers=workers
    )
    trainer = tiny_trainer(overfit_batches=2, max_epochs=2)
    trainer.fit(tiny_task(), datamodule=data)
    assert isinstance(trainer.train_dataloader, TrackedDataLoader)
    assert trainer.global_step == 4
    data = SegmentationData(Fails(Raises(OSError("plain"))), SyntheticDataset(2, 32), batch_size=2, num_workers=workers)
    with pytest.raises(OSError, match=rf"^plain\nwhile reading {FATAL_NAME}$"):
        tiny_trainer(overfit_batches=1.0).fit(tiny_task(), datamodule=data)


def test_a_worker_ends_with_its_parent_and_ignores_signals_to_all_processes() -> None:
    again = loader(SyntheticDataset(4, 32), "val")
    assert isinstance(again, TrackedDataLoader)
    list(again)
    for name in ("TERM", "INT", "USR1"):
        for worker in again._workers:
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(again)) == 2
    again._workers[0].terminate()
    again._workers[0].join(30)
    assert again._workers[0].exitcode == 0


ENDS = """
import sys
from tests.data.test_worker_errors import *
if sys.argv[1] == "leaves":
    kept = loader(SyntheticDataset(8, 32), "train")
    next(iter(kept))
    sys.exit("left")
dataset = Fails(Ends(signal.SIGKILL)) if sys.argv[1] == "dies" else Fails(Raises(DataError("plain")))
data = SegmentationData(dataset, dataset, batch_size=2, num_workers=2)
tiny_trainer().fit(tiny_task(), datamodule=data)
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", "was ended by SIGKILL while it read synthetic image 'train_00005'"),
        pytest.param("raises", "DataError: plain", marks=pytest.mark.slow),
        pytest.param("leaves", "left", marks=pytest.mark.slow),
    ],
)
def test_the_process_ends_however_its_workers_end(how: str, message: str) -> None:
    command = [sys.executable, "-c", ENDS, how]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1], done.stderr
