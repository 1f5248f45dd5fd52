"""Compare how fast training batches are made: decode, `augment=strong`, collate.

    OMP_NUM_THREADS=1 python benchmarks/feeding.py [--size 512] [--crop 512] [--augment strong] [--step]

JPEG images and PNG masks on disk; one process, one thread, whose CPU time it measures. Ours, without and with
`data.cache`, takes turns with the same transforms of torchvision v2 and of albumentations over their usual decoders
(Pillow, OpenCV), so that a busy machine slows all of them. With --step it also prints which part of a training step on
one core is spent waiting for its batch. Another `--augment` is measured for ours alone.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.builders.transform import build_transform
from finetune.config.compose import compose, to_plain_dict
from finetune.data.caching.pixel_cache import PixelCache, disk_cache, memory_cache
from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.files import ImageFile, MaskFile
from finetune.data.module import collate
from finetune.data.records import Record
from finetune.data.synthetic.drawing import CLASS_NAMES, draw
from finetune.losses import CEDice
from finetune.models import Segmenter

Load = Callable[[int, int], dict[str, Any]]  # epoch, index -> sample
COUNT = 16  # images, in batches of 8
BATCH = 8


def augment(name: str, crop: int) -> dict[str, Any]:
    """Return the settings of an option of `augment` at another crop."""
    settings: dict[str, Any] = to_plain_dict(compose(f"augment={name}"))["augment"]
    return {**settings, "crop": crop}


def write_files(folder: Path, size: int) -> list[Record]:
    """Draw images as JPEG files and masks as PNG files."""
    records = []
    for index in range(COUNT):
        image, mask = draw(size, seed=index)
        paths = folder / f"{index}.jpg", folder / f"{index}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[0], quality=90)
        Image.fromarray(mask.numpy()).save(paths[1])
        records.append(Record(str(index), ImageFile(paths[0]), MaskFile(paths[1]), "train"))
    return records


def ours(records: list[Record], settings: dict[str, Any] | None, pixels: PixelCache | None) -> Load:
    """Return our dataset's samples; settings None leaves the transform out."""
    dataset = SegmentationDataset(records, transform=None if settings is None else build_transform(settings, 255))
    dataset.pixels = pixels
    return lambda epoch, index: dict(dataset[SampleKey(epoch, index)])


def torchvision(records: list[Record], strong: dict[str, Any]) -> Load:
    """Return samples by Pillow and torchvision's transforms."""
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    color = {name: strong[name] for name in ("brightness", "contrast", "saturation", "hue")}
    bilinear = v2.InterpolationMode.BILINEAR
    transform = v2.Compose(
        [
            v2.RandomAffine(strong["rotation"], scale=strong["scale"], interpolation=bilinear, fill=fill),
            v2.RandomCrop(strong["crop"], pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(strong["flip"]),
            v2.ColorJitter(**color),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], strong["blur"]),
        ]
    )

    def load(epoch: int, index: int) -> dict[str, Any]:
        image_path, mask_path = records[index].paths
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(image_path).convert("RGB")))
        mask = tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(mask_path))[0])
        image, mask = transform(image, mask)
        return {"image": image, "mask": mask, "index": index}

    return load


def albumentations(records: list[Record], strong: dict[str, Any]) -> Load:
    """Return samples by OpenCV and the transforms of albumentations."""
    color = {name: strong[name] for name in ("brightness", "contrast", "saturation", "hue")}
    crop, turn = strong["crop"], strong["rotation"]
    transform = A.Compose(
        [
            A.Affine(scale=tuple(strong["scale"]), rotate=(-turn, turn), fill_mask=255, p=1.0),
            A.RandomCrop(crop, crop, pad_if_needed=True, fill_mask=255, p=1.0),
            A.HorizontalFlip(p=strong["flip"]),
            A.ColorJitter(**color, p=1.0),
            A.GaussianBlur(blur_limit=(5, 5), sigma_limit=(0.1, 2.0), p=strong["blur"]),
        ]
    )

    def load(epoch: int, index: int) -> dict[str, Any]:
        image_path, mask_path = records[index].paths
        image = cv2.cvtColor(cv2.imread(str(image_path)), cv2.COLOR_BGR2RGB)
        made = transform(image=image, mask=cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED))
        pixels = np.ascontiguousarray(made["image"].transpose(2, 0, 1))
        return {"image": torch.from_numpy(pixels), "mask": torch.from_numpy(made["mask"]), "index": index}

    return load


def seconds_of_epoch(load: Load, epoch: int) -> float:
    """Return the CPU seconds to make the batches of an epoch."""
    start = process_time()
    for first in range(0, COUNT, BATCH):
        collate([load(epoch, index) for index in range(first, first + BATCH)])  # type: ignore[misc]
    return process_time() - start


def training_step() -> Callable[[dict[str, Any]], None]:
    """Return a step of EfficientNet-Lite0 with a U-Net."""
    model = Segmenter("tf_efficientnet_lite0", classes=len(CLASS_NAMES), weights="none")
    model, loss = model.to(memory_format=torch.channels_last).train(), CEDice()
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: dict[str, Any]) -> None:
        value = loss(model(model.normalize(batch["image"])), batch["mask"])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def waiting_share(load: Load, rounds: int) -> float:
    """Return the part of a training step with four images that waits for its batch."""
    step, shares = training_step(), []
    for epoch in range(rounds + 1):
        start = perf_counter()
        batch = collate([load(epoch, index) for index in range(4)])  # type: ignore[misc]
        waited = perf_counter() - start
        step(dict(batch))
        shares.append(waited / (perf_counter() - start))
    return median(shares[1:])


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description="Speed of making training batches.")
    parser.add_argument("--size", type=int, default=512, help="height and width of the files, pixels")
    parser.add_argument("--crop", type=int, default=512, help="height and width of the batches, pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--augment", default="strong")
    parser.add_argument("--step", action="store_true", help="also the waiting part of a training step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        records, settings = write_files(Path(name), options.size), augment(options.augment, options.crop)
        loads = {
            "ours": ours(records, settings, None),
            "ours, data.cache=ram": ours(records, settings, memory_cache()),
            "ours, data.cache=disk": ours(records, settings, disk_cache(records, 3, Path(name) / "cache")),
            "ours, only decoding": ours(records, None, None),
            "ours, only from the cache": ours(records, None, memory_cache()),
        }
        if options.augment == "strong":
            others = {"torchvision v2": torchvision, "albumentations": albumentations}
            loads |= {name: build(records, settings) for name, build in others.items()}
        times: dict[str, list[float]] = {name: [] for name in loads}
        for epoch in range(options.rounds + 2):  # the first fills the caches, the second warms up
            for name, load in loads.items():
                times[name].append(seconds_of_epoch(load, epoch))
        kept = {name: values[2:] for name, values in times.items()}
        for name, values in kept.items():
            ratio = median(b / a for a, b in zip(values, kept["ours"], strict=True))
            print(f"{name:26s} {1000 * median(values) / COUNT:7.2f} ms an image, {ratio:5.2f} x the speed of ours")
        if options.step:
            for name in ("ours", "ours, data.cache=ram"):
                print(f"{name:26s} a step waits {waiting_share(loads[name], options.rounds):.1%} of its time")


if __name__ == "__main__":
    main()
