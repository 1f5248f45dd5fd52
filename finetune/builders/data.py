"""The data that a config speaks of, as datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from finetune import data as data_package
from finetune.config.options import Config, validate_options
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.data.records import DataError, Record
from finetune.data.statistics import Statistics
from finetune.models.classes import class_names

SPLITS = ("train", "val", "test", "all")


@dataclass
class DatasetBundle:
    """What a run learns from.

    Attributes:
        classes: their names.
        ignore_index: label of pixels that count for nothing.
        datasets: by split.
        records: of all splits, for `splits.csv`; empty for synthetic images.
        statistics: by split; empty for synthetic images.
    """

    classes: tuple[str, ...]
    ignore_index: int
    datasets: dict[str, torch.utils.data.Dataset[Sample]]
    records: list[Record] = field(default_factory=list)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        return {split: len(dataset) for split, dataset in self.datasets.items()}  # type: ignore[arg-type]  # sized

    def describe(self) -> str:
        """Such as `367 train, 101 val and 233 test images, 11 classes`."""
        counts = [f"{count:,} {split}" for split, count in self.sizes().items()]
        images = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else counts[0]
        return f"{images} images, {len(self.classes)} classes: {', '.join(self.classes)}"


def training_data(config: Config) -> DatasetBundle:
    """The three datasets of a training; `train` is augmented."""
    settings, seed, channels = config["data"], config["seed"], config["backbone"]["in_channels"]
    transform = build_augmentation(config["augment"], settings["ignore_index"])
    if settings["format"] == "synthetic":
        return synthetic_data(settings, seed, transform)
    records = split_records(settings, seed)
    return folder_data(settings, records, channels, seed, transform)


def synthetic_data(settings: Config, seed: int, transform: data_package.Transform | None = None) -> DatasetBundle:
    """Pictures drawn on the fly; validation and test have a quarter as many each."""
    count, size, ignore = settings["count"], settings["size"], settings["ignore_index"]
    counts = {"train": count, "val": max(1, count // 4), "test": max(1, count // 4)}
    datasets: dict[str, torch.utils.data.Dataset[Sample]] = {
        split: data_package.SyntheticDataset(n, size, seed, split, transform if split == "train" else None, ignore)
        for split, n in counts.items()
    }
    return DatasetBundle(data_package.CLASS_NAMES, ignore, datasets)


def split_records(settings: Config, seed: int) -> list[Record]:
    """Images and masks of a folder, each in its split: that of a file, the folder's own, or a seeded one."""
    records = found_records(settings)
    if settings["splits"]:
        return assign_split_file(records, settings["splits"])
    if all(record.split for record in records):
        return records
    names = [record.name for record in records]
    return data_package.assign_splits(
        records, data_package.seeded_split(names, settings["val"], settings["test"], seed)
    )


def found_records(settings: Config) -> list[Record]:
    """Images and masks of a folder; their split is empty where the folder has none."""
    if not settings["root"]:
        raise DataError("data.root is not set. Set it to a folder with images/ and masks/, or use data=synthetic.")
    return data_package.folder_records(Path(settings["root"]), settings["mask_suffix"])


def assign_split_file(records: Sequence[Record], path: str) -> list[Record]:
    """The records in the splits of a `splits.csv`."""
    return data_package.assign_splits(records, data_package.read_splits(Path(path)))


def folder_data(
    settings: Config,
    records: Sequence[Record],
    channels: int,
    seed: int,
    transform: data_package.Transform | None = None,
) -> DatasetBundle:
    """Datasets of the records by split, every file looked at once."""
    ignore, values = settings["ignore_index"], settings["mask_values"]
    if settings["classes"] is None:
        raise DataError(_classes_hint(records, ignore, values, channels))
    classes = class_names(settings["classes"])
    statistics = data_package.inspect(records, len(classes), ignore, values, channels)
    datasets: dict[str, torch.utils.data.Dataset[Sample]] = {}
    for split in dict.fromkeys(record.split for record in sorted(records, key=lambda r: SPLITS.index(r.split))):
        chosen = [record for record in records if record.split == split]
        change = transform if split == "train" else None
        datasets[split] = data_package.SegmentationDataset(chosen, channels, ignore, values, change, seed)
    return DatasetBundle(classes, ignore, datasets, list(records), statistics)


def _classes_hint(records: Sequence[Record], ignore: int, values: Sequence[int] | None, channels: int) -> str:
    statistics = data_package.inspect(records, 255, ignore, values, channels)
    pixels = torch.stack([found.pixels for found in statistics.values()]).sum(dim=0)
    labels = pixels.nonzero().flatten().tolist()
    return (
        f"data.classes is not set. The masks hold the labels {', '.join(map(str, labels))}. Set data.classes to how "
        f"many classes there are, or to their names as [background,thing,...]; a label that is not to be learnt goes "
        f"to data.ignore_index."
    )


def build_augmentation(settings: Config, ignore_index: int) -> data_package.Augment:
    """The training transform."""
    checked = validate_options("augment", data_package.Augment, settings)
    return data_package.Augment(**checked, ignore_index=ignore_index)


def loss_weights(rule: str, data: DatasetBundle) -> torch.Tensor | None:
    """Weights of the classes from their pixels in the training masks; None where all count the same."""
    if rule == "none":
        return None
    if data.statistics:
        return data_package.class_weights(data.statistics["train"].pixels, rule)
    pixels = torch.zeros(256, dtype=torch.int64)
    for index in range(data.sizes()["train"]):
        pixels += torch.bincount(data.datasets["train"][index]["mask"].flatten().long(), minlength=256)
    return data_package.class_weights(pixels[: len(data.classes)], rule)


def build_datamodule(config: Config, data: DatasetBundle) -> SegmentationData:
    """The data as Lightning takes it."""
    settings, sets = config["data"], data.datasets
    return SegmentationData(
        sets["train"], sets["val"], sets.get("test"), settings["batch_size"], settings["num_workers"], config["seed"]
    )
