"""Measure what boundary, surface and object scores of a mask pair cost, on smooth random areas that agree more or less.

Prints CPU time, which other work on the machine changes less than wall-clock time.

python benchmarks/boundaries.py        # 20 s on one CPU thread
"""

from statistics import median
from time import process_time
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from finetune.metrics import image_boundaries
from finetune.metrics.image_boundaries import ImageBoundaries
from finetune.metrics.measurement import ImageBatch

CLASSES, SIZE, ROUNDS = 11, 512, 9


def scores(seed: int, smoothness: float) -> NDArray[np.float64]:
    """Return a smooth random score of each class (K, H, W)."""
    noise = np.random.default_rng(seed).standard_normal((CLASSES, SIZE, SIZE))
    smooth = np.stack([gaussian_filter(each, smoothness) for each in noise])
    return smooth / smooth.std()


def milliseconds(batch: ImageBatch) -> float:
    """Return the CPU time of measuring a batch, median of the rounds."""
    measurement, times = ImageBoundaries(1, CLASSES, ignore_index=255), []
    for _ in range(ROUNDS):
        start = process_time()
        measurement.update(batch)
        times.append((process_time() - start) * 1e3)
    return median(times)


def main() -> None:
    """Measure pairs of three qualities and noise, with and without the objects."""
    torch.set_num_threads(1)
    areas, errors = scores(0, 25), scores(1, 6)
    target = areas.argmax(0)
    pairs = {f"errors of {size}": (areas + size * errors).argmax(0) for size in (0.1, 0.3, 1.0)}
    pairs["noise"] = np.random.default_rng(2).integers(CLASSES, size=(SIZE, SIZE))
    print(f"{SIZE} x {SIZE}, {CLASSES} classes, median of {ROUNDS} rounds, CPU time of 1 thread")
    for name, prediction in pairs.items():
        tensors = (torch.from_numpy(each)[None] for each in (prediction, target))
        batch = ImageBatch(torch.tensor([0]), torch.empty(0), torch.empty(0), *tensors)
        whole = milliseconds(batch)
        with patch.multiple(image_boundaries, detections=lambda *_: 0, false_alarms=lambda *_: 0):
            without = milliseconds(batch)
        right = (prediction == target).mean()
        print(f"{name:14} {right:6.1%} right: {whole:6.1f} ms, without objects {without:6.1f} ms")


if __name__ == "__main__":
    main()
