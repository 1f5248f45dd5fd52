"""Loading processes: how one starts, and how several call a function for many items."""

import gc
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

from finetune.data.worker_errors import ignore_broadcast_signals, tracked_loader

MOST = 8  # processes or threads
FEWEST = 100  # items that are worth starting processes for, which takes a fifth of a second
AT_ONCE = 8  # items that a process is handed
Item = TypeVar("Item")
Result = TypeVar("Result")


def init_worker(worker: int) -> None:
    """Keep a loading worker from using every core or much memory, and from ending before the process it loads for.

    Ctrl-C and many clusters signal all processes, but a training that is asked to stop finishes its step.
    """
    torch.set_num_threads(1)
    gc.freeze()  # a collection would write to all objects of the training process, and so copy their memory
    ignore_broadcast_signals()


def each_result(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """Return the result for each item, in their order, as far as possible from forked processes.

    Decoding leaves threads waiting for each other in Python, and two are no faster than one. Threads call the function
    where processes cannot be forked, or are not worth it.

    Args:
        function: reads files that it opens itself; results are pickled.
        items: with a `description` for messages, as records have.
        processes: number of them; None takes one per core, at most `MOST`. 0 calls the function in threads, and 1 in
            this thread.

    Raises:
        RuntimeError: a process died; the message names the item.
    """
    count = min(MOST, cores()) if processes is None else processes
    if processes == 1:
        return map(function, items)
    if count < 2 or len(items) < FEWEST or not _can_fork():
        return _from_threads(function, items)
    loader = tracked_loader(
        _Calls(function, items),
        pickle.dumps,  # tensors would be passed on in shared memory, with an open file each
        num_workers=count,
        batch_size=AT_ONCE,
        worker_init_fn=init_worker,
        multiprocessing_context="fork",
    )
    return chain.from_iterable(map(pickle.loads, iter(loader)))


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    """Return whether this process may start forked ones; macOS has libraries that do not survive it."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _from_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    with ThreadPoolExecutor(min(MOST, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, items)


class _Calls(Dataset[Any], Generic[Item, Result]):
    """The results of a function, called in the process that asks for them."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function = function
        self.records = items  # which `TrackedDataset` names

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Result:
        return self.function(self.records[index])
