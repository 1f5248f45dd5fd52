"""Build the exporter of a format."""

import inspect
from typing import Any

from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.exporters import EXPORTERS, Exporter
from finetune.exporters.exporter import Samples
from finetune.inference import Output
from finetune.io.messages import suggest

OPTIONS = ("size", "precision", "outputs")  # of formats; each has some of them


def exporter_class(config: Config) -> type[Exporter]:
    """Return the class of a format.

    Raises:
        ConfigError: there is no such format, or it lacks an option that is given.
    """
    name = config["format"]
    if name not in EXPORTERS:
        raise ConfigError(f"unknown format '{name}'. {suggest(str(name), EXPORTERS)}")
    found = EXPORTERS[name]
    options = [option for option in OPTIONS if option in inspect.signature(found).parameters]
    for option in OPTIONS:
        if config[option] is not None and option not in options:
            has = f"has only {', '.join(options)}" if options else "has no options"
            raise ConfigError(f"{option}={config[option]}: format={name} {has}. Leave {option} out.")
    return found


def build_exporter(config: Config, output: Output, calibration: Samples) -> Exporter:
    """Build the exporter of a format from the settings that are given; the others are the format's.

    Raises:
        ConfigError: there is no such format, or it lacks an option that is given.
        ValueError: the option has no such value.
    """
    build: Any = exporter_class(config)
    given = {option: config[option] for option in OPTIONS if config[option] is not None}
    arguments = {**given, "output": output, "calibration": calibration}
    known = inspect.signature(build).parameters
    exporter: Exporter = build(**{name: value for name, value in arguments.items() if name in known})
    return exporter
