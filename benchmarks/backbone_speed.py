"""Measure the backbones of a table under a U-Net, of which `finetune list backbones for=cpu|laptop|gpu` suggests some.

A row starts as `name,tag,pixels,top1,,,,`: a backbone, its first weights in timm, and their accuracy on ImageNet from
`results/results-imagenet.csv` of timm's repository, at the smallest image size there. The script fills in the others,
for one image and a model with random weights in float32: `gmacs` of a forward pass, `megabytes` that it keeps for the
backward pass, and `inference_ms` and `step_ms` of CPU time. A step is forward, CE and Dice, backward and AdamW. The
least of some goes counts, as other work on the machine only adds to it. Complete rows are left alone; with --again they
are measured once more, and the lower times are kept.

    python benchmarks/backbone_speed.py TABLE [--again] [--size 224] [--batch 2] [--threads 1] [--repeats 3]
"""

import argparse
import csv
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch

from finetune.losses import CEDice
from finetune.models import Segmenter
from finetune.profiling.cost import estimate

CLASSES = 11


def measured(name: str, size: int, batch: int, repeats: int) -> dict[str, str]:
    """Return the measured columns of a backbone."""
    torch.manual_seed(0)
    model = Segmenter(name, classes=CLASSES, weights="none").to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    masks = torch.randint(0, CLASSES, (batch, size, size), dtype=torch.uint8)
    cost = estimate(model.train(), (1, 3, size, size), [key for key, _ in model.named_parameters()])
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-3), CEDice()

    def step() -> None:
        optimizer.zero_grad()
        loss(model(images), masks).backward()
        optimizer.step()

    training = least(step, repeats)
    model.eval()
    with torch.inference_mode():
        inference = least(lambda: model(images), repeats)
    return {
        "gmacs": f"{cost.forward_flops / 2e9:.2f}",
        "megabytes": f"{cost.activations / 1e6:.0f}",
        "inference_ms": f"{inference / batch * 1e3:.0f}",
        "step_ms": f"{training / batch * 1e3:.0f}",
    }


def least(run: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of CPU time of a function, after one run that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Fill in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    for name, default in (("size", 224), ("batch", 2), ("threads", 1), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = list(csv.DictReader(options.table.open()))
    for row in rows:
        if row["step_ms"] and not options.again:
            continue
        new = measured(row["name"], options.size, options.batch, options.repeats)
        row |= new | {key: min(new[key], row[key] or new[key], key=float) for key in ("inference_ms", "step_ms")}
        gc.collect()
        print(*row.values(), flush=True)
        with options.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
