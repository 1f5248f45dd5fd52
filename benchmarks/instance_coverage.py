"""Try a head that predicts objects on the smallest model of every family of timm, and print a table.

Each model is built without weights, trained for one step on two images of which one has no object, and asked for
objects. All parameters but those that the backbone names as unused must get a gradient.

    PYTHONPATH=. python benchmarks/instance_coverage.py mask_rcnn [--crop 128] [--families resnet convnext]
"""

import argparse
import gc
import logging
import time
import warnings
from itertools import groupby

import torch

from finetune.catalog.backbones import entries
from finetune.instances import objects_of
from finetune.models.input_size import NATIVE_SIZE_FAMILIES, family
from finetune.models.instance_segmenter import InstanceSegmenter

CLASSES = 3


def smallest(limit: int) -> dict[str, str]:
    """Return the name of the smallest model of each family, without models of more than `limit` parameters."""
    small = sorted(
        (e for e in entries() if e.strides and e.parameters <= limit), key=lambda e: (e.family, e.parameters)
    )
    return {key: next(members).name for key, members in groupby(small, key=lambda entry: entry.family)}


def failure(name: str, head: str, crop: int) -> str:
    """Return why a head does not work on a model; empty if it does."""
    size = None if family(name) in NATIVE_SIZE_FAMILIES else (crop, crop)
    torch.manual_seed(0)
    try:
        model = InstanceSegmenter(name, head, CLASSES, weights="none", image_size=size)
        masks = torch.zeros(3, crop, crop, dtype=torch.bool)
        for index, mask in enumerate(masks):
            mask[10 * index : 60 + 10 * index, 20 * index : 50 + 20 * index] = True
        objects = objects_of(masks, torch.arange(3))
        losses = model.losses(torch.randn(2, 3, crop, crop), [objects, objects[torch.zeros(0, dtype=torch.int64)]])
        torch.stack(list(losses.values())).sum().backward()
        missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        with torch.inference_mode():
            found = model.eval()(torch.randn(2, 3, crop - 7, crop))
    except Exception as error:  # of any type: the table reports it
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    if missing != model.unused_parameters():
        return f"gradients missing or unexpected: {sorted(missing ^ model.unused_parameters())[:3]}"
    if wrong := [key for key, loss in losses.items() if not loss.isfinite()]:
        return f"not finite: {', '.join(wrong)}"
    return "" if all(objects.size == (crop - 7, crop) for objects in found) else "masks of another size"


def main() -> None:
    """Try the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head")
    parser.add_argument("--crop", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--largest", type=int, default=150, help="millions of parameters of the largest model")
    parser.add_argument("--families", nargs="*", help="all if left out")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    failed = 0
    models = {
        key: name
        for key, name in smallest(options.largest * 10**6).items()
        if not options.families or key in options.families
    }
    for key, name in models.items():
        start = time.process_time()
        why = failure(name, options.head, options.crop)
        failed += bool(why)
        print(f"{key:28} {name:36} {time.process_time() - start:5.1f} s  {why or 'passes'}", flush=True)
        gc.collect()
    print(f"{len(models) - failed} of {len(models)} families pass")


if __name__ == "__main__":
    main()
