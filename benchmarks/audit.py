"""Measure an audit of a folder, with nothing in the cache of files.

    python benchmarks/audit.py FOLDER [--rounds 3] [--workers auto]

Prints images a second and CPU milliseconds an image, all processes together: of the whole command without its imports,
and of reading and measuring alone, which is once for the values of the masks and once for everything. Best of the
rounds.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune.builders.inspection import reading_processes
from finetune.builders.readable_data import readable_data
from finetune.commands.audit import audit
from finetune.config.compose import load_config
from finetune.data.audit import examine_all


def cost(action: Callable[[], int]) -> tuple[float, float]:
    """Return the seconds and the CPU seconds an image of an action that returns the number of images."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    images = action()
    return (time.perf_counter() - wall) / images, (cpu_seconds() - cpu) / images


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def read(settings: tuple[str, ...]) -> int:
    """Read and measure all images, and return their number."""
    found = readable_data(load_config(settings, "audit"))
    processes = reading_processes(found.settings)
    return len(list(examine_all(found.records, found.source.ignore_index, processes=processes)))


def main() -> None:
    """Print a line for the whole command and one for reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="auto")
    options = parser.parse_args()
    costs: dict[str, list[tuple[float, float]]] = {"command": [], "reading": []}
    for _ in range(options.rounds):
        with TemporaryDirectory() as folder:
            settings = (f"data.root={options.folder.absolute()}", f"data.num_workers={options.workers}")
            os.environ["FINETUNE_CACHE"] = f"{folder}/command"
            costs["command"].append(cost(lambda: audit(*settings, f"output={folder}/audit").images))  # noqa: B023
            os.environ["FINETUNE_CACHE"] = f"{folder}/reading"
            costs["reading"].append(cost(lambda: read(settings)))  # noqa: B023
    for name, measured in costs.items():
        wall, cpu = (min(values) for values in zip(*measured, strict=True))
        print(f"{name}: {1 / wall:.0f} images a second, {1000 * cpu:.1f} ms of CPU an image")


if __name__ == "__main__":
    main()
