"""Compare the CPU time of a step of Mask R-CNN's head with that of torchvision's model of the same parts, in turns.

PYTHONPATH=. python benchmarks/instance_step.py [--size 128] [--images 2] [--rounds 40]
"""

import argparse
import time
from statistics import median

import torch

from finetune.models.instance_heads import MaskRCNN
from tests.instance_samples import drawn_objects
from tests.models.instance_heads.torchvision_model import their_targets, torchvision_model

STRIDES, CHANNELS = (4, 8, 16, 32), 128


def main() -> None:
    """Print milliseconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 128), ("images", 2), ("rounds", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = MaskRCNN(STRIDES, CHANNELS, 2)
    theirs = torchvision_model(head, CHANNELS, 2).train()
    targets = [objects for _, objects in drawn_objects(given.images, given.size, seed=1)]
    shapes = [(given.images, CHANNELS, given.size // stride, given.size // stride) for stride in STRIDES]
    theirs.backbone.maps = maps = [torch.randn(shape, requires_grad=True) for shape in shapes]
    images, their_objects = list(torch.zeros(given.images, 3, given.size, given.size)), their_targets(targets)
    steps = {
        "ours": lambda: head.losses(maps, targets),
        "torchvision's": lambda: theirs(images, their_objects),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(given.rounds + 1):
        for name in sorted(steps, reverse=index % 2 == 1):
            torch.manual_seed(index)
            start = time.process_time()
            torch.stack(list(steps[name]().values())).sum().backward()
            seconds[name] += [time.process_time() - start] if index else []  # the first is a warm-up
    for name, values in seconds.items():
        print(f"{name:16} {1000 * median(values):7.1f} ms")
    ours, other = (median(values) for values in seconds.values())
    print(f"ratio            {ours / other:.3f}")


if __name__ == "__main__":
    main()
