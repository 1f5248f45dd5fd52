"""The first rank, and what only it does: log, and decide for ranks that torchrun or SLURM started with it."""

import itertools
import json
import logging
import os
from collections.abc import Callable
from functools import cache

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

_count = itertools.count()


def is_first_process() -> bool:
    """Return whether this is rank 0 of all processes, whether Lightning, torchrun or SLURM started them."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # set on the function
    return rank == 0


def rank_zero_logger(name: str) -> logging.Logger:
    """Return the logger of this name, silent on all ranks but the first.

    Lightning's `rank_zero_info` and `rank_zero_warn` use Lightning's own logger and `warnings`, which commands silence.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_is_from_first_process)
    return logger


def _is_from_first_process(record: logging.LogRecord) -> bool:
    return is_first_process()


def broadcast_from_rank_zero(answer: Callable[[], str | None]) -> str | None:
    """Return rank 0's answer on all ranks. Collective: every rank must call it the same number of times.

    It works before there is a process group. Ranks that Lightning starts get everything by their command line, so in
    them, and in a single process, the answer is their own.

    Raises:
        RuntimeError: rank 0 failed to answer, or did not start; raised on the other ranks.
    """
    if (store := _store()) is None:
        return answer()
    key = f"finetune {next(_count)}"
    if is_first_process():
        return _publish(store, key, answer)
    try:
        reply = json.loads(store.get(key))
    except RuntimeError as error:
        raise RuntimeError(f"rank 0 has not answered; its own message has the reason: {error}") from error
    if "error" in reply:
        raise RuntimeError(f"rank 0 failed: {reply['error']}")
    value: str | None = reply["answer"]
    return value


def _publish(store: Store, key: str, answer: Callable[[], str | None]) -> str | None:
    try:
        value = answer()
    except BaseException as error:  # the others would wait for half an hour
        store.set(key, json.dumps({"error": str(error)}))
        raise
    store.set(key, json.dumps({"answer": value}))
    return value


@cache  # rank 0 may host the store, and must keep it until the others have connected
def _store() -> Store | None:
    """Return the store that ranks started by torchrun or SLURM share before they are a group; None for one process."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):  # set by torchrun
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and SLURMEnvironment.detect():
        slurm = SLURMEnvironment()  # the address that Lightning will use for the process group
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
        rank, size = slurm.global_rank(), slurm.world_size()
    else:
        return None
    if size == 1:
        return None
    store: Store = next(rendezvous("env://", rank, size))[0]
    return store
