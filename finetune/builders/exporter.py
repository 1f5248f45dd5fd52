"""Build the exporter of a format."""

import inspect
from typing import Any

from finetune.checkpoints.hub import check_repository
from finetune.config.errors import ConfigError
from finetune.config.options import Config, validate_options
from finetune.exporters import EXPORTERS, Exporter
from finetune.exporters.exporter import SAME_WEIGHTS, Samples
from finetune.inference.output import TaskOutput
from finetune.io.messages import suggest
from finetune.models import InstanceSegmenter, PyramidModel

OF_OBJECTS = ("safetensors", "timm", "onnx")  # formats of models that find objects
OPTIONS = ("size", "precision", "outputs", "runtime")  # of formats; each has some of them


def check_format(config: Config) -> bool:
    """Return whether a format keeps the model's own weights, so that random images are enough to check its files.

    Raises:
        ConfigError: there is no such format, or it lacks an option that is given.
        ValueError: `repo` is no name of a repository.
    """
    name = config["format"]
    if name not in EXPORTERS:
        raise ConfigError(f"unknown format '{name}'. {suggest(str(name), EXPORTERS)}")
    if config["repo"] is not None:
        check_repository(str(config["repo"]))
    elif config["private"]:
        raise ConfigError("private=true is for a repository on the hub. Set repo=user/name, or leave it out.")
    validate_options(f"format={name}", EXPORTERS[name], _given(config), skip=("output", "calibration", "repo"))
    return getattr(EXPORTERS[name], "limits", None) == SAME_WEIGHTS


def check_format_of(model: PyramidModel, config: Config) -> None:
    """Raise ConfigError if a format, or an option of it, does not fit a model of objects, or one of pixels."""
    name, with_objects = config["format"], isinstance(model, InstanceSegmenter)
    if config["nms"] is not None and not (with_objects and name == "onnx"):
        raise ConfigError(f"nms={config['nms']} is for format=onnx of a model of objects. Leave it out.")
    if with_objects and name not in OF_OBJECTS:
        raise ConfigError(f"format={name} is for models that classify pixels; this one has {', '.join(OF_OBJECTS)}.")


def build_exporter(config: Config, output: TaskOutput, calibration: Samples) -> Exporter:
    """Build the exporter of a format; settings that are not given are the format's own.

    Raises:
        ValueError: an option has no such value.
    """
    build: Any = EXPORTERS[config["format"]]
    arguments = {**_given(config), "output": output, "calibration": calibration, "repo": config["repo"]}
    known = inspect.signature(build).parameters
    exporter: Exporter = build(**{name: value for name, value in arguments.items() if name in known})
    return exporter


def _given(config: Config) -> dict[str, Any]:
    return {option: config[option] for option in OPTIONS if config[option] is not None}
