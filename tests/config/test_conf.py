"""Every file in conf/ composes, passes the checks, and names classes that exist."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from finetune.builders.checks.training import check
from finetune.commands import COMMANDS
from finetune.config.compose import compose, load_config, to_plain_dict
from finetune.config.folder import BASE, config_folder
from finetune.models.instance_heads import INSTANCE_HEADS

CONF = config_folder()
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
GROUPS = {str(file.parent) for file in FILES}
OPTIONS = [
    file
    for file in FILES
    if str(file.parent) not in (".", "hydra", "data", "experiment", "post")
    and file.stem != "from_run"
    # these heads are for models of objects, which no task trains
    and not (file.parent.name == "head" and file.stem in INSTANCE_HEADS)
]
EXPERIMENTS = [file for file in FILES if str(file.parent) == "experiment"]


def content(file: Path) -> dict[str, Any]:
    return yaml.safe_load((CONF / file).read_text()) or {}


def targets(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        yield from (value for key, value in values.items() if key == "_target_")
        values = list(values.values())
    for value in values if isinstance(values, list) else ():
        yield from targets(value)


def test_the_files_are_found() -> None:
    assert len(FILES) >= 90
    assert {"backbone", "head", "data", "augment", "loss", "tuning", "optimizer", "schedule", "trainer"} < GROUPS
    assert {path.suffix for path in CONF.rglob("*") if path.is_file()} == {".yaml"}


def test_there_is_one_config_for_each_command() -> None:
    assert {file.stem for file in FILES if str(file.parent) == "."} == set(COMMANDS)


# overrides without which an option does not pass the check
NEEDED = {
    "backbone/timm.yaml": ("backbone.name=resnet18",),
    "loss/foreign.yaml": ("loss.target=torch.nn.CrossEntropyLoss",),
    **{f"head/{name}.yaml": ("task=instance", "data.instances=components") for name in INSTANCE_HEADS},
    "loss/of_head.yaml": ("task=instance", "data.instances=components"),
    "task/instance.yaml": ("data.instances=components",),
    **{f"loss/{name}.yaml": ("task=multilabel",) for name in ("bce", "bce_dice", "sigmoid_focal")},
}


@cache
def composed(file: Path) -> DictConfig:
    """Return a config with this file, and with defaults otherwise."""
    group, name = str(file.parent), file.stem
    if group == ".":
        return compose(command=name)
    if name == BASE:  # in which others have their settings
        return compose("data=custom")
    if name == "from_run" or group == "post":
        return compose(f"{group}={name}", command="evaluate")
    synthetic = ["data=synthetic", "data.count=4"] if file in OPTIONS else []
    return compose(f"{group}={name}", *synthetic, *NEEDED.get(str(file), ()))


# hydra/ is not part of a composed config; the help in test_cli shows it
@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name != "hydra"], ids=str)
def test_every_file_composes(file: Path) -> None:
    config = composed(file)
    to_plain_dict(config)
    group = "callbacks" if str(file.parent) == "average" else str(file.parent)  # averages are callbacks
    section = config if group in (".", "experiment", "recipe") else config[group]
    values = OmegaConf.to_container(section)
    assert isinstance(values, dict)
    for key, value in content(file).items():
        if isinstance(value, dict) and key in values:
            assert {k: values[key][k] for k in value} == value, key
        elif key != "defaults" and str(file) not in ("backbone/timm.yaml", "loss/foreign.yaml"):
            assert values[key] == value, key


@pytest.mark.parametrize("file", OPTIONS, ids=str)
def test_every_option_passes_the_check_before_a_training(file: Path) -> None:
    config = load_config([composed(file)], "train")
    if file.parent.name == "callbacks":  # the others follow the scores that this one logs
        config["callbacks"] = {"iou": {"_target_": "finetune.callbacks.IoU"}, **config["callbacks"]}
    check(config)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=str)
def test_every_experiment_opens_with_its_command(file: Path) -> None:
    lines = [line for line in (CONF / file).read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith(f"# finetune train experiment={file.stem}")
    assert content(file)["name"] == file.stem


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_starts_with_a_comment(file: Path) -> None:
    first = (CONF / file).read_text().splitlines()[0]
    assert first.startswith("# ")


def test_every_target_exists() -> None:
    named = {target: file for file in FILES for target in targets(content(file))}
    assert len(named) >= 12  # callbacks and loggers
    for target in named:
        assert isinstance(get_object(target), type), target
