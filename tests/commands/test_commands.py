"""The table of commands: one row drives the command line, the help and `finetune.<command>`."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig

import finetune
from finetune.cli import main
from finetune.commands import COMMANDS, Command


@dataclass(frozen=True)
class Greeting:
    """The result of the command below."""

    score: float


def greet(config: DictConfig) -> Greeting:
    """Print a greeting, as a command that lives outside the package."""
    print(f"hello {config.who}")
    return Greeting(score=float(len(config.who)))


@pytest.fixture
def config_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add the command `greet` to the table, with its YAML file in a folder of its own."""
    monkeypatch.setitem(COMMANDS, "greet", Command(f"{__name__}:greet", (("who=you", "say hello"),)))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "greet.yaml").write_text("who: nobody\nhydra: {run: {dir: .}, output_subdir: null}\n")
    return folder


def test_a_command_from_outside_runs_on_the_command_line(config_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["greet", "--config-dir", str(config_dir), "who=Ada"])
    assert "hello Ada" in capsys.readouterr().out


def test_a_command_from_outside_is_in_the_help(config_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "finetune greet who=you" in capsys.readouterr().out


def test_a_command_from_outside_is_a_function_of_the_package(config_dir: Path) -> None:
    assert finetune.greet(DictConfig({"who": "Ada"})).score == 3.0


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_loads(name: str) -> None:
    assert callable(COMMANDS[name].load())
