"""What checkpoints cost a training: how long it waits for them, and how much the thread that writes them works.

The quickstart's model on its synthetic images, with the settings that ship: a checkpoint after every epoch.

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
from finetune.checkpoints import checkpoint_io as storage


class Clock:
    """Adds up how long calls of a function take, by the wall and by the processor."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.wall = self.work = 0.0
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it."""
        wall, work = time.perf_counter(), time.thread_time()
        try:
            return self.function(*arguments, **named)
        finally:
            self.wall += time.perf_counter() - wall
            self.work += time.thread_time() - work
            self.calls += 1


def main() -> None:
    """Train, and print what saving took of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    saving, writing = Clock(Checkpoint.save), Clock(storage.write)
    Checkpoint.save = lambda self, *rest, **named: saving(self, *rest, **named)  # type: ignore[method-assign]
    storage.write = writing
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
    print(f"writing took {writing.wall:.3f} s beside it, {writing.work:.3f} s of a core: {writing.work / seconds:.2%}")


if __name__ == "__main__":
    main()
