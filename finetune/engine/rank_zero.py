"""What the first process of a training has found, told to those that srun or torchrun started beside it."""

import itertools
import json
import os
from collections.abc import Callable
from functools import cache

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

_count = itertools.count()


def broadcast_from_rank_zero(answer: Callable[[], str | None]) -> str | None:
    """What the first process answers; the others wait for it. All of them ask equally often.

    Processes that Lightning starts are told everything by their command, and answer for themselves.

    Raises:
        RuntimeError: the first process had no answer, or did not come.
    """
    if (store := _store()) is None:
        return answer()
    key = f"finetune {next(_count)}"
    if is_first_process():
        return _publish(store, key, answer)
    try:
        told = json.loads(store.get(key))
    except RuntimeError as error:
        raise RuntimeError(f"the first process has not answered; what it says itself is the reason: {error}") from error
    if "error" in told:
        raise RuntimeError(f"the first process found: {told['error']}")
    found: str | None = told["answer"]
    return found


def _publish(store: Store, key: str, answer: Callable[[], str | None]) -> str | None:
    try:
        found = answer()
    except BaseException as error:  # the others would wait for half an hour
        store.set(key, json.dumps({"error": str(error)}))
        raise
    store.set(key, json.dumps({"answer": found}))
    return found


@cache  # the first process may be the one that keeps it, for as long as others come
def _store() -> Store | None:
    """Where processes that were started from outside meet before they are a group; None for one that is alone."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):  # as torchrun has it
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and SLURMEnvironment.detect():
        slurm = SLURMEnvironment()  # which has the place where Lightning will let them meet later
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
        rank, size = slurm.global_rank(), slurm.world_size()
    else:
        return None
    if size == 1:
        return None
    store: Store = next(rendezvous("env://", rank, size))[0]
    return store


def is_first_process() -> bool:
    """Whether this is rank 0 of all processes, by whoever started them: Lightning, torchrun or SLURM."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # set on the function
    return rank == 0
