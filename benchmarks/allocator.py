"""Compare a training step on the CPU with and without `keep_memory`, in turns, each in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/allocator.py [--rounds 7] [--steps 10]

EfficientNet-Lite0 with a U-Net, 4 images of 320 x 320. Prints the median CPU time of a step and the peak memory of each
process, and the median of the ratios.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from time import process_time

from finetune.io.allocator import keep_memory


def measure(steps: int) -> None:
    """Print the seconds of a step, and megabytes."""
    import torch

    from finetune.losses import CEDice
    from finetune.models import Segmenter

    model = Segmenter("tf_efficientnet_lite0", classes=4, weights="none").train()
    model, loss = model.to(memory_format=torch.channels_last), CEDice()
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randint(256, (4, 3, 320, 320), dtype=torch.uint8)
    masks = torch.randint(4, (4, 320, 320), dtype=torch.uint8)
    times = []
    for _ in range(steps + 2):
        start = process_time()
        optimizer.zero_grad()
        loss(model(model.normalize(images)), masks).backward()
        optimizer.step()
        times.append(process_time() - start)
    print(statistics.median(times[2:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description="Speed of a step with and without keep_memory.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--one", choices=("kept", "given back"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.one == "kept":
            keep_memory()
        return measure(options.steps)
    ratios = []
    for _ in range(options.rounds):
        seconds = {}
        for name in ("kept", "given back"):
            command = [sys.executable, __file__, "--one", name, "--steps", str(options.steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds[name], megabytes = map(float, done.stdout.split())
            print(f"memory is {name:12s} {1000 * seconds[name]:7.0f} ms a step {megabytes:7.0f} MB", flush=True)
        ratios.append(seconds["kept"] / seconds["given back"])
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
