"""Kill a small training many times, resume it each time, and compare its end with an uninterrupted training.

python -m tests.end_to_end.torture FOLDER [--kills 100] [--ranks 1 2] [--workers 0 2] [--seed 0]
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file

from finetune.callbacks.metrics_csv import MEASURED
from finetune.checkpoints import rotation
from finetune.io import atomic_write
from tests import forked
from tests.samples import MODEL, clean_environment

# augmentation, dropout, an average of the weights, two unfreezes, a checkpoint after every step; the best checkpoint of
# each validation is kept, so that no later one hides the damage of a kill
OVERRIDES = (
    *MODEL,
    *("augment=strong", "augment.crop=32", "data=synthetic", "data.count=16", "data.size=32", "head.dropout=0.2"),
    *("tuning=gradual", "tuning.unfreeze_at=1", "average=ema", "trainer.max_epochs=4", "trainer.accelerator=cpu"),
    *("checkpoint.every_n_steps=1", "checkpoint.keep_best=8", "+trainer.val_check_interval=0.5", "schedule=cosine"),
    *("callbacks.preview=null", "callbacks.early_stopping.patience=9"),
)
PLACES = ("step", "validation", "time", "write", "half", "publish")
KILLED = -signal.SIGKILL


def kill() -> None:
    """End this process and its child processes at once."""
    os.killpg(0, signal.SIGKILL)


class Kill(pl.Callback):
    """Kills the training when it reaches a place for the n-th time.

    Args:
        place: `step`, before a training step; `validation`, after a validation batch; `time`, at any moment; `write`,
            before a checkpoint is synced; `half`, in the middle of a file; `publish`, before a new or an older
            checkpoint gets its name.
        count: number of the visit; tenths of a second for `time`.
    """

    def __init__(self, place: str, count: int) -> None:
        self.place = place
        self.left = count

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.place == "time":
            threading.Timer(self.left / 10, kill).start()
        elif self.place in ("write", "half"):
            self._sync, atomic_write.sync_file = atomic_write.sync_file, self._in_write
        elif self.place == "publish":
            rotation.link = self._kill_before(rotation.link)

    def on_train_batch_start(self, *_: Any) -> None:
        self._visit("step")

    def on_validation_batch_end(self, *_: Any) -> None:
        self._visit("validation")

    def _visit(self, place: str) -> None:
        self.left -= self.place == place
        if self.place == place and not self.left:
            kill()

    def _in_write(self, path: Path) -> None:
        if self.place == "half" and self.left == 1:
            os.truncate(path, path.stat().st_size // 2)
        self._visit(self.place)
        self._sync(path)

    def _kill_before(self, link: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def linked(source: Path, target: Path) -> None:
            self._visit("publish")
            link(source, target)

        return linked


def train(folder: Path, ranks: int, workers: int, *overrides: str) -> int:
    """Start or resume a training, and return its exit code."""
    devices = (f"trainer.devices={ranks}", f"data.batch_size={4 // ranks}", f"data.num_workers={workers}")
    strategy = ("trainer.strategy=ddp",) if ranks > 1 else ()
    command = ("train", *OVERRIDES, *devices, *strategy, *overrides, f"output={folder}", "resume=auto")
    logs = folder.parent / f"{folder.name}_logs"
    logs.mkdir(exist_ok=True)
    # killed loading processes leave the files there that they would have removed
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, (logs / "stdout").open("a") as log:
        environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": temporary}
        if ranks == 1:
            return forked.start(*command, cwd=folder.parent, logs=logs, **environment).wait(900)[0]
        # the further rank needs a command line to start with
        return subprocess.run(
            [sys.executable, "-m", "finetune", *command],
            env=clean_environment(**environment),
            start_new_session=True,
            stdout=log,
            stderr=log,
            timeout=900,
        ).returncode


def result(folder: Path) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
    """Return the rows of `metrics.csv` without time and memory, and the tensors of the model and of all checkpoints."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    tensors: dict[str, torch.Tensor] = dict(load_file(folder / "model" / "model.safetensors"))
    for path in (folder / "checkpoints" / "last.ckpt", *(folder / "checkpoints").glob("best*.ckpt")):
        content = torch.load(path, weights_only=True)
        tensors |= {f"{path.name} {name}": tensor for name, tensor in content["state_dict"].items()}
        best = content["callbacks"]["Checkpoint"]["best"]
        tensors[f"{path.name} best"] = torch.tensor([entry["step"] for entry in best])
    return rows, tensors


def same(one: Path, other: Path) -> bool:
    """Return whether two trainings ended with equal metrics and tensors, bit for bit."""
    (rows, tensors), (other_rows, other_tensors) = result(one), result(other)
    alike = tensors.keys() == other_tensors.keys() and all(torch.equal(t, other_tensors[n]) for n, t in tensors.items())
    return alike and rows == other_rows


def torture(folder: Path, kills: int, ranks: int, workers: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Kill trainings, each until it finishes, and compare them with an uninterrupted one.

    Yields:
        The places where a training was killed, and whether it ended with the same result.
    """
    chance = random.Random(f"{seed} {ranks} {workers}")
    uninterrupted = folder / f"uninterrupted_{ranks}_{workers}"
    assert train(uninterrupted, ranks, workers) == 0, f"see {uninterrupted}_logs"
    done = number = 0
    while done < kills:
        run, places = folder / f"run_{ranks}_{workers}_{number}", []
        code = KILLED
        while code == KILLED and done < kills:
            place, count = chance.choice(PLACES), chance.randint(1, 6)
            callback = ("+callbacks.kill._target_=tests.end_to_end.torture.Kill", f"+callbacks.kill.place={place}")
            code = train(run, ranks, workers, *callback, f"+callbacks.kill.count={count}")
            if code == KILLED:
                places.append(f"{place} {count}")
                done += 1
        if code == KILLED:
            code = train(run, ranks, workers, "+callbacks.kill=null")
        if places:
            yield ", ".join(places), code == 0 and same(run, uninterrupted)
        shutil.rmtree(run)
        number += 1


def main() -> int:
    """Kill trainings with every number of ranks and workers; return 1 if one ended with another result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = [(ranks, workers) for ranks in options.ranks for workers in options.workers]
    failed = 0
    for ranks, workers in cases:
        share = -(-options.kills // len(cases))
        for places, equal in torture(options.folder.resolve(), share, ranks, workers, options.seed):
            failed += not equal
            print(
                f"{ranks} ranks, {workers} workers, killed at {places}: {'equal' if equal else 'NOT EQUAL'}", flush=True
            )
    print(f"{failed} trainings ended with another result" if failed else "all ended as if they had never been killed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
