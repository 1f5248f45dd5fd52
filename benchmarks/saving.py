"""Measure the cost of checkpoints: how long a training waits for them, and the work of the thread that writes them.

The quickstart's model on its synthetic images, with default settings: a checkpoint after each epoch.

    python benchmarks/saving.py [--epochs 3] [--count 200]
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from typing import Any

import finetune
from finetune.callbacks import Checkpoint
from finetune.checkpoints import checkpoint_io


class Clock:
    """Sums the wall-clock time and the CPU time of all calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.wall = self.work = 0.0
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function and add its time."""
        wall, work = time.perf_counter(), time.thread_time()
        try:
            return self.function(*arguments, **named)
        finally:
            self.wall += time.perf_counter() - wall
            self.work += time.thread_time() - work
            self.calls += 1


def main() -> None:
    """Train, and print the cost of saving."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    saving, writing = Clock(Checkpoint.save), Clock(checkpoint_io.write)
    Checkpoint.save = lambda self, *rest, **named: saving(self, *rest, **named)  # type: ignore[method-assign]
    checkpoint_io.write = writing
    with tempfile.TemporaryDirectory() as folder:
        run = finetune.train(
            *("experiment=quickstart", f"data.count={options.count}", f"trainer.max_epochs={options.epochs}"),
            f"output={folder}/run",
        )
        size = (run.folder / "checkpoints" / "last.ckpt").stat().st_size
        with (run.folder / "metrics.csv").open() as file:
            seconds = sum(float(row["seconds"]) for row in csv.DictReader(file))
    print(f"{saving.calls} checkpoints of {size / 1e6:.0f} MB in {seconds:.1f} s of {options.epochs} epochs")
    print(f"the training waited {saving.wall:.3f} s: {saving.wall / seconds:.2%}")
    share = writing.work / seconds
    print(f"writing took {writing.wall:.3f} s in another thread, {writing.work:.3f} s of a core: {share:.2%}")


if __name__ == "__main__":
    main()
