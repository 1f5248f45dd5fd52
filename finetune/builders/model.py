"""Build the model of a config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from finetune.builders.image_settings import image_channels, reduction
from finetune.builders.settings import BackboneSettings
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config, drop_name
from finetune.io.messages import shortlist
from finetune.models import INSTANCE_HEADS, PyramidModel, model_class
from finetune.models.input_size import can_be_built_for_another, check_size


def build_model(config: Config, classes: Sequence[str], weighted: bool = True) -> PyramidModel:
    """Build backbone and head, and try them on a dummy input.

    Args:
        config: of a training.
        classes: names of the classes.
        weighted: whether to load the weights that the config asks for; otherwise they are random.
    """
    settings, head = BackboneSettings(**config["backbone"]), config["head"]
    head = head if weighted else {key: value for key, value in head.items() if key != "weights"}
    torch.manual_seed(config["seed"])  # the initial weights of the head
    own = {} if head["name"] in INSTANCE_HEADS else {"auxiliary": auxiliary_options(config)}
    build: Callable[..., PyramidModel] = model_class({"head": head["name"]})
    model = build(
        str(settings.name),
        head["name"],
        classes,
        weights=settings.weights or "none" if weighted else "none",
        in_channels=image_channels(config),
        backbone_options=settings.options,
        head_options=drop_name(head),
        neck=settings.neck,
        image_size=backbone_image_size(config),
        window=_pair(config["augment"].get("crop")),
        output_stride=settings.output_stride,
        mean=settings.mean,
        std=settings.std,
        grad_checkpointing=settings.grad_checkpointing,
        lora=config["tuning"]["lora"],
        **own,
    )
    if config["backbone"].get("image_size") is not None and model.backbone.input_size.only is None:
        raise ConfigError(
            f"backbone.image_size={config['backbone']['image_size']} has no effect: backbone.name={settings.name} "
            f"takes images of any size. Leave it out; augment.crop is the size of the training images."
        )
    if settings.neck == "learned" and not model.neck.scalings:
        raise ConfigError(
            f"backbone.neck=learned has no effect: the feature maps of backbone.name={settings.name} that "
            f"head={head['name']} reads have their strides already, or it takes them as they are. "
            f"Set backbone.neck=interpolate."
        )
    model.reduce = reduction(config)
    model.backbone.smoke_test()
    return model


def auxiliary_options(config: Config) -> Mapping[str, Any] | None:
    """Return the options of the auxiliary head, or None if there is none."""
    options: Mapping[str, Any] = config.get("auxiliary") or {}
    return options if options.get("level") is not None else None


def backbone_image_size(config: Config) -> tuple[int, int] | None:
    """Return (height, width) that a fixed-size backbone is built for: its own setting, else the training crop.

    None is the size of the weights: neither is set, or timm cannot resample the weights' tables.

    Raises:
        ConfigError: the setting is no height and width.

    >>> backbone = {"image_size": None, "name": "levit_128", "weights": "none"}
    >>> backbone_image_size({"backbone": backbone, "augment": {"crop": 320}})
    (320, 320)
    """
    settings = config["backbone"]
    weighted = str(settings["weights"] or "none") != "none"
    size = settings["image_size"]
    if size is None and can_be_built_for_another(settings["name"], weighted):
        size = config["augment"].get("crop")
    pair: tuple[int, int] | None = _pair(size)
    if pair is not None:
        with usage():
            check_size(pair)
    return pair


def _pair(size: Any) -> Any:
    """Return height and width if one number stands for both."""
    return (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else size


def build_model_from(config: Config, classes: Sequence[str], source: PyramidModel) -> tuple[PyramidModel, str]:
    """Build backbone and head with the weights and the normalization of another model.

    Returns:
        The model, and a line that says which tensors were taken over.

    Raises:
        ConfigError: the other model has another backbone.
    """
    sized = {**config, "backbone": {**config["backbone"], "image_size": _image_size_like(config, source)}}
    model = build_model({**sized, "tuning": {**config["tuning"], "lora": None}}, classes, weighted=False)
    taken, left = model.load_matching_weights(source)
    model.base_model, model.weights_license = source.base_model, source.weights_license
    sizes = {name: parameter.numel() for name, parameter in model.backbone.named_parameters(prefix="backbone")}
    if sum(size for name, size in sizes.items() if name in taken) < sum(sizes.values()) / 2:  # some names always match
        raise ConfigError(
            f"init_from={config['init_from']} has the backbone {source.backbone.name}, whose weights do not fit "
            f"backbone.name={config['backbone']['name']}. Set backbone=timm backbone.name={source.backbone.name}"
        )
    if config["tuning"]["lora"] is not None:
        model.add_lora(config["tuning"]["lora"])
    line = f"{len(taken):,} of {len(taken) + len(left):,} tensors are those of {config['init_from']}"
    return model, line + (f"; initialized: {shortlist(left)}" if left else "")


def _image_size_like(config: Config, source: PyramidModel) -> Any:
    """Return backbone.image_size; if it is not set, the size that the same backbone of the other model is built for."""
    size, built = config["backbone"]["image_size"], source.backbone.input_size.only
    is_same = source.backbone.name == config["backbone"]["name"]
    return list(built) if size is None and is_same and built is not None else size
