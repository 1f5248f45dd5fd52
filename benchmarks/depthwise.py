"""Time a bf16-mixed training step on a CPU with depthwise convolutions in float32, and in bfloat16 as in Lightning.

python benchmarks/depthwise.py [--threads 1] [--rounds 7] [--backbones tf_efficientnet_lite0 ...]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lightning.pytorch.plugins import MixedPrecision

from finetune import Segmenter
from finetune.engine.precision import CPUMixedPrecision
from finetune.losses import CEDice

BACKBONES = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_atto", "resnet18")


def step(model: Segmenter, precision: MixedPrecision) -> Callable[[], float]:
    """Return a function that runs a step on four images of 160 x 160 pixels and returns its seconds."""
    images = torch.randint(0, 256, (4, 3, 160, 160), dtype=torch.uint8)
    masks = torch.randint(0, 11, (4, 160, 160), dtype=torch.uint8)
    criterion = CEDice(ignore_index=255)

    def timed() -> float:
        precision.convert_module(model)
        start = time.perf_counter()
        with precision.forward_context():
            loss = criterion(model(model.normalize(images)), masks)
        loss.backward()
        seconds = time.perf_counter() - start
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
        ours, plain = step(model, CPUMixedPrecision()), step(model, MixedPrecision("bf16-mixed", "cpu"))
        ours(), plain()
        pairs = [(ours(), plain()) for _ in range(options.rounds)]
        ratios = [one / other for one, other in pairs]
        milliseconds = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"{name}: {statistics.median(ratios):.3f} (median of {len(pairs)} pairs, {min(ratios):.3f} to "
            f"{max(ratios):.3f}; {milliseconds[0]:.0f} ms against {milliseconds[1]:.0f} ms)"
        )


if __name__ == "__main__":
    main()
