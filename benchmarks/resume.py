"""Measure the time to the first step of a new and of a resumed training: full processes, in turns.

The quickstart's model on its synthetic images.

    PYTHONPATH=. python benchmarks/resume.py [--rounds 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import lightning.pytorch as pl

FIRST = "+callbacks.first._target_=benchmarks.resume.PrintFirstStep"
OVERRIDES = ("experiment=quickstart", "data.count=8", "callbacks.preview=null", "trainer.max_epochs=2", FIRST)


class PrintFirstStep(pl.Callback):
    """Prints the time at the first batch, and ends the process."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Print the time and exit."""
        print(f"first {time.time()}", flush=True)
        os._exit(0)


def seconds_to_first_step(*overrides: str) -> float:
    """Return the seconds from the start of the process to its first batch."""
    start = time.time()
    command = [sys.executable, "-m", "finetune", "train", *overrides]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.rpartition("first ")[2]) - start


def main() -> None:
    """Measure both in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "finetune",
            "train",
            *OVERRIDES[:-1],
            "trainer.max_epochs=1",
            f"output={folder}/run",
        ]
        subprocess.run(command, check=True, capture_output=True)
        fresh, resumed = [], []
        for number in range(options.rounds):
            fresh.append(seconds_to_first_step(*OVERRIDES, f"output={folder}/{number}"))
            resumed.append(seconds_to_first_step(f"resume={folder}/run", "trainer.max_epochs=2", FIRST))
    new, continued = statistics.median(fresh), statistics.median(resumed)
    print(f"new {new:.2f} s, resumed {continued:.2f} s (medians of {options.rounds})")


if __name__ == "__main__":
    main()
