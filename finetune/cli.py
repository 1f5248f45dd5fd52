"""The command `finetune`: the name of a command, then Hydra's own grammar. Nothing heavy is imported to answer it."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune import __version__
from finetune.commands import COMMANDS
from finetune.config.compose import as_composed, first_sweep_job
from finetune.config.errors import ConfigError
from finetune.config.explain import check_group_choices, explain
from finetune.config.folder import config_folder
from finetune.config.overrides import quoted, readable, rejoined
from finetune.engine.command_line import command_line, hydra_command_line
from finetune.io.allocator import keep_memory

HELP = """finetune: fine-tune pretrained timm backbones for image segmentation

{examples}

`finetune x=y` means `finetune train x=y`. `finetune train --help` lists all config groups and settings, `--cfg job`
shows the composed config, and eval "$(finetune -sc install=bash)" lets the tab key complete overrides.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; the process exits with 0, 1 (the run failed), 2 (config or usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    _open_closed_streams()
    try:
        _answer(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        _exit_on_broken_pipe()


def _open_closed_streams() -> None:
    """Discard what is written to a closed standard stream; else the next file that is opened would take its place."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115  # until the end


def _answer(arguments: list[str]) -> None:
    if arguments in ([], ["--help"], ["-h"], ["help"]):
        print(HELP.format(examples=_examples()))
    elif arguments == ["--version"]:
        print(f"finetune {__version__}")
    elif {"-sc", "--shell-completion"} & set(arguments):
        _run(completed_command(), arguments)
    else:
        _run(*split_command(arguments))


def _examples() -> str:
    """Return the examples of all commands as aligned lines."""
    lines = [
        (f"finetune {name} {arguments}", text)
        for name, command in COMMANDS.items()
        for arguments, text in command.examples
    ]
    width = max(len(typed) for typed, _ in lines)
    return "\n".join(f"  {typed:<{width}}   {text}" for typed, text in lines)


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split arguments into a command and its overrides; without a command it is `train`.

    >>> split_command(["evaluate", "run=a"]), split_command(["seed=1"])
    (('evaluate', ['run=a']), ('train', ['seed=1']))
    """
    first, *rest = arguments
    if first in COMMANDS:
        return first, with_keys(first, rest)
    if first.startswith(("-", "+", "~")) or "=" in first:
        return "train", list(arguments)
    _exit(2, f"unknown command '{first}'. Choose from: {', '.join(COMMANDS)}; a setting is key=value.")


def with_keys(command: str, arguments: Sequence[str]) -> list[str]:
    """Give positional arguments the keys that the command has for them.

    >>> with_keys("list", ["backbones", "convnext*", "parameters=30"])
    ["what='backbones'", "name='convnext*'", 'parameters=30']
    """
    keys = COMMANDS[command].positional
    if not keys:
        return list(arguments)
    values = list(takewhile(lambda argument: "=" not in argument and argument[:1] not in ("-", "+", "~"), arguments))
    if len(values) > len(keys):
        extra = " ".join(values[len(keys) - 1 :])
        _exit(2, f"finetune {command} takes one {keys[-1]}, got several: {extra}. Quote a pattern: 'convnext*'.")
    keyed = [f"{key}={quoted(value)}" for key, value in zip(keys, values, strict=False)]
    return [*keyed, *arguments[len(values) :]]


# flags of Hydra that a value follows
VALUED = (
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"),
    *("--cfg", "-c", "--package", "-p", "--experimental-rerun"),
)


def flags_last(arguments: Sequence[str]) -> list[str]:
    """Put the flags of Hydra after the overrides, which its parser takes in one stretch only.

    >>> flags_last(["seed=1", "--config-dir", "my=conf", "-m", "augment=mine", "--info", "+x=1"])
    ['seed=1', 'augment=mine', '+x=1', '--config-dir', 'my=conf', '-m', '--info']
    """
    overrides, flags, words = list[str](), list[str](), iter(arguments)
    for word in words:
        is_override = word[:1] in ("+", "~") or (word[:1] != "-" and "=" in word)
        (overrides if is_override else flags).append(word)
        if word in VALUED:
            flags += [value] if (value := next(words, None)) is not None else []
    return [*overrides, *flags]


def _run(command: str, overrides: list[str]) -> None:
    if command == "train":
        keep_memory()
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    overrides = flags_last(list(map(readable, rejoined(overrides))))

    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.RUN:
            _restore("HYDRA_FULL_ERROR", full_error)
        with command_line(command, overrides):
            return _job(command, config)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors then, and this module adds the nearest names to them
    try:
        _check_overrides(command, overrides)
        with hydra_command_line(overrides):
            hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(job)()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        _restore("HYDRA_FULL_ERROR", full_error)
        _exit(2, str(error) if isinstance(error, ConfigError) else explain(error, command, overrides), error)
    except Exception as error:  # of a sweep's job
        _restore("HYDRA_FULL_ERROR", full_error)
        _exit(1, str(error) or type(error).__name__, error)


def _check_overrides(command: str, overrides: Sequence[str]) -> None:
    """Find mistakes in the options of groups and in the first job of a sweep before Hydra creates its folder."""
    flags = [argument for argument in overrides if argument.startswith("-")]
    if dashed := [flag for flag in flags if "." in flag.partition("=")[0]]:  # which no flag of Hydra has
        raise ConfigError(f"'{dashed[0]}': settings have no dashes. Type {dashed[0].lstrip('-')}, its value after =.")
    if not flags:
        check_group_choices(overrides)
    elif set(flags) <= {"-m", "--multirun"}:
        words = [argument for argument in overrides if argument not in flags]
        check_group_choices(words, is_sweep=True)
        check_one_device(as_composed(first_sweep_job(words), command))


def _job(command: str, config: DictConfig) -> float | None:
    """Run one job; an error ends the process with its exit code, except in a sweep, where Hydra gets it."""
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if is_sweep:
            _prepare_sweep_job(command, config)
        run: Callable[[DictConfig], object] = COMMANDS[command].load()
        result = run(config)
        if (code := getattr(result, "exit_code", 0)) and not is_sweep:
            sys.exit(code)
        return getattr(result, "score", None)
    except KeyboardInterrupt as error:
        _exit(130, "interrupted", error)
    except SystemExit as error:
        if notes := getattr(error, "__notes__", ()):  # stopped by a signal, on the rank that reports it
            print("\n".join([str(error), *notes]), file=sys.stderr)
        raise
    except BrokenPipeError:
        _exit_on_broken_pipe()
    except Exception as error:
        if is_sweep:
            print(f"job {HydraConfig.get().job.num} failed: {error}", file=sys.stderr)
            raise
        _exit(2 if isinstance(error, ConfigError) else 1, str(error) or type(error).__name__, error)


def _prepare_sweep_job(command: str, config: DictConfig) -> None:
    """Give a job paths below the sweep's folder, unless the overrides name others.

    Raises:
        ConfigError: several devices, whose further ranks would run the whole sweep again; or a run to resume.
    """
    check_one_device(config)
    if config.get("resume"):
        raise ConfigError("resume continues one run, but -m starts several. Leave one of them out.")
    hydra_config = HydraConfig.get()
    for key, name in COMMANDS[command].sweep_paths.items():
        if not any(argument.startswith(f"{key}=") for argument in hydra_config.overrides.task):
            OmegaConf.update(config, key, os.path.join(hydra_config.runtime.output_dir, name).rstrip("/"))


def check_one_device(config: DictConfig) -> None:
    """Raise a ConfigError if a job of a sweep asks for several devices."""
    if "trainer" not in config:
        return
    devices = config.trainer.devices
    is_one = devices in (1, "1") or (isinstance(devices, ListConfig) and len(devices) == 1)
    if not is_one:
        raise ConfigError(
            f"-m runs its jobs in one process, so each can have one device; trainer.devices={config.trainer.devices}. "
            f"Set trainer.devices=1, or start the jobs one by one."
        )


def completed_command() -> str:
    """Return the command of the line that the shell completes, and take it out of the line for Hydra's completion."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    word, _, after = rest.lstrip().partition(" ")
    if word not in COMMANDS:
        return "train"
    os.environ["COMP_LINE"] = f"{program} {after}"
    removed = len(line) - len(os.environ["COMP_LINE"])
    os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - removed))
    return word


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _exit_on_broken_pipe() -> NoReturn:
    """Exit quietly when the reader of the output, such as `head`, has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
    sys.exit(141)  # the shell's code for a process ended by SIGPIPE


def _exit(code: int, message: str, error: BaseException | None = None) -> NoReturn:
    if isinstance(error, Exception) and os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    print("\n".join([f"error: {message}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    sys.exit(code)
