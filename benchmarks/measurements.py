"""Compare the CPU time of an evaluation with that of its model alone, step by step: scores, overlaps, probabilities.

One image at a time, random weights and labels; the steps are measured in turns, and the fourth lowest of each counts,
as other work on the machine only adds to it.

    python benchmarks/measurements.py [--height 360] [--width 480] [--classes 11] [--rounds 30] [--threads 1]
"""

import argparse
import time
from collections.abc import Callable

import torch

from finetune.metrics.calibration import Confidences
from finetune.metrics.image_statistics import ImageStatistics
from finetune.metrics.measurement import Measurement
from finetune.metrics.overlaps import ImageOverlaps
from finetune.models import Segmenter
from finetune.tasks import SemanticTask

IGNORED = 255
LOWEST = 3  # index of the time that counts


def main() -> None:
    """Print milliseconds, and the ratio to the model alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("height", 360), ("width", 480), ("classes", 11), ("rounds", 30), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    size = (1, given.height, given.width)
    group = {
        "image": torch.randint(0, 256, (1, 3, *size[1:]), dtype=torch.uint8),
        "mask": torch.randint(0, given.classes, size, dtype=torch.uint8),
        "index": torch.tensor([0]),
    }
    task = SemanticTask(Segmenter(classes=given.classes, weights="none"), ignore_index=IGNORED).eval()
    task.evaluates_loss = False  # as in `finetune evaluate`

    def alone() -> None:
        task.model(task.model.normalize(group["image"]))

    def evaluation(*measurements: Callable[[], Measurement]) -> Callable[[], None]:
        def step() -> None:
            task.measurements = {str(index): make() for index, make in enumerate(measurements)}
            task.evaluate([group])

        return step

    def overlaps() -> Measurement:
        return ImageOverlaps(1, given.classes, IGNORED)

    def confidences() -> Measurement:
        return Confidences(1, IGNORED)

    def statistics() -> Measurement:
        return ImageStatistics(1, IGNORED)

    steps = {
        "the model alone": alone,
        "and scores": evaluation(),
        "and overlaps of each image": evaluation(overlaps),
        "and calibration": evaluation(overlaps, confidences),
        "and statistics of each image": evaluation(overlaps, confidences, statistics),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with torch.inference_mode():
        for _ in range(given.rounds):
            for name, step in steps.items():
                start = time.process_time()
                step()
                seconds[name].append(time.process_time() - start)
    lowest = {name: sorted(values)[min(LOWEST, given.rounds - 1)] for name, values in seconds.items()}
    for name, value in lowest.items():
        print(f"{name:30} {1000 * value:7.1f} ms  {value / lowest['the model alone']:.3f}")


if __name__ == "__main__":
    main()
