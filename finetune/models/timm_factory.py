"""Makes timm models: by their names, with the weights that were asked for, dilated where a head wants it."""

import difflib
from typing import Any

import timm
from torch import nn

from finetune.models.dilate_mobilenet import can_dilate, dilate
from finetune.models.feature_levels import COARSEST
from finetune.models.load_weights import advice, fetch, load
from finetune.models.weights import WeightsError, pretrained_arguments, unavailable

# arguments of timm.create_model that fetch or read something, or change what kind of model comes out
NOT_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "in_chans", "output_stride"),
}


def check_name(name: str) -> None:
    """Raise a ValueError with the nearest names unless timm knows this one."""
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`finetune list backbones` names them all."
        raise ValueError(f"unknown backbone '{name}': timm has no model of that name. {hint}")


def default_classes(name: str) -> int:
    """Classes of the classifier that timm makes when nothing is said of it."""
    config = timm.get_pretrained_cfg(name)
    return 1000 if config is None else int(config.num_classes)


def create(
    name: str, weights: str, in_channels: int, output_stride: int, options: dict[str, Any]
) -> tuple[nn.Module, bool]:
    """The timm model, and whether it is dilated; the arguments are those of `Backbone`.

    Raises:
        WeightsError: the weights that were asked for cannot be had, or do not fit to the last name.
        ValueError: options that the model does not have, or that are not the user's to give.
    """
    if refused := sorted(set(options) & NOT_OPTIONS):
        raise ValueError(
            f"backbone.options may not hold {refused}: weights come by backbone.weights, channels by "
            f"backbone.in_channels, and the rest is for the head to say."
        )
    source = pretrained_arguments(name, weights)
    state = source.get("pretrained_cfg_overlay", {}).get("state_dict")
    fetched = state is None and source["pretrained"]

    def build(**arguments: Any) -> tuple[nn.Module, bool]:
        return _build(name, output_stride, {"in_chans": in_channels, **options, **arguments})

    try:
        if state is not None:
            return load(build, name, state, weights, options)
        return fetch(build, name, options) if fetched else build(**source)
    except TypeError as error:
        raise ValueError(f"backbone.options={options} do not suit {name}: {error}") from error
    except (OSError, RuntimeError, KeyError) as error:
        said = str(error).strip() or type(error).__name__
        if fetched and "size mismatch for" in said:
            raise WeightsError(f"timm's weights do not fit {name}: {said[:600]}. {advice(name, options)}") from error
        if weights == "pretrained":
            raise WeightsError(unavailable(name, said)) from error
        raise ValueError(f"backbone '{name}' with backbone.options={options} cannot be made: {said}") from error


def _build(name: str, output_stride: int, arguments: dict[str, Any]) -> tuple[nn.Module, bool]:
    """The model, dilated where it is asked for and can be, and whether it is."""
    if output_stride == COARSEST:
        return timm.create_model(name, **arguments), False
    try:
        return timm.create_model(name, output_stride=output_stride, **arguments), True
    except (TypeError, AssertionError, NotImplementedError):  # how timm's families say that they cannot be dilated
        model = timm.create_model(name, **arguments)
    if dilated := can_dilate(model):
        dilate(model, output_stride)
    return model, dilated
