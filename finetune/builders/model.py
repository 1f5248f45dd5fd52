"""Build the model of a config."""

from collections.abc import Sequence
from typing import Any

import torch

from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config, drop_name
from finetune.io.messages import shortlist
from finetune.models.input_size import can_be_built_for_another, check_size
from finetune.models.segmenter import Segmenter


def build_model(config: Config, classes: Sequence[str], weighted: bool = True) -> Segmenter:
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
        head_options=drop_name(head),
        neck=backbone["neck"],
        image_size=backbone_image_size(config),
        window=_pair(config["augment"].get("crop")),
        output_stride=backbone.get("output_stride"),  # not in runs of earlier versions, as the next two
        mean=backbone.get("mean"),
        std=backbone.get("std"),
        grad_checkpointing=backbone["grad_checkpointing"],
        lora=config["tuning"]["lora"],
        auxiliary=auxiliary_options(config),
    )
    if backbone["neck"] == "learned" and not made.neck.scalings:
        raise ConfigError(
            f"backbone.neck=learned has no effect: the maps of backbone.name={backbone['name']} that "
            f"head={head['name']} reads have their strides already, or it takes them as they are. "
            f"Set backbone.neck=interpolate."
        )
    made.backbone.smoke_test()
    return made


def auxiliary_options(config: Config) -> Config | None:
    """Options of the auxiliary head, or None where there is none, as in a run of an older version."""
    options: Config = config.get("auxiliary") or {}
    return options if options.get("level") is not None else None


def backbone_image_size(config: Config) -> tuple[int, int] | None:
    """The size that a backbone of one size alone is built for: its own setting, else that of the training's crops.

    None, for the size of the weights, where there is neither, or where timm does not resample the weights' tables.

    Raises:
        ConfigError: it is no height and width.

    >>> backbone = {"image_size": None, "name": "levit_128", "weights": "none"}
    >>> backbone_image_size({"backbone": backbone, "augment": {"crop": 320}})
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


def build_model_from(config: Config, classes: Sequence[str], source: Segmenter) -> tuple[Segmenter, str]:
    """Backbone and head with the weights and the normalization of another model, and a line that says what fits.

    Raises:
        ConfigError: it has another backbone.
    """
    sized = {**config, "backbone": {**config["backbone"], "image_size": _size_of(config, source)}}
    made = build_model({**sized, "tuning": {**config["tuning"], "lora": None}}, classes, weighted=False)
    taken, left = made.load_matching_weights(source)
    sizes = {name: parameter.numel() for name, parameter in made.backbone.named_parameters(prefix="backbone")}
    if sum(size for name, size in sizes.items() if name in taken) < sum(sizes.values()) / 2:  # names alone may agree
        raise ConfigError(
            f"init_from={config['init_from']} has the backbone {source.backbone.name}, whose weights do not fit "
            f"backbone.name={config['backbone']['name']}. Set backbone=timm backbone.name={source.backbone.name}"
        )
    if config["tuning"]["lora"] is not None:
        made.add_lora(config["tuning"]["lora"])
    told = f"{len(taken):,} of {len(taken) + len(left):,} tensors are those of {config['init_from']}"
    return made, told + (f"; begun anew: {shortlist(left)}" if left else "")


def _size_of(config: Config, source: Segmenter) -> Any:
    """backbone.image_size, or where it is not set the size that the same backbone of another model is built for."""
    asked, built = config["backbone"]["image_size"], source.backbone.input_size.only
    same = source.backbone.name == config["backbone"]["name"]
    return list(built) if asked is None and same and built is not None else asked
