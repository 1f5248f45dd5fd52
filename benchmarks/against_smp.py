"""Compare forward, backward and building of our models with segmentation_models_pytorch and timm.

python benchmarks/against_smp.py [--rounds 7] [--steps 3] [--threads 1]
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from finetune import Segmenter

PAIRS = (
    ("resnet18", "unet", "Unet"),
    ("resnet18", "deeplabv3plus", "DeepLabV3Plus"),
    ("tf_efficientnet_lite0", "unet", "Unet"),
    ("tf_efficientnet_lite0", "fpn", "FPN"),
    ("convnext_atto", "upernet", "UPerNet"),
    ("mobilenetv3_large_100", "linknet", "Linknet"),
    ("swin_tiny_patch4_window7_224", "segformer", "Segformer"),
)
BUILT = (
    *("resnet50", "tf_efficientnet_lite0", "convnext_tiny", "densenet121", "vit_base_patch16_224"),
    *("swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "coat_tiny", "crossvit_9_240", "hrnet_w18"),
)
SIZE, BATCH, CLASSES = 224, 4, 11


def step_time(model: nn.Module, images: torch.Tensor, steps: int) -> float:
    """Return the seconds of a forward and a backward pass."""
    start = time.perf_counter()
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        model(images).square().mean().backward()
    return (time.perf_counter() - start) / steps


def compare(backbone: str, head: str, architecture: str, rounds: int, steps: int) -> list[float]:
    """Return the ratios of our time to the time of smp, measured in turns."""
    options = {"img_size": SIZE} if "swin" in backbone else {}
    ours = Segmenter(backbone, head, CLASSES, weights="none")
    theirs = getattr(smp, architecture)(f"tu-{backbone}", encoder_weights=None, classes=CLASSES, **options)
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    for model in (ours, theirs):
        step_time(model, images, 1)
    ratios = []
    for turn in range(rounds):
        order = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        seconds = {id(model): step_time(model, images, steps) for model in order}
        ratios.append(seconds[id(ours)] / seconds[id(theirs)])
    return ratios


def build_time(build: Callable[[], object], rounds: int) -> float:
    """Return the CPU seconds to build a model, the minimum of several rounds."""
    seconds = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        build()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for backbone, head, architecture in PAIRS:
        ratios = compare(backbone, head, architecture, options.rounds, options.steps)
        ends = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{backbone} {head}: {statistics.median(ratios):.3f} of smp's time ({ends})", flush=True)
    for name in BUILT:
        plain = build_time(lambda name=name: timm.create_model(name), 3)
        ours = build_time(lambda name=name: Segmenter(name, "fpn", CLASSES, weights="none"), 3)
        print(f"{name} built: {ours / plain:.2f} of timm's {plain:.2f} s", flush=True)


if __name__ == "__main__":
    main()
