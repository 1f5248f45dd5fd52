"""Build the changes of training images that `augment` asks for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.targets import find_object
from finetune.config.errors import ConfigError
from finetune.config.options import Config, validate_options
from finetune.data import Mix, Transform
from finetune.data.augmentation.paste_objects import PasteObjects
from finetune.instances import IGNORED


def attach_transform(data: DatasetBundle, settings: Config) -> None:
    """Have the training images changed as the settings of `augment` say."""
    train = data.datasets["train"]
    if data.objects is None:
        train.transform = build_transform(settings, data.ignore_index)
        train.mix = build_mix(settings.get("mix") or {}, data.ignore_index)
        return
    if settings.get("class_crop"):
        raise ConfigError(f"augment.class_crop={settings['class_crop']}: task=instance has no masks of classes. Set 0.")
    train.transform = build_transform(settings, IGNORED)
    train.mix = _object_mix(settings.get("mix") or {})


def build_transform(settings: Config, ignore_index: int) -> Transform:
    """Build the transform that `augment._target_` names.

    Raises:
        ConfigError: the target cannot be imported or called, or lacks one of the options.
    """
    constructor = transform_constructor(settings)
    given = {name: value for name, value in settings.items() if name not in ("_target_", "mix")}
    options = validate_options("augment", constructor, given, skip=("ignore_index",))
    if "ignore_index" in inspect.signature(constructor).parameters:
        options["ignore_index"] = ignore_index
    try:
        transform: Transform = instantiate({"_target_": settings["_target_"], **options}, _convert_="all")
    except HydraException as error:
        raise ConfigError(f"augment: {error.__cause__ or error}") from error
    return transform


def build_mix(settings: Config, ignore_index: int) -> Mix | None:
    """Build the mixing of `augment.mix`; None if it never mixes.

    Raises:
        ConfigError: an option is unknown or invalid.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"augment.mix={settings}: expected settings such as augment.mix.cutmix=0.3.")
    try:
        mix = Mix(**validate_options("augment.mix", Mix, settings, skip=("ignore_index",)), ignore_index=ignore_index)
    except ValueError as error:
        raise ConfigError(f"augment.mix: {error}") from error
    return mix if any(mix.chances.values()) else None


def _object_mix(settings: Config) -> PasteObjects | None:
    mix = build_mix(settings, IGNORED)
    if mix is None:
        return None
    if other := [name for name, chance in mix.chances.items() if chance and name != "copy_paste"]:
        raise ConfigError(f"augment.mix.{other[0]} mixes masks of classes. task=instance has augment.mix.copy_paste.")
    return PasteObjects(mix.chances["copy_paste"])


def transform_constructor(settings: Config) -> Callable[..., Any]:
    """Return the class or function that `augment._target_` names.

    Raises:
        ConfigError: it cannot be imported or called.
    """
    target = settings.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"augment._target_={target}: expected a dotted name such as finetune.data.Augment.")
    try:
        constructor: Callable[..., Any] = find_object(target)
        inspect.signature(constructor)
    except Exception as error:  # an import may raise anything
        raise ConfigError(f"augment._target_={target} cannot be used: {error or type(error).__name__}") from error
    return constructor
