"""Measure how the time and memory of an evaluation grow with the number of images: 8 times as many, in turns.

A validation as in a run: our data loader, task and scores with Lightning's Trainer, on prepared synthetic images of two
sizes. Each evaluation has its own process and follows a short warm-up, because a process keeps memory that was freed.
Prints milliseconds per image, the memory in addition to that after the warm-up (on Linux, to some megabytes), and the
memory of each further image.

    python benchmarks/evaluation.py [--images 64] [--factor 8] [--rounds 5] [--size 96] [--batch 8] [--threads 2]
"""

import argparse
import gc
import logging
import multiprocessing
import time
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import Dataset

from finetune.callbacks import IoU
from finetune.data import CLASS_NAMES
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.data.synthetic.drawing import draw
from finetune.models import Segmenter
from finetune.profiling import memory
from finetune.tasks import SemanticTask

PREPARED = 16


class Repeated(Dataset[Sample]):
    """A few images of two sizes, repeated, so that reading costs nothing."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.samples = [draw((size, size - 16 * (index % 2)), index=index) for index in range(PREPARED)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.samples[index % PREPARED]
        return {"image": image, "mask": mask, "index": index}


def measure(images: int, backbone: str, size: int, batch: int, threads: int) -> tuple[float, float]:
    """Return the seconds and the additional bytes of an evaluation; NaN if the system does not report memory."""
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    task = SemanticTask(Segmenter(backbone, classes=CLASS_NAMES, weights="none"))
    for count in (2 * batch, images):
        dataset = Repeated(count, size)
        data = SegmentationData(dataset, dataset, batch_size=batch)
        gc.collect()
        held = memory.resident() if memory.reset_peak() else None
        began = time.perf_counter()
        trainer().validate(task, datamodule=data, verbose=False)
        seconds = time.perf_counter() - began
    most = memory.peak()
    return seconds, most - held if most is not None and held is not None else float("nan")


def trainer() -> pl.Trainer:
    """Return a trainer that counts and logs, but writes no files."""
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator="cpu",
        callbacks=[IoU(table=False)],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        **quiet,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"images": 64, "factor": 8, "rounds": 5, "size": 96, "batch": 8, "threads": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    settings = (options.backbone, options.size, options.batch, options.threads)
    few, many = options.images, options.factor * options.images
    times: dict[int, list[float]] = {few: [], many: []}
    tops: dict[int, list[float]] = {few: [], many: []}
    for _ in range(options.rounds):
        for count in (few, many):
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                seconds, top = fresh.apply(measure, (count, *settings))
            times[count].append(1e3 * seconds / count)
            tops[count].append(top / 1e6)
    print(f"{'images':>8} {'ms per image':>14} {'MB on top':>11}   medians of {options.rounds}")
    for count in (few, many):
        print(f"{count:8} {median(times[count]):14.2f} {median(tops[count]):11.1f}")
    ratios = [long / short for short, long in zip(times[few], times[many], strict=True)]
    further = 1e3 * (median(tops[many]) - median(tops[few])) / (many - few)
    print(
        f"{options.factor} times the images: {median(ratios):.3f} of the time per image ({min(ratios):.3f} to "
        f"{max(ratios):.3f}, pair by pair), {further:.1f} kB for each further image"
    )


if __name__ == "__main__":
    main()
