"""Names and numbers of a config become objects; the only translator between YAML and the parts."""

import inspect as python_inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from timm.optim import create_optimizer_v2

from finetune import data as data_room
from finetune.callbacks import Tuning
from finetune.config import ConfigError
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.data.records import DataError, Record
from finetune.data.statistics import Statistics
from finetune.losses import SegmentationLoss
from finetune.models import Segmenter
from finetune.models.segmenter import class_names
from finetune.tasks import SemanticTask
from finetune.tasks.strategy import FullySharded
from finetune.tuning.outline import assumed
from finetune.tuning.plan import Plan, Rule, Stall
from finetune.tuning.timing import Timeline, check_timing

Config = Mapping[str, Any]
C = TypeVar("C", bound=pl.Callback)
SPLITS = ("train", "val", "test", "all")


@dataclass
class Data:
    """What a run learns from.

    Attributes:
        classes: their names.
        ignore_index: label of pixels that count for nothing.
        datasets: by split.
        records: of all splits, for `splits.csv`; empty for drawn pictures.
        statistics: by split; empty for drawn pictures.
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


def training_data(config: Config) -> Data:
    """The three datasets of a training; `train` is augmented."""
    settings, seed, channels = config["data"], config["seed"], config["backbone"]["in_channels"]
    transform = augment(config["augment"], settings["ignore_index"])
    if settings["kind"] == "drawn":
        return drawn_data(settings, seed, transform)
    records = split_records(settings, seed)
    return folder_data(settings, records, channels, seed, transform)


def drawn_data(settings: Config, seed: int, transform: data_room.Transform | None = None) -> Data:
    """Pictures drawn on the fly; validation and test have a quarter as many each."""
    count, size, ignore = settings["count"], settings["size"], settings["ignore_index"]
    counts = {"train": count, "val": max(1, count // 4), "test": max(1, count // 4)}
    datasets: dict[str, torch.utils.data.Dataset[Sample]] = {
        split: data_room.DrawnDataset(n, size, seed, split, transform if split == "train" else None, ignore)
        for split, n in counts.items()
    }
    return Data(data_room.CLASS_NAMES, ignore, datasets)


def split_records(settings: Config, seed: int) -> list[Record]:
    """Images and masks of a folder, each in its split: that of a file, the folder's own, or a seeded one."""
    records = found_records(settings)
    if settings["splits"]:
        return assigned(records, settings["splits"])
    if all(record.split for record in records):
        return records
    names = [record.name for record in records]
    return data_room.assign_splits(records, data_room.seeded_split(names, settings["val"], settings["test"], seed))


def found_records(settings: Config) -> list[Record]:
    """Images and masks of a folder; their split is empty where the folder has none."""
    if not settings["root"]:
        raise DataError("data.root is not set. Set it to a folder with images/ and masks/, or use data=drawn.")
    return data_room.folder_records(Path(settings["root"]), settings["mask_suffix"])


def assigned(records: Sequence[Record], path: str) -> list[Record]:
    """The records in the splits of a `splits.csv`."""
    return data_room.assign_splits(records, data_room.read_splits(Path(path)))


def folder_data(
    settings: Config,
    records: Sequence[Record],
    channels: int,
    seed: int,
    transform: data_room.Transform | None = None,
) -> Data:
    """Datasets of the records by split, every file looked at once."""
    ignore, values = settings["ignore_index"], settings["mask_values"]
    if settings["classes"] is None:
        raise DataError(_classes_hint(records, ignore, values, channels))
    classes = class_names(settings["classes"])
    statistics = data_room.inspect(records, len(classes), ignore, values, channels)
    datasets: dict[str, torch.utils.data.Dataset[Sample]] = {}
    for split in dict.fromkeys(record.split for record in sorted(records, key=lambda r: SPLITS.index(r.split))):
        chosen = [record for record in records if record.split == split]
        change = transform if split == "train" else None
        datasets[split] = data_room.SegmentationDataset(chosen, channels, ignore, values, change, seed)
    return Data(classes, ignore, datasets, list(records), statistics)


def _classes_hint(records: Sequence[Record], ignore: int, values: Sequence[int] | None, channels: int) -> str:
    statistics = data_room.inspect(records, 255, ignore, values, channels)
    pixels = torch.stack([found.pixels for found in statistics.values()]).sum(dim=0)
    labels = pixels.nonzero().flatten().tolist()
    return (
        f"data.classes is not set. The masks hold the labels {', '.join(map(str, labels))}. Set data.classes to how "
        f"many classes there are, or to their names as [background,thing,...]; a label that is not to be learnt goes "
        f"to data.ignore_index."
    )


def augment(settings: Config, ignore_index: int) -> data_room.Augment:
    """The training transform."""
    checked = known_options("augment", data_room.Augment, settings)
    return data_room.Augment(**checked, ignore_index=ignore_index)


def model(config: Config, classes: Sequence[str]) -> Segmenter:
    """Backbone and head, with the weights that were asked for."""
    backbone, head = config["backbone"], config["head"]
    torch.manual_seed(config["seed"])  # the head's first weights
    return Segmenter(
        backbone["name"],
        head["name"],
        classes,
        weights=str(backbone["weights"] or "none"),
        in_channels=backbone["in_channels"],
        backbone_options=backbone["options"],
        head_options=without_name(head),
        lora=config["tuning"]["lora"],
    )


def loss(settings: Config, ignore_index: int, weights: torch.Tensor | None) -> SegmentationLoss:
    """The loss, with a weight for each class or none."""
    options = known_options("loss", SegmentationLoss, settings, skip=("ignore_index",))
    return SegmentationLoss(**{**options, "ignore_index": ignore_index, "class_weights": weights})


def plan(settings: Config) -> Plan:
    """The tuning plan.

    Raises:
        ConfigError: settings of another kind than the plan's.
    """
    rules, phase_lr, stall = settings["rules"], settings["phase_lr"], settings["stall"]
    if not isinstance(rules, list) or not all(isinstance(r, dict) and isinstance(r.get("match"), str) for r in rules):
        raise ConfigError(f"tuning.rules={rules}: expected a list of rules such as {{match: head, lr_scale: 2}}.")
    if not isinstance(phase_lr, list) or not isinstance(stall, dict):
        raise ConfigError(f"tuning.phase_lr={phase_lr}, tuning.stall={stall}: expected a list and a group of settings.")
    return Plan(
        tuple(Rule(**known_options("tuning.rules", Rule, rule)) for rule in settings["rules"]),
        settings["layers"],
        settings["warmup"],
        settings["restart_schedule"],
        tuple(phase_lr),
        Stall(**known_options("tuning.stall", Stall, stall)),
    )


def task(config: Config, network: Segmenter, data: Data) -> SemanticTask:
    """The model with its loss, plan, optimizer and schedule."""
    weights = loss_weights(config["loss"]["class_weights"], data)
    built = untrained_task(config, network, loss(config["loss"], data.ignore_index, weights), data.ignore_index)
    epochs = config["trainer"]["max_epochs"]
    check_timing(built.assigned, Timeline(epochs))
    check_timing(built.assigned, assumed([group.assignment for group in built.groups], epochs))
    return built


def optimizer(groups: list[dict[str, Any]], settings: Config) -> torch.optim.Optimizer:
    """The optimizer of parameter groups that bring their own learning rates."""
    made: torch.optim.Optimizer = create_optimizer_v2(groups, settings["name"], settings["lr"], **settings["options"])
    return made


def untrained_task(config: Config, network: Segmenter, criterion: SegmentationLoss, ignore_index: int) -> SemanticTask:
    """The model with a loss, and with its plan, optimizer and schedule."""
    settings, pace, tuning = config["optimizer"], config["schedule"], config["tuning"]
    return SemanticTask(
        network,
        criterion,
        ignore_index,
        plan=plan(tuning),
        optimizer=settings["name"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        optimizer_options=settings["options"],
        schedule_name=pace["name"],
        warmup=pace["warmup"],
        schedule_options=without_name(pace, "warmup"),
        l1=tuning["l1"],
        l2_sp=tuning["l2_sp"],
        seed=config["seed"],
    )


def loss_weights(rule: str, data: Data) -> torch.Tensor | None:
    """Weights of the classes from their pixels in the training masks; None where all count the same."""
    if rule == "none":
        return None
    if data.statistics:
        return data_room.class_weights(data.statistics["train"].pixels, rule)
    pixels = torch.zeros(256, dtype=torch.int64)
    for index in range(data.sizes()["train"]):
        pixels += torch.bincount(data.datasets["train"][index]["mask"].flatten().long(), minlength=256)
    return data_room.class_weights(pixels[: len(data.classes)], rule)


def loaders(config: Config, data: Data) -> SegmentationData:
    """The data as Lightning takes it."""
    settings, sets = config["data"], data.datasets
    return SegmentationData(
        sets["train"], sets["val"], sets.get("test"), settings["batch_size"], settings["num_workers"], config["seed"]
    )


def step_counts(config: Config, images: int) -> tuple[int, int]:
    """Optimizer steps of an epoch on each device, and of the whole training.

    Args:
        config: of a training.
        images: to train on.
    """
    settings = config["trainer"]
    devices, limit, most = settings["devices"], settings.get("limit_train_batches", 1.0), settings.get("max_steps", -1)
    share = images // (devices if isinstance(devices, int) and devices > 0 else 1)
    batches = max(1, share // config["data"]["batch_size"])
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    steps = math.ceil(batches / settings["accumulate_grad_batches"])
    total = int(settings["max_epochs"]) * steps
    return steps, total if most == -1 else min(int(most), total)


def precision(settings: Config) -> str:
    """The trainer's precision; `auto` is bf16-mixed where the device has instructions for it, else 32-true."""
    if settings["precision"] != "auto":
        return str(settings["precision"])
    on_gpu = torch.cuda.is_available() and settings["accelerator"] in ("auto", "gpu", "cuda")
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_computes_bf16()
    return "bf16-mixed" if fast else "32-true"


def _cpu_computes_bf16() -> bool:
    # emulated on other processors, at a tenth of the speed; torch has no public name for the question
    return bool(torch.backends.mkldnn.is_available()) and torch.cpu._is_avx512_bf16_supported()  # type: ignore[no-untyped-call]


def trainer(config: Config, folder: Path) -> pl.Trainer:
    """Lightning's Trainer with the configured callbacks and loggers, writing below the run folder.

    Raises:
        ConfigError: a setting that Lightning, or a callback, does not take.
    """
    try:
        callbacks = [instantiate(entry) for entry in config["callbacks"].values() if entry]
        loggers = [instantiate(entry) for entry in (config["logger"] or {}).values()]
        return pl.Trainer(
            **{
                "num_sanity_val_steps": 0,  # every file was looked at already
                "use_distributed_sampler": False,  # our samplers shard without padding
                "enable_model_summary": False,  # the plan says more
                "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
                "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
                **config["trainer"],
                **({"strategy": FullySharded()} if config["trainer"]["strategy"] == "fsdp2" else {}),
            },
            callbacks=[Tuning(), *callbacks],
            logger=loggers or False,
            default_root_dir=folder,
        )
    except (ValueError, TypeError, HydraException, MisconfigurationException) as error:
        raise ConfigError(f"trainer, callbacks or logger: {error}") from error


def find_callback(trainer: pl.Trainer, kind: type[C]) -> C | None:
    """The trainer's first callback of a kind, or None."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # missing in the class
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def known_options(group: str, function: Callable[..., Any], given: Config, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The given options, if the function has all of them.

    Raises:
        ConfigError: one that it has not; the nearest names are shown.
    """
    names = [name for name in python_inspect.signature(function).parameters if name not in skip]
    unknown = [name for name in given if name not in names]
    if unknown:
        hints = "; ".join(f"'{name}': {nearest(name, names)}" for name in unknown)
        raise ConfigError(f"{group} has unknown options: {hints}")
    return {str(name): value for name, value in given.items()}


def without_name(settings: Config, *also: str) -> dict[str, Any]:
    """The settings but for their name and those said besides."""
    return {key: value for key, value in settings.items() if key not in ("name", *also)}


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint with the nearest names, or with all of them where none is near.

    >>> nearest("adamww", ["adamw", "sgd"]), nearest("x", ["adamw", "sgd"])
    ('Did you mean adamw?', 'Known are adamw, sgd.')
    """
    near = get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known are {', '.join(known)}."
