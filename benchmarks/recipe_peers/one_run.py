"""One run of a recipe on a data set, in a process of its own."""

import random
import resource
import time
from pathlib import Path
from typing import Any

import torch

from recipe_peers import ours
from recipe_peers.datasets import load, overrides
from recipe_peers.fastai_fine_tune import FastaiFineTune
from recipe_peers.loop import Peer, train
from recipe_peers.nnunet_rules import NnunetMirrored, NnunetRules
from recipe_peers.plain import Plain
from recipe_peers.smp_example import SmpExample
from recipe_peers.torchgeo_task import TorchgeoTask

PEERS: dict[str, type[Peer]] = {
    "plain": Plain,
    "smp": SmpExample,
    "fastai": FastaiFineTune,
    "torchgeo": TorchgeoTask,
    "nnunet": NnunetRules,
    "nnunet+mirror": NnunetMirrored,
}


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Train and test, and return the columns of the table.

    Args:
        job: recipe, overrides (null for those of `PEERS`), set, seed, data, output, seconds, threads,
            precision and fixed_length.
    """
    torch.set_num_threads(job["threads"])
    name, output, data = f"{job['set']}_{job['recipe']}", Path(job["output"]), Path(job["data"])
    if job["overrides"] is None:
        torch.manual_seed(job["seed"])
        random.seed(job["seed"])
        row = _peer(PEERS[job["recipe"]](load(job["set"], data), job["precision"]), job["seconds"])
    else:
        common = ("trainer.accelerator=cpu", f"trainer.precision={job['precision']}", f"seed={job['seed']}")
        same_data = overrides(job["set"], data, output / "splits" / f"{job['set']}.csv")
        probe = output / "lengths" / f"{name}_{job['seconds']:g}_{job['threads']}_{job['precision']}.json"
        folder = output / "runs" / f"{name}_{job['seed']}"
        row = ours.run((*same_data, *common, *job["overrides"]), job["seconds"], folder, probe, job["fixed_length"])
    return {**row, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000}


def _peer(peer: Peer, seconds: float) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    steps = train(peer, seconds)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    scores = {split: peer.score(split) for split in ("test", "val")}
    return {**scores, "cpu_seconds": cpu, "wall_seconds": wall, "steps": steps}
