"""Loading that ends clearly: which file a worker died over, and its errors as they were raised."""

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
from finetune.data.records import DataError

# what usually sends a signal, and what to do then; num_workers=0 is for all the others
REASONS = {
    "SIGKILL": "The system does that when memory runs out: lower data.num_workers or data.batch_size",
    "SIGBUS": "The shared memory that batches are handed over in (/dev/shm) is full: enlarge it (docker run "
    "--shm-size=8g), or lower data.num_workers",
    "SIGSEGV": "The file may be damaged in a way that its decoder does not survive: replace it or take it out",
}
REASONS["SIGABRT"] = REASONS["SIGFPE"] = REASONS["SIGILL"] = REASONS["SIGSEGV"]
# torch's words
DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>\d+(?:, \d+)*)\)(?P<how>.*)", re.DOTALL)


def tracked_loader(
    dataset: Dataset[Sample], collate_fn: Callable[[Sequence[Sample]], Any], num_workers: int = 0, **options: Any
) -> "TrackedDataLoader":
    """A data loader that names what it failed on.

    Args:
        dataset: asked for one sample after another.
        collate_fn: makes a batch of samples.
        num_workers: processes that load; 0 loads in this one.
        options: further arguments of `DataLoader`.
    """
    return TrackedDataLoader(
        TrackedDataset(dataset, num_workers),
        num_workers=num_workers,
        collate_fn=partial(_collate, collate_fn),
        **options,
    )


class TrackedDataLoader(DataLoader[Sample]):
    """Torch's data loader over a `TrackedDataset` dataset; in all else the same.

    An exception of a worker is raised as it was there, type and message, with the worker's traceback as its cause;
    torch would make one text of both. A worker that dies raises a RuntimeError that names the file and the signal.
    """

    _workers: tuple[BaseProcess, ...] = ()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises a class of its own
        with self._explained():
            before = set(active_children())
            batches = super().__iter__()
            alive = (worker for worker in self._workers if worker.is_alive())
            self._workers = (*alive, *(worker for worker in active_children() if worker not in before))
        return self._told(batches)

    def describe_worker_death(self, error: BaseException) -> None:
        """Give torch's error of a dead worker a message that names the file; leave any other as it is.

        Torch tells of a death by a signal, which raises wherever the process happens to be, perhaps while workers are
        still being started. Iteration explains what is raised in it; whoever catches errors elsewhere calls this.
        """
        if isinstance(error, RuntimeError) and (told := DEATH.search(str(error))):
            assert isinstance(self.dataset, TrackedDataset)
            codes = {worker.pid: worker.exitcode for worker in self._workers}
            known = codes.keys() | self.dataset.readers()
            if dead := [pid for pid in map(int, told["pids"].split(", ")) if pid in known]:
                code = codes.get(dead[0])  # None also if the signal came just as it was being asked for
                error.args = (self._last_words(dead[0], _code_in(told["how"]) if code is None else code),)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.describe_worker_death(error)
            raise

    def _told(self, batches: Iterator[Any]) -> Iterator[Any]:
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
                finally:  # not to be kept while the next one is waited for, nor in a circle of the error and this frame
                    del batch

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except (OSError, EOFError) as error:
            # a worker may have died before its batch was fetched; it takes a moment until the system says so
            ended = wait([worker.sentinel for worker in self._workers], timeout=1) if self._workers else []
            if dead := [worker for worker in self._workers if worker.sentinel in ended]:
                raise RuntimeError(self._last_words(dead[0].pid, dead[0].exitcode)) from error
            raise

    def _last_words(self, pid: int | None, code: int | None) -> str:
        """What to say of a worker that is dead, and ended with a code if it is known."""
        assert isinstance(self.dataset, TrackedDataset)
        name = signal.Signals(-code).name if code is not None and -code in set(signal.Signals) else ""
        end = f"was ended by {name}" if name else f"ended with code {code}" if code is not None else "died"
        reason = f"{REASONS[name]}. Or" if name in REASONS else "To see why,"
        doing = self.dataset.last_activity(pid)
        way_out = "load in the training process, with data.num_workers=0."
        return f"loading worker {pid} {end} {doing}. {reason} {way_out}"


def _code_in(how: str) -> int | None:
    """The exit code that torch's words of a death come to.

    >>> _code_in("is killed by signal: Killed. "), _code_in("exited unexpectedly with exit code 3. Details are lost")
    (-9, 3)
    """
    if code := re.search(r"exit code (\d+)", how):
        return int(code[1])
    return next((-n for n in signal.Signals if f"by signal: {signal.strsignal(n)}." in how), None)


class TrackedDataset(Dataset[Sample]):
    """A dataset that notes what it reads in memory that is shared with the process that started it.

    Args:
        dataset: to be read.
        workers: how many processes will.

    Attributes:
        notes: a row for each worker and one for the process itself (workers + 1, 3), int64: process id, index of the
            latest sample, whether it is still being read.
    """

    def __init__(self, dataset: Dataset[Sample], workers: int = 0) -> None:
        self.dataset = dataset
        self.notes = torch.zeros(workers + 1, 3, dtype=torch.int64)
        self.notes.share_memory_()  # type: ignore[no-untyped-call]  # torch does not say

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # sized

    def __getitem__(self, key: int | SampleKey) -> Sample:
        return self.dataset[key]

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> "list[Sample] | WorkerFailure":
        """Samples of a batch; torch asks for all of them at once."""
        worker = get_worker_info()
        if worker is None:
            return self._read(keys, self.notes[-1])
        read: list[Sample] | WorkerFailure = _caught(lambda: self._read(keys, self.notes[worker.id]))
        return read

    def last_activity(self, pid: int | None) -> str:
        """What a worker was doing last."""
        for noted, index, reads in self.notes.tolist():
            if noted == pid:
                return f"{'while' if reads else 'after'} it read {self.sample_name(index)}"
        return "before it read anything"

    def readers(self) -> set[int]:
        """Ids of the processes that have begun to read."""
        return set(self.notes[:, 0].tolist()) - {0}

    def sample_name(self, index: int) -> str:
        """A sample's image and mask; its index where it is drawn."""
        records = getattr(self.dataset, "records", None)
        return f"'{records[index].image}' or its mask" if records else f"picture {index}"

    def _read(self, keys: Sequence[int | SampleKey], note: Tensor) -> list[Sample]:
        samples = []
        note[0] = os.getpid()
        for key in keys:
            note[1] = index = key.index if isinstance(key, SampleKey) else key
            note[2] = 1  # behind the index: a worker can die between the two
            try:
                samples.append(self[key])
            except Exception as error:
                if not isinstance(error, DataError):  # those name it themselves
                    error.add_note(f"while reading {self.sample_name(index)}")
                raise
            note[2] = 0
        return samples


def ignore_broadcast_signals() -> None:
    """Let this worker end when its parent ends it, or is gone, and not by signals that are sent to all processes.

    Torch and multiprocessing end workers by SIGTERM and then wait for ever, so it cannot be ignored altogether.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which tells the sender; not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # any other code would be taken for a failure


class WorkerFailure:
    """An error on its way out of a worker.

    Attributes:
        error: as it was raised, or a RuntimeError of the same words if it cannot be sent.
        traceback: as text, for none can be sent.
    """

    def __init__(self, error: Exception) -> None:
        self.error = _sent(error)
        self.traceback = "".join(traceback.format_exception(error))


def _sent(error: Exception) -> Exception:
    """What arrives of an error in another process."""
    try:
        arrived = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its pickling raises
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
