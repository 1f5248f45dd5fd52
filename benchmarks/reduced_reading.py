"""Compare how long an image takes to be read at a fraction of its size.

    OMP_NUM_THREADS=1 python benchmarks/reduced_reading.py PHOTO [--repeats 5]

Prints, for each factor, the CPU seconds of reading the file at that size, and of reading it whole and taking the mean
of each block, and how far the pixels are apart.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor

from finetune.data.files import ImageFile
from finetune.data.reduction import FACTORS, reduce_image


def seconds_of(read: Callable[[], Tensor], repeats: int) -> float:
    """Return the median CPU seconds of a call."""
    times = []
    for _ in range(repeats):
        start = process_time()
        read()
        times.append(process_time() - start)
    return median(times)


def read_and_reduce(file: ImageFile, factor: int) -> Tensor:
    """Return the means of the blocks of an image that is read whole."""
    return reduce_image(file.read(), factor)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Speed of reading an image at a reduced size.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = ImageFile(options.photo)
    print("factor  size         reduced      whole        mean difference (of 255)")
    for factor in FACTORS:
        small = file.read_reduced(factor)
        apart = float((small.float() - read_and_reduce(file, factor)).abs().mean())
        times = [
            seconds_of(partial(file.read_reduced, factor), options.repeats),
            seconds_of(partial(read_and_reduce, file, factor), options.repeats),
        ]
        print(f"{factor}       {small.shape[2]} x {small.shape[1]}  {times[0]:9.3f} s  {times[1]:9.3f} s  {apart:9.2f}")


if __name__ == "__main__":
    main()
