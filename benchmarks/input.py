"""Compare the speed of the training transform with torchvision doing the same job.

    python benchmarks/input.py [--source 768] [--crop 512] [--repeats 60] [--parts]

One process, one thread, synthetic images; the two take turns, so that a busy machine slows both. Prints milliseconds
per image (median) and the ratio.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.data.augmentation.transforms import Augment
from finetune.data.synthetic.drawing import draw

GEOMETRY: dict[str, Any] = {"scale": (0.5, 2.0), "flip": 0.5, "rotation": 10.0}
COLOR: dict[str, Any] = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}
BLUR: dict[str, Any] = {"blur": 0.5, "blur_sigma": (0.1, 2.0)}
NOTHING: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0}
EVERY_IMAGE: dict[str, float] = {
    **{"perspective": 0.1, "elastic": 10.0, "grid_distortion": 0.3, "class_crop": 1.0},
    **{"equalize": 1.0, "clahe": 1.0, "gamma": 0.4, "sharpen": 1.0, "noise": 0.05, "jpeg": 1.0, "cutout": 1.0},
}


def torchvision_transform(crop: int) -> v2.Transform:
    """Return the same transform built from torchvision."""
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    return v2.Compose(
        [
            v2.RandomAffine(
                degrees=GEOMETRY["rotation"],
                scale=GEOMETRY["scale"],
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=fill,
            ),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(GEOMETRY["flip"]),
            v2.ColorJitter(**COLOR),
            v2.RandomApply([v2.GaussianBlur(5, BLUR["blur_sigma"])], BLUR["blur"]),
        ]
    )


def take_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each call, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 3):  # the first three warm up
        for name, call in calls.items():
            start = perf_counter()
            call()
            if turn >= 3:
                times[name].append(1000 * (perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def augment_call(image: Tensor, mask: Tensor, **arguments: Any) -> Callable[[], object]:
    """Return a function that calls `Augment` with new random numbers."""
    augment = Augment(**arguments)
    generator = torch.Generator().manual_seed(0)
    return lambda: augment(image, mask, generator)


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description="Speed of the training transform.")
    parser.add_argument("--source", type=int, default=768, help="height and width of the source, pixels")
    parser.add_argument("--crop", type=int, default=512, help="height and width of the crop, pixels")
    parser.add_argument("--repeats", type=int, default=60, help="timed turns")
    parser.add_argument("--parts", action="store_true", help="also time the transform part by part")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image, mask = draw(options.source, seed=0)
    wrapped = tv_tensors.Image(image), tv_tensors.Mask(mask)
    theirs = torchvision_transform(options.crop)
    whole = GEOMETRY | COLOR | BLUR
    times = take_turns(
        {
            "finetune": augment_call(image, mask, crop=options.crop, **whole),
            "torchvision": lambda: theirs(*wrapped),
        },
        options.repeats,
    )
    print(f"source {options.source}, crop {options.crop}, one thread, median of {options.repeats}")
    for name, value in times.items():
        print(f"{name:24s} {value:7.2f} ms")
    print(f"{'ratio':24s} {times['torchvision'] / times['finetune']:7.1f} x")
    if options.parts:
        parts = {
            "crop only": NOTHING,
            "scale, flip": GEOMETRY | {"rotation": 0.0},
            "scale, flip, rotation": GEOMETRY,
            "color": NOTHING | COLOR,
            "blur (every image)": NOTHING | BLUR | {"blur": 1.0},
            **{f"{name}, every image": NOTHING | {name: value} for name, value in EVERY_IMAGE.items()},
        }
        calls = {name: augment_call(image, mask, crop=options.crop, **part) for name, part in parts.items()}
        for name, value in take_turns(calls, options.repeats).items():
            print(f"  {name:28s} {value:7.2f} ms")


if __name__ == "__main__":
    main()
