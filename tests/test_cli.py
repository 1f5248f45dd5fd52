"""The command line: help without torch, exit codes, sweeps, completion."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import finetune
from finetune import cli
from finetune.cli import check_one_device, completed_command, split_command
from finetune.commands import COMMANDS
from finetune.config.errors import ConfigError
from tests import forked
from tests.samples import COMMAND, SYNTHETIC, TINY, exit_code, listing, shell

pytestmark = pytest.mark.usefixtures("without_figures")

FULL = "warning: standard output cannot be written, and is left out: [Errno 28]"
HEAVY = ("torch", "torchvision", "timm", "lightning", "segmentation_models_pytorch", "matplotlib", "PIL")
ANSWER = f"""
import contextlib, io, json, sys, time
from finetune.cli import main
for arguments in json.load(sys.stdin):
    begin, stdout = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.suppress(SystemExit):
        main(arguments)
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([stdout.getvalue(), heavy, time.perf_counter() - begin]), flush=True)
"""
QUESTIONS = [
    (["--help"], "finetune train data.root=FOLDER"),
    ([], "finetune train data.root=FOLDER"),
    (["--version"], finetune.__version__),
    (["train", "--help"], "backbone: convnext_tiny, efficientnet_b0"),
    (["evaluate", "--help"], "split: null"),
    (["train", "--cfg", "job"], "name: tf_efficientnet_lite0"),
    (["data.root=photos", "--cfg", "job"], "root: photos"),
    (["train", "--info"], "Config search path"),
    (["train", "data=synthetic", "--info"], "Config search path"),
    (["predict", "--cfg", "job"], "write:\n- overlays"),
    (["list", "backbones", "convnext_nano*", "parameters=30"], "2 of 1,371 backbones"),
    (["list", "backbones", "for=cpu"], "measured backbones"),
    (["list", "heads"], "21 of 21 heads"),
    (["list", "--cfg", "job"], "what: backbones"),
]
FAILING = "+callbacks.bad._target_=tests.samples.Breaks"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def test_questions_are_answered_at_once_without_torch(folder: Path) -> None:
    questions = json.dumps([arguments for arguments, _ in QUESTIONS])
    (folder / "questions.json").write_text(questions)
    done = shell("sh", "-c", 'exec "$@" < questions.json', "sh", sys.executable, "-c", ANSWER, cwd=folder)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(QUESTIONS)
    for (arguments, expected), (stdout, heavy, seconds) in zip(QUESTIONS, answers, strict=True):
        assert expected in stdout, arguments
        assert heavy == [], arguments
        assert seconds < 3, arguments  # 0.3 on an idle machine
    assert listing(folder).keys() == {"questions.json"}


def test_the_installed_command_and_the_module_print_the_same(folder: Path) -> None:
    command = shell(COMMAND, "predict", "--cfg", "job", cwd=folder)
    module = shell(sys.executable, "-m", "finetune", "predict", "--cfg", "job", cwd=folder)
    assert command.returncode == module.returncode == 0
    assert command.stdout == module.stdout
    assert "write" in module.stdout


def test_a_closed_pipe_ends_the_process_without_a_traceback(folder: Path) -> None:
    done = shell("bash", "-c", f"set -o pipefail; {COMMAND} list backbones | head -1", cwd=folder)
    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_overrides_without_a_command_are_those_of_train() -> None:
    assert split_command(["seed=3", "head=fpn"]) == ("train", ["seed=3", "head=fpn"])
    assert split_command(["-m", "seed=3,4"]) == ("train", ["-m", "seed=3,4"])
    assert split_command(["+a=3"]) == ("train", ["+a=3"])
    assert split_command(["~callbacks.preview"]) == ("train", ["~callbacks.preview"])
    assert split_command(["predict", "run=a"]) == ("predict", ["run=a"])
    assert split_command(["train"]) == ("train", [])
    assert split_command(["list", "heads", "u*", "--cfg", "job"]) == (
        "list",
        ["what='heads'", "name='u*'", "--cfg", "job"],
    )
    assert split_command(["list", "parameters=3", "--cfg", "job"]) == ("list", ["parameters=3", "--cfg", "job"])


def test_an_unknown_command_exits_with_2_and_lists_the_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("tain", "seed=3") == 2
    assert f"unknown command 'tain'. Choose from: {', '.join(COMMANDS)};" in capsys.readouterr().err


def test_overrides_alone_train_and_every_command_exits_with_0(folder: Path) -> None:
    assert exit_code(*SYNTHETIC, "output=run") == 0
    assert (folder / "run" / "model" / "model.safetensors").is_file()
    command = json.loads((folder / "run" / "env.json").read_text())["command"]
    assert command[1:] == ["train", *SYNTHETIC, "output=run", "output=run"]  # the second is for further ranks
    assert exit_code("evaluate", "run=run") == 0
    assert exit_code("predict", "run=run", "input=run/plots/preview", "output=masks") == 0
    assert len(list((folder / "masks" / "masks").iterdir())) == 1


def test_a_failed_run_exits_with_1_and_a_short_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *SYNTHETIC, FAILING, "output=run") == 1
    assert capsys.readouterr().err.splitlines()[-2:] == ["error: the disk is full", "nothing was saved yet"]


@pytest.mark.parametrize("overrides", [(FAILING,), ("data.bach_size=3",), ("backbone.name=resnt18",)])
def test_a_traceback_is_shown_only_if_hydra_full_error_is_set(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    exit_code("train", *SYNTHETIC, *overrides, "output=quiet")
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    exit_code("train", *SYNTHETIC, *overrides, "output=loud")
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ended_by_signal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, str]]:
    """Two trainings, each ended by a signal at some moment: run folder, exit code, standard error."""
    overrides = ("train", *SYNTHETIC, "trainer.max_epochs=5000", "callbacks.early_stopping=null", "output=run")
    folders = {name: tmp_path_factory.mktemp(name) for name in ("SIGINT", "SIGTERM")}
    commands = {name: forked.start(*overrides, cwd=folder, logs=folder) for name, folder in folders.items()}
    ended = {}
    try:
        for name, command in commands.items():
            wait_for(folders[name] / "run" / "metrics.csv", command)
            assert command.process.pid is not None
            os.kill(command.process.pid, getattr(signal, name))
            ended[name] = (folders[name] / "run", *command.wait())
    finally:
        for command in commands.values():
            command.process.kill()
    return ended


def wait_for(path: Path, command: forked.Command, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert command.process.is_alive(), command.stderr.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_a_training_with_its_code_and_a_checkpoint(
    ended_by_signal: dict[str, tuple[Path, int, str]], name: str, code: int
) -> None:
    run, exit_code, message = ended_by_signal[name]
    assert exit_code == code, message
    assert "Traceback" not in message
    assert finetune.load(run).class_names[0] == "background"
    assert not list(run.rglob("*.tmp"))


def test_a_sweep_writes_one_folder_for_each_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results: list[float | None] = []
    job = cli._job
    monkeypatch.setattr(cli, "_job", lambda *a: results.append(job(*a)) or results[-1])
    assert exit_code("train", "-m", *SYNTHETIC, "name=shapes", "seed=0,1") == 0, capsys.readouterr().err
    (sweep,) = (folder / "multirun" / "shapes").iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1"]
    assert not (folder / "outputs").exists()
    for number in (0, 1):
        config = yaml.safe_load((sweep / str(number) / "config.yaml").read_text())
        assert config["seed"] == number
        assert (sweep / str(number) / "model" / "model.safetensors").is_file()
        assert results[number] == pytest.approx(best_score(sweep / str(number)), abs=1e-6)
    assert results[0] != results[1]


def best_score(run: Path) -> float:
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return max(float(row[header.index("val/iou")]) for row in rows)


def test_a_sweep_with_a_failed_job_exits_with_its_code_and_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "-m", *SYNTHETIC, "optimizer.name=adamw,adamww") == 2
    message = capsys.readouterr().err
    assert "job 1 failed" in message
    assert "adamww" in message
    assert "Traceback" not in message
    assert len(list(folder.glob("multirun/run/*/0/model/model.safetensors"))) == 1
    assert list(folder.glob("multirun/run/*/1/*")) == []


def test_a_list_of_one_device_is_one_device() -> None:
    for devices in (1, "1", [1]):
        check_one_device(OmegaConf.create({"trainer": {"devices": devices}}))
    with pytest.raises(ConfigError, match="each can have one device"):
        check_one_device(OmegaConf.create({"trainer": {"devices": [0, 1]}}))


@pytest.mark.parametrize("devices", ["2", "auto"])
def test_a_sweep_over_several_devices_is_refused(folder: Path, devices: str) -> None:
    # in another process, as further ranks of a training would end this one
    overrides = (*TINY, "data=synthetic", f"trainer.devices={devices}", "seed=0,1")
    code, message = forked.start("train", "-m", *overrides, cwd=folder, logs=folder).wait()
    assert code == 2
    assert "one device" in message
    assert "trainer.devices=1" in message
    assert "Traceback" not in message
    assert list(folder.rglob("config.yaml")) == []


def test_a_misspelled_override_of_a_sweep_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", "-m", *SYNTHETIC, "sed=0,1") == 2
    assert "Did you mean seed" in capsys.readouterr().err
    assert exit_code("train", *SYNTHETIC, "-m", "seed=0,1", "optimizer=adamw,sdg") == 2  # overrides on both sides
    assert "optimizer has no option 'sdg'. Did you mean sgd" in capsys.readouterr().err
    assert exit_code("train", "-m", *SYNTHETIC, "seed=0,1", "+seeds=3") == 2
    assert "nothing reads seeds=3" in capsys.readouterr().err
    assert listing(folder) == {}


def test_settings_with_dashes_are_refused_with_how_to_type_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "--data.root=photos", "--trainer.max_epochs", "3") == 2
    assert "settings have no dashes. Type data.root=photos, its value after =" in capsys.readouterr().err


def test_an_option_of_a_folder_of_ones_own_is_found_and_offered(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "cells.yaml").write_text("# @package _global_\nseed: 7\n")
    assert exit_code("train", "--config-dir", "mine", *SYNTHETIC, "experiment=cels") == 2
    assert "experiment has no option 'cels'. Did you mean cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("finetune train backb", "backbone="),
        ("finetune backb", "backbone="),
        ("finetune train backbone=res", "backbone=resnet18 backbone=resnet50"),
        ("finetune train optimizer.l", "optimizer.lr="),
        ("finetune evaluate spl", "split="),
        ("finetune predict inp", "input="),
    ],
)
def test_the_tab_key_completes_overrides(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, offered: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert exit_code("-sc", "query=bash") == 0
    assert [word for word in capfd.readouterr().out.split() if not word.endswith(".")] == offered.split()


def test_completion_removes_the_command_from_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "finetune train  seed=3 back")
    monkeypatch.setenv("COMP_POINT", "27")
    assert completed_command() == "train"
    assert cli.os.environ["COMP_LINE"] == "finetune  seed=3 back"
    assert cli.os.environ["COMP_POINT"] == "21"


def test_completion_works_in_bash(folder: Path) -> None:
    script = (
        f'eval "$({COMMAND} -sc install=bash)"; COMP_LINE="finetune train backbone=resnet1"; '
        'COMP_POINT=${#COMP_LINE}; COMP_CWORD=2; hydra_bash_completion; echo "${COMPREPLY[@]}"; complete -p finetune'
    )
    done = shell("bash", "-c", script, cwd=folder)
    assert "resnet18" in done.stdout.splitlines()[0], done
    assert "hydra_bash_completion finetune" in done.stdout


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        pytest.param(">&-", "", marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", "", marks=pytest.mark.slow),
        pytest.param("> /dev/full", FULL, marks=pytest.mark.slow),
    ],
)
def test_a_training_whose_output_is_closed_or_full_finishes(streams: str, message: str, folder: Path) -> None:
    command = f"{COMMAND} train {' '.join(SYNTHETIC)} output=run"
    done = shell("bash", "-c", f"{command} {streams}", cwd=folder)
    assert done.returncode == 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "run" / "model" / "model.safetensors").is_file()
    assert "best validation score" in (folder / "run" / "train.log").read_text()
