"""Creates timm models by name, with the requested weights, dilated if the head needs it."""

import difflib
from typing import Any

import timm
from torch import nn

from finetune.models.dilate_mobilenet import can_dilate, dilate
from finetune.models.feature_levels import COARSEST
from finetune.models.load_weights import advice, load_from_hub, load_state
from finetune.models.weights import WeightsError, pretrained_arguments, unavailable

# arguments of timm.create_model that read or download something, change the type of the model, or have other settings
RESERVED_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "in_chans", "output_stride"),
}


def check_name(name: str) -> None:
    """Raise ValueError with the nearest names unless timm has a model of this name."""
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`finetune list backbones` shows all names."
        raise ValueError(f"unknown backbone '{name}': timm has no model of that name. {hint}")


def default_classes(name: str) -> int:
    """Return the number of classes of timm's classifier by default."""
    config = timm.get_pretrained_cfg(name)
    return 1000 if config is None else int(config.num_classes)


def create_model(
    name: str, weights: str, in_channels: int, output_stride: int, options: dict[str, Any]
) -> tuple[nn.Module, bool]:
    """Return the timm model and whether it is dilated; the arguments are those of `Backbone`.

    Raises:
        WeightsError: if the weights are not available, or do not match the model name by name.
        ValueError: if the model does not have an option, or an option has a setting of its own.
    """
    if reserved := sorted(set(options) & RESERVED_OPTIONS):
        raise ValueError(
            f"backbone.options contains {reserved}: set weights by backbone.weights, channels by backbone.in_channels, "
            f"and dilation by backbone.output_stride; the others are not supported."
        )
    source = pretrained_arguments(name, weights)
    state = source.get("pretrained_cfg_overlay", {}).get("state_dict")
    from_hub = state is None and source["pretrained"]

    def build(**arguments: Any) -> tuple[nn.Module, bool]:
        return _build(name, output_stride, {"in_chans": in_channels, **options, **arguments})

    try:
        if state is not None:
            return load_state(build, name, state, weights, options)
        return load_from_hub(build, name, options) if from_hub else build(**source)
    except TypeError as error:
        raise ValueError(f"backbone.options={options} do not fit {name}: {error}") from error
    except (AssertionError, IndexError, ArithmeticError, AttributeError) as error:  # options checked, or stumbled over
        raise ValueError(
            f"cannot create backbone '{name}' with backbone.options={options}: {str(error) or 'an option does not fit'}"
        ) from error
    except (OSError, RuntimeError, KeyError) as error:
        cause = str(error).strip() or type(error).__name__
        if from_hub and "size mismatch for" in cause:
            raise WeightsError(f"timm's weights do not fit {name}: {cause[:600]}. {advice(name, options)}") from error
        if weights == "pretrained":
            raise WeightsError(unavailable(name, cause)) from error
        raise ValueError(f"cannot create backbone '{name}' with backbone.options={options}: {cause}") from error


def _build(name: str, output_stride: int, arguments: dict[str, Any]) -> tuple[nn.Module, bool]:
    """Return the model, dilated if requested and possible, and whether it is dilated."""
    if output_stride == COARSEST:
        return timm.create_model(name, **arguments), False
    try:
        return timm.create_model(name, output_stride=output_stride, **arguments), True
    except (TypeError, AssertionError, NotImplementedError):  # the family cannot be dilated
        model = timm.create_model(name, **arguments)
    if dilated := can_dilate(model):
        dilate(model, output_stride)
    return model, dilated
