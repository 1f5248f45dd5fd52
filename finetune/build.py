"""Names and numbers of a config become a model, its task and its data; `trainers` has what trains them."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2

from finetune.config import ConfigError, usage
from finetune.data import shortlist
from finetune.data.module import SegmentationData
from finetune.datasets import Data, loss_weights
from finetune.losses import SegmentationLoss
from finetune.models import Segmenter
from finetune.models.sizes import can_be_built_for_another, check_size
from finetune.options import Config, known_options, without_name
from finetune.pacing import pace
from finetune.tasks import SemanticTask
from finetune.tuning.plan import Plan, Rule, Stall
from finetune.tuning.scenarios import check_timing
from finetune.tuning.timing import Timeline


def model(config: Config, classes: Sequence[str], weighted: bool = True) -> Segmenter:
    """Backbone and head.

    Args:
        config: of a training.
        classes: their names.
        weighted: with the weights that were asked for; or with random ones, everything else being the same.
    """
    backbone, head = config["backbone"], config["head"]
    torch.manual_seed(config["seed"])  # the head's first weights
    made = Segmenter(
        backbone["name"],
        head["name"],
        classes,
        weights=str(backbone["weights"] or "none") if weighted else "none",
        in_channels=backbone["in_channels"],
        backbone_options=backbone["options"],
        head_options=without_name(head),
        neck=backbone["neck"],
        image_size=image_size(config),
        window=_pair(config["augment"].get("crop")),
        output_stride=backbone.get("output_stride"),  # not in runs of earlier versions, as the next two
        mean=backbone.get("mean"),
        std=backbone.get("std"),
        checkpointing=backbone["checkpointing"],
        lora=config["tuning"]["lora"],
        auxiliary=auxiliary(config),
    )
    if backbone["neck"] == "learned" and not made.neck.scalings:
        raise ConfigError(
            f"backbone.neck=learned has no effect: the maps of backbone.name={backbone['name']} that "
            f"head={head['name']} reads have their strides already, or it takes them as they are. "
            f"Set backbone.neck=interpolate."
        )
    made.backbone.try_out()
    return made


def auxiliary(config: Config) -> Config | None:
    """Options of the auxiliary head, or None where there is none, as in a run of an older version."""
    options: Config = config.get("auxiliary") or {}
    return options if options.get("level") is not None else None


def image_size(config: Config) -> tuple[int, int] | None:
    """The size that a backbone of one size alone is built for: its own setting, else that of the training's crops.

    None, for the size of the weights, where there is neither, or where timm does not resample the weights' tables.

    Raises:
        ConfigError: it is no height and width.

    >>> image_size({"backbone": {"image_size": None, "name": "levit_128", "weights": "none"}, "augment": {"crop": 320}})
    (320, 320)
    """
    backbone = config["backbone"]
    weighted = str(backbone["weights"] or "none") != "none"
    asked = backbone["image_size"]
    if asked is None and can_be_built_for_another(backbone["name"], weighted):
        asked = config["augment"].get("crop")
    pair: tuple[int, int] | None = _pair(asked)
    if pair is not None:
        with usage():
            check_size(pair)
    return pair


def _pair(size: Any) -> Any:
    """Height and width of a square, where one number is given for both."""
    return (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else size


def model_from(config: Config, classes: Sequence[str], source: Segmenter) -> tuple[Segmenter, str]:
    """Backbone and head with the weights and the normalisation of another model, and a line that says what fits.

    Raises:
        ConfigError: it has another backbone.
    """
    sized = {**config, "backbone": {**config["backbone"], "image_size": _size_of(config, source)}}
    made = model({**sized, "tuning": {**config["tuning"], "lora": None}}, classes, weighted=False)
    taken, left = made.take_weights(source)
    sizes = {name: parameter.numel() for name, parameter in made.backbone.named_parameters(prefix="backbone")}
    if sum(size for name, size in sizes.items() if name in taken) < sum(sizes.values()) / 2:  # names alone may agree
        raise ConfigError(
            f"init_from={config['init_from']} has the backbone {source.backbone.name}, whose weights do not fit "
            f"backbone.name={config['backbone']['name']}. Set backbone=timm backbone.name={source.backbone.name}"
        )
    if config["tuning"]["lora"] is not None:
        made.adapt(config["tuning"]["lora"])
    told = f"{len(taken):,} of {len(taken) + len(left):,} tensors are those of {config['init_from']}"
    return made, told + (f"; begun anew: {shortlist(left)}" if left else "")


def _size_of(config: Config, source: Segmenter) -> Any:
    """backbone.image_size, or where it is not set the size that the same backbone of another model is built for."""
    asked, built = config["backbone"]["image_size"], source.backbone.input_size.only
    same = source.backbone.name == config["backbone"]["name"]
    return list(built) if asked is None and same and built is not None else asked


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
    check_timing(built.assigned, Timeline(config["trainer"]["max_epochs"]), pace(config, data.sizes()["train"]))
    return built


def optimizer(groups: list[dict[str, Any]], settings: Config) -> torch.optim.Optimizer:
    """The optimizer of parameter groups that bring their own learning rates."""
    made: torch.optim.Optimizer = create_optimizer_v2(groups, settings["name"], settings["lr"], **settings["options"])
    return made


def untrained_task(config: Config, network: Segmenter, criterion: SegmentationLoss, ignore_index: int) -> SemanticTask:
    """The model with a loss, and with its plan, optimizer and schedule."""
    settings, schedule, tuning = config["optimizer"], config["schedule"], config["tuning"]
    return SemanticTask(
        network,
        criterion,
        ignore_index,
        plan=plan(tuning),
        optimizer=settings["name"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        optimizer_options=settings["options"],
        schedule_name=schedule["name"],
        warmup=schedule["warmup"],
        schedule_options=without_name(schedule, "warmup"),
        l1=tuning["l1"],
        l2_sp=tuning["l2_sp"],
        seed=config["seed"],
    )


def weightless_task(config: Config, classes: Sequence[str]) -> SemanticTask:
    """The task of a training without its data and its weights: what trains when, and at what cost, needs neither."""
    ignore_index = config["data"]["ignore_index"]
    network = model(config, classes, weighted=False)
    return untrained_task(config, network, loss(config["loss"], ignore_index, None), ignore_index)


def loaders(config: Config, data: Data) -> SegmentationData:
    """The data as Lightning takes it."""
    settings, sets = config["data"], data.datasets
    return SegmentationData(
        sets["train"], sets["val"], sets.get("test"), settings["batch_size"], settings["num_workers"], config["seed"]
    )
