"""Data loaders that name the file a worker died on, and raise the errors of workers unchanged."""

import os
import pickle
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from finetune.data.dataset import Sample, SampleKey
from finetune.data.records import DataError, Record

# the usual cause of a signal, and its remedy; for other signals the message suggests num_workers=0
REASONS = {
    "SIGKILL": "The system does that when memory runs out: lower data.num_workers or data.batch_size",
    "SIGBUS": "The shared memory that passes batches on (/dev/shm) is full: enlarge it (docker run --shm-size=8g), or "
    "lower data.num_workers",
    "SIGSEGV": "The file may be damaged so that it crashes its decoder: replace it or remove it",
}
REASONS["SIGABRT"] = REASONS["SIGFPE"] = REASONS["SIGILL"] = REASONS["SIGSEGV"]
# torch's message
DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>\d+(?:, \d+)*)\)(?P<how>.*)", re.DOTALL)


def tracked_loader(
    dataset: Dataset[Sample], collate_fn: Callable[[Sequence[Sample]], Any], num_workers: int = 0, **options: Any
) -> "TrackedDataLoader":
    """Build a data loader that names the sample it failed on.

    Args:
        dataset: read one sample after another.
        collate_fn: makes a batch of samples.
        num_workers: loading processes; 0 loads in this one.
        options: further arguments of `DataLoader`.
    """
    return TrackedDataLoader(
        TrackedDataset(dataset, num_workers),
        num_workers=num_workers,
        collate_fn=partial(_collate, collate_fn),
        **options,
    )


class TrackedDataLoader(DataLoader[Sample]):
    """Torch's data loader over a `TrackedDataset`, with clear errors.

    An exception in a worker is raised with its own type and message, and the worker's traceback is its cause; torch
    would join both into one text. A worker that dies raises a RuntimeError that names the file and the signal.
    """

    _workers: tuple[BaseProcess, ...] = ()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch declares a class of its own
        with self._explained():
            before = set(active_children())
            batches = super().__iter__()
            alive = (worker for worker in self._workers if worker.is_alive())
            self._workers = (*alive, *(worker for worker in active_children() if worker not in before))
        return self._with_clear_errors(batches)

    def describe_worker_death(self, error: BaseException) -> None:
        """Replace torch's message about a dead worker by one that names the file; leave other errors unchanged.

        Torch reports a death by a signal, which raises wherever the process happens to be, perhaps while workers are
        still starting. Errors during iteration are explained already; code that catches errors elsewhere calls this.
        """
        if isinstance(error, RuntimeError) and (death := DEATH.search(str(error))):
            assert isinstance(self.dataset, TrackedDataset)
            codes = {worker.pid: worker.exitcode for worker in self._workers}
            known = codes.keys() | self.dataset.readers()
            if dead := [pid for pid in map(int, death["pids"].split(", ")) if pid in known]:
                code = codes.get(dead[0])  # None also if the signal interrupts this very query
                error.args = (self._death_message(dead[0], _exit_code(death["how"]) if code is None else code),)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.describe_worker_death(error)
            raise

    def _with_clear_errors(self, batches: Iterator[Any]) -> Iterator[Any]:
        with self._explained():
            while True:
                try:
                    batch = self._next(batches)
                except StopIteration:
                    return
                try:
                    if isinstance(batch, WorkerFailure):
                        raise batch.error from RuntimeError(f"in a loading worker:\n{batch.traceback}")
                    yield batch
                finally:  # free the batch before waiting for the next one, and keep no cycle of error and frame
                    del batch

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except (OSError, EOFError) as error:
            # a worker may have died before its batch was fetched; the system reports that with a delay
            ended = wait([worker.sentinel for worker in self._workers], timeout=1) if self._workers else []
            if dead := [worker for worker in self._workers if worker.sentinel in ended]:
                dead[0].join(1)  # its sentinel may be there before its exit code
                raise RuntimeError(self._death_message(dead[0].pid, dead[0].exitcode)) from error
            raise

    def _death_message(self, pid: int | None, code: int | None) -> str:
        """Return the message for a dead worker; its exit code may be unknown."""
        assert isinstance(self.dataset, TrackedDataset)
        name = signal.Signals(-code).name if code is not None and -code in set(signal.Signals) else ""
        end = f"was ended by {name}" if name else f"ended with code {code}" if code is not None else "died"
        reason = f"{REASONS[name]}. Or" if name in REASONS else "To see why,"
        activity = self.dataset.last_activity(pid)
        return f"loading worker {pid} {end} {activity}. {reason} load in the training process, with data.num_workers=0."


def _exit_code(how: str) -> int | None:
    """Return the exit code that torch's message about a death stands for.

    >>> _exit_code("is killed by signal: Killed. "), _exit_code("exited unexpectedly with exit code 3. Details are")
    (-9, 3)
    """
    if code := re.search(r"exit code (\d+)", how):
        return int(code[1])
    return next((-n for n in signal.Signals if f"by signal: {signal.strsignal(n)}." in how), None)


class TrackedDataset(Dataset[Sample]):
    """A dataset that notes the sample being read in memory shared with the process that started it.

    Args:
        dataset: the dataset to read.
        workers: number of processes that read it.

    Attributes:
        notes: a row for each worker and one for the process itself (workers + 1, 3), int64: process id, index of the
            latest sample, whether it is still being read.
    """

    def __init__(self, dataset: Dataset[Sample], workers: int = 0) -> None:
        self.dataset = dataset
        self.notes = torch.zeros(workers + 1, 3, dtype=torch.int64)
        self.notes.share_memory_()  # type: ignore[no-untyped-call]  # untyped in torch

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # sized

    def __getitem__(self, key: int | SampleKey) -> Sample:
        return self.dataset[key]

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> "list[Sample] | WorkerFailure":
        """Return the samples of a batch; torch asks for all of them at once."""
        worker = get_worker_info()
        if worker is None:
            return self._read(keys, self.notes[-1])
        samples: list[Sample] | WorkerFailure = _caught(lambda: self._read(keys, self.notes[worker.id]))
        return samples

    def last_activity(self, pid: int | None) -> str:
        """Describe the last sample that a worker read."""
        for noted_pid, index, is_reading in self.notes.tolist():
            if noted_pid == pid:
                return f"{'while' if is_reading else 'after'} it read {self.sample_name(index)}"
        return "before it read anything"

    def readers(self) -> set[int]:
        """Return the ids of the processes that have begun to read."""
        return set(self.notes[:, 0].tolist()) - {0}

    def sample_name(self, index: int) -> str:
        """Return the description of a sample's record, or its index if the dataset has no records."""
        records: Sequence[Record] | None = getattr(self.dataset, "records", None)
        return records[index].description if records else f"sample {index}"

    def _read(self, keys: Sequence[int | SampleKey], note: Tensor) -> list[Sample]:
        samples = []
        note[0] = os.getpid()
        for key in keys:
            note[1] = index = key.index if isinstance(key, SampleKey) else key
            note[2] = 1  # after the index: a worker can die between the two
            try:
                samples.append(self[key])
            except Exception as error:
                if not isinstance(error, DataError):  # a DataError names the sample itself
                    error.add_note(f"while reading {self.sample_name(index)}")
                raise
            note[2] = 0
        return samples


def ignore_broadcast_signals() -> None:
    """Let this worker end with its parent, and ignore signals that are sent to all processes.

    Torch and multiprocessing end workers by SIGTERM and then wait forever, so SIGTERM of the parent must be obeyed.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # it reports the sender; missing on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # any other code would count as a failure


class WorkerFailure:
    """An error that a worker sends to the training process.

    Attributes:
        error: the error as raised, or a RuntimeError with its message if it cannot be pickled.
        traceback: as text, because tracebacks cannot be pickled.
    """

    def __init__(self, error: Exception) -> None:
        self.error = _picklable(error)
        self.traceback = "".join(traceback.format_exception(error))


def _picklable(error: Exception) -> Exception:
    """Return the error if it survives pickling, else a RuntimeError with its message."""
    try:
        arrived = pickle.loads(pickle.dumps(error))
    except Exception:  # pickling may raise anything
        arrived = None
    if isinstance(arrived, Exception) and str(arrived) == str(error):
        return arrived
    return RuntimeError(f"{type(error).__name__}: {error}")


def _caught(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        return WorkerFailure(error)


def _collate(collate_fn: Callable[[Sequence[Sample]], Any], samples: Sequence[Sample] | WorkerFailure) -> Any:
    if isinstance(samples, WorkerFailure):
        return samples
    return collate_fn(samples) if get_worker_info() is None else _caught(lambda: collate_fn(samples))
