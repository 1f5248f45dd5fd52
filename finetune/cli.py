"""The command `finetune`: one word for what to do, then Hydra's own grammar; nothing heavy is imported to answer it."""

import os
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from finetune import __version__
from finetune.config.compose import COMMANDS, check_group_choices, compose, config_folder, explain, first_sweep_job
from finetune.config.errors import ConfigError

HELP = """finetune: fine-tune pretrained timm backbones for image segmentation

  finetune train data.root=FOLDER data.classes=[background,thing]   FOLDER has images/ and masks/
  finetune train experiment=quickstart                              try it without any data
  finetune train resume=outputs/...                                 go on exactly where a run stopped
  finetune train -m backbone=resnet18,convnext_tiny                 a sweep
  finetune plan tuning=gradual backbone=resnet50                    what would train when, at which rate and cost
  finetune evaluate run=outputs/...                                 score a run, on its data or on data.root=...
  finetune predict run=outputs/... input=PHOTOS output=masks        masks for new images
  finetune list backbones 'convnext*' parameters=30                 what there is to choose from; or list heads

`finetune x=y` means `finetune train x=y`. `finetune train --help` lists every group and setting, `--cfg job` shows
the config that the words make, and eval "$(finetune -sc install=bash)" completes words with the tab key.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; the process exits with 0, 1 (the run failed), 2 (config or usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _answer(given)
        sys.stdout.flush()
    except BrokenPipeError:
        _exit_on_broken_pipe()


def _answer(given: list[str]) -> None:
    if given in ([], ["--help"], ["-h"], ["help"]):
        print(HELP)
    elif given == ["--version"]:
        print(f"finetune {__version__}")
    elif {"-sc", "--shell-completion"} & set(given):
        _run(complete_words(), given)
    else:
        _run(*split_command(given))


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command and the words after it; without a command it is `train`.

    >>> split_command(["evaluate", "run=a"]), split_command(["seed=1"])
    (('evaluate', ['run=a']), ('train', ['seed=1']))
    """
    first, *rest = arguments
    if first in COMMANDS:
        return first, with_keys(rest) if first == "list" else rest
    if first.startswith(("-", "+", "~")) or "=" in first:
        return "train", list(arguments)
    _exit(2, f"unknown command '{first}'. There are {', '.join(COMMANDS)}; a setting is key=value.")


def with_keys(words: Sequence[str]) -> list[str]:
    """The words of `finetune list`, of which the first two need no key.

    >>> with_keys(["backbones", "convnext*", "parameters=30"])
    ["what='backbones'", "name='convnext*'", 'parameters=30']
    """
    bare = list(takewhile(lambda word: "=" not in word and word[:1] not in ("-", "+", "~"), words))
    if len(bare) > 2:
        _exit(2, f"finetune list takes one pattern, not {len(bare) - 1}: {' '.join(bare[1:])}. Quote it: 'convnext*'.")
    said = [f"{key}='{value}'" for key, value in zip(("what", "name"), bare, strict=False)]
    return [*said, *words[len(bare) :]]


def _run(command: str, words: list[str]) -> None:
    program, full_error = sys.argv[0], os.environ.get("HYDRA_FULL_ERROR")

    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.RUN:
            _restore("HYDRA_FULL_ERROR", full_error)
        # Lightning's launcher runs sys.argv again for every further rank, so the command must be in it
        sys.argv = [program, command, *words]
        return _job(command, config)

    sys.argv = [program, *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who know the nearest names
    try:
        _check_words(command, words)
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(job)()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        _restore("HYDRA_FULL_ERROR", full_error)
        _exit(2, str(error) if isinstance(error, ConfigError) else explain(error, command, words), error)
    except Exception as error:  # of a sweep's job
        _restore("HYDRA_FULL_ERROR", full_error)
        _exit(1, str(error) or type(error).__name__, error)


def _check_words(command: str, words: Sequence[str]) -> None:
    """Compose the first job of a sweep, whose folder Hydra would make before it finds a mistake."""
    flags = [word for word in words if word.startswith("-")]
    if not flags:
        check_group_choices(words)
    elif set(flags) <= {"-m", "--multirun"}:
        check_one_device(compose(*first_sweep_job([word for word in words if word not in flags]), command=command))


def _job(command: str, config: DictConfig) -> float | None:
    """One job; what goes wrong ends the process with its exit code, or is left to Hydra in a sweep."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if sweeping:
            _prepare_sweep_job(command, config)
        if command == "train":
            sys.argv += _overrides_for_other_ranks(config)
        return _act(command, config)
    except KeyboardInterrupt as error:
        _exit(130, "interrupted", error)
    except SystemExit as error:
        if notes := getattr(error, "__notes__", ()):  # told to stop, and this is the rank that speaks
            print("\n".join([str(error), *notes]), file=sys.stderr)
        raise
    except BrokenPipeError:
        _exit_on_broken_pipe()
    except Exception as error:
        if sweeping:
            print(f"job {HydraConfig.get().job.num} failed: {error}", file=sys.stderr)
            raise
        _exit(2 if isinstance(error, ConfigError) else 1, str(error) or type(error).__name__, error)


def _prepare_sweep_job(command: str, config: DictConfig) -> None:
    """Put a job below the sweep's folder, and refuse what would run the sweep again in every rank."""
    check_one_device(config)
    if config.get("resume"):
        raise ConfigError("resume goes on with one run, and -m makes several. Leave one of them out.")
    settings = HydraConfig.get()
    if command == "train" and not any(word.startswith("output=") for word in settings.overrides.task):
        config.output = settings.runtime.output_dir
    if command == "plan" and not any(word.startswith("plan.figure=") for word in settings.overrides.task):
        config.plan.figure = f"{settings.runtime.output_dir}/plan.png"


def _overrides_for_other_ranks(config: DictConfig) -> list[str]:
    """Words for further ranks, which share the folder of the first, and the checkpoint that it goes on from."""
    if not config.resume:
        return [f"output={config.output}"]
    if config.resume != "auto":
        return []  # they find what the first does
    from finetune.config.compose import to_run_config
    from finetune.runs.resume import find_resume_point

    before = find_resume_point(to_run_config(config), HydraConfig.get().overrides.task)
    if before is None:
        return [f"output={config.output}", "resume=null"]
    config.resume = str(before.checkpoint)  # `auto` might find another later
    return [f"output={before.folder}", f"resume={config.resume}"]


def check_one_device(config: DictConfig) -> None:
    """Raise a ConfigError if a job of a sweep wants several devices."""
    if "trainer" in config and config.trainer.devices not in (1, "1"):
        raise ConfigError(
            f"-m runs its jobs in one process, so each can have one device; trainer.devices={config.trainer.devices}. "
            f"Set trainer.devices=1, or start the jobs one by one."
        )


def _act(command: str, config: DictConfig) -> float | None:
    import finetune

    if command == "train":
        return finetune.train(config).score
    if command == "evaluate":
        return finetune.evaluate(config).scores["iou"]
    if command == "plan":
        finetune.plan(config)
    elif command == "list":
        from finetune.commands.list_models import list_choices

        list_choices(config)
    else:
        finetune.predict(config)
    return None


def complete_words() -> str:
    """Take the command, which Hydra's completion does not know, out of the line that is completed; return it."""
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
    """Whoever read the output has seen enough, such as `head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
    sys.exit(141)  # as the shell counts a process that SIGPIPE has ended


def _exit(code: int, message: str, error: BaseException | None = None) -> NoReturn:
    if isinstance(error, Exception) and os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    print("\n".join([f"error: {message}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    sys.exit(code)
