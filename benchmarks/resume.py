"""How long a training takes to its first step, begun anew and going on: whole processes, alternating.

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

FIRST = "+callbacks.first._target_=benchmarks.resume.First"
WORDS = ("experiment=quickstart", "data.count=8", "callbacks.preview=null", "trainer.max_epochs=2", FIRST)


class First(pl.Callback):
    """Says when the first batch begins, and ends the process there."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Say so, and leave."""
        print(f"first {time.time()}", flush=True)
        os._exit(0)


def seconds_to_first_step(*words: str) -> float:
    """From the start of the process."""
    began = time.time()
    command = [sys.executable, "-m", "finetune", "train", *words]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(told.rpartition("first ")[2]) - began


def main() -> None:
    """Alternate, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "finetune",
            "train",
            *WORDS[:-1],
            "trainer.max_epochs=1",
            f"output={folder}/run",
        ]
        subprocess.run(command, check=True, capture_output=True)
        fresh, resumed = [], []
        for number in range(options.rounds):
            fresh.append(seconds_to_first_step(*WORDS, f"output={folder}/{number}"))
            resumed.append(seconds_to_first_step(f"resume={folder}/run", "trainer.max_epochs=2", FIRST))
    anew, on = statistics.median(fresh), statistics.median(resumed)
    print(f"anew {anew:.2f} s, going on {on:.2f} s (medians of {options.rounds})")


if __name__ == "__main__":
    main()
