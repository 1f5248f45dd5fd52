"""Time a training step on a CPU in bf16-mixed with depthwise convolutions in float32.

It is compared with one in bf16-mixed as in Lightning, and with one in float32.

python benchmarks/depthwise.py [--threads 1] [--rounds 7] [--backbones tf_efficientnet_lite0 ...]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision

from finetune import Segmenter
from finetune.engine.precision import CPUMixedPrecision
from finetune.losses import CEDice

BACKBONES = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_atto", "resnet18")


def step(model: Segmenter, precision: Precision) -> Callable[[], float]:
    """Return a function that runs a step on four images of 160 x 160 pixels and returns its seconds of CPU time."""
    images = torch.randint(0, 256, (4, 3, 160, 160), dtype=torch.uint8)
    masks = torch.randint(0, 11, (4, 160, 160), dtype=torch.uint8)
    criterion = CEDice(ignore_index=255)

    def timed() -> float:
        precision.convert_module(model)
        start = time.process_time()
        with precision.forward_context():
            loss = criterion(model(model.normalize(images)), masks)
        loss.backward()
        seconds = time.process_time() - start  # other work beside it does not count
        precision.teardown()
        return seconds

    return timed


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.backbones:
        model = Segmenter(name, "unet", 11, weights="none").to(memory_format=torch.channels_last)
        ours = step(model, CPUMixedPrecision())
        for other, precision in (("Lightning's", MixedPrecision("bf16-mixed", "cpu")), ("float32", Precision())):
            print(f"{name} over {other}: {compared(ours, step(model, precision), options.rounds)}")


def compared(one: Callable[[], float], other: Callable[[], float], rounds: int) -> str:
    """Return the ratio of two steps that are timed in turns, and their times."""
    one(), other()
    pairs = [(one(), other()) for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in pairs]
    first, second = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    spread = f"median of {rounds} pairs, {min(ratios):.3f} to {max(ratios):.3f}"
    return f"{statistics.median(ratios):.3f} ({spread}; {first:.0f} ms against {second:.0f} ms)"


if __name__ == "__main__":
    main()
