"""The command itself: what it answers at once, its exit codes, sweeps, completion."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import finetune
from finetune import cli
from finetune.cli import completed_command, split_command
from tests.samples import COMMAND, DRAWN, TINY, clean_environment, exit_code, listing, shell

HEAVY = ("torch", "torchvision", "timm", "lightning", "segmentation_models_pytorch", "matplotlib", "PIL")
ANSWER = f"""
import atexit, sys, time
began = time.perf_counter()
def look():
    seconds = time.perf_counter() - began
    print("heavy", [name for name in {HEAVY} if name in sys.modules], "seconds", round(seconds, 2), file=sys.stderr)
atexit.register(look)
from finetune.cli import main
main()
"""
FAILING = "+callbacks.bad._target_=tests.samples.Breaks"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], "finetune train data.root=FOLDER"),
        ([], "finetune train data.root=FOLDER"),
        (["--version"], finetune.__version__),
        (["train", "--help"], "backbone: convnext_tiny, efficientnet_b0"),
        (["evaluate", "--help"], "split: null"),
        (["train", "--cfg", "job"], "name: tf_efficientnet_lite0"),
        (["data.root=photos", "--cfg", "job"], "root: photos"),
        (["train", "--info"], "Config search path"),
        (["predict", "--cfg", "job"], "overlays: true"),
        (["list", "backbones", "convnext_nano*", "parameters=30"], "2 of 1,371 backbones"),
        (["list", "heads"], "19 of 19 heads"),
        (["list", "--cfg", "job"], "what: backbones"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_a_question_is_answered_at_once_and_without_torch(folder: Path, words: list[str], expected: str) -> None:
    began = time.perf_counter()
    done = shell(sys.executable, "-c", ANSWER, *words, cwd=folder)
    assert time.perf_counter() - began < 3  # 1 on a machine with nothing else to do
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert "heavy [] seconds" in done.stderr
    assert listing(folder) == {}


def test_the_installed_command_and_the_module_are_the_same(folder: Path) -> None:
    command = shell(COMMAND, "predict", "--cfg", "job", cwd=folder)
    module = shell(sys.executable, "-m", "finetune", "predict", "--cfg", "job", cwd=folder)
    assert command.returncode == module.returncode == 0
    assert command.stdout == module.stdout
    assert "overlays" in module.stdout


def test_without_a_command_the_words_are_those_of_train() -> None:
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


def test_an_unknown_command_ends_with_2_and_says_what_there_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("tain", "seed=3") == 2
    assert (
        "unknown command 'tain'. Choose from: train, plan, evaluate, predict, export, list;" in capsys.readouterr().err
    )


def test_bare_settings_train_and_every_command_ends_with_0(folder: Path) -> None:
    assert exit_code(*DRAWN, "output=run") == 0
    assert (folder / "run" / "model" / "model.safetensors").is_file()
    command = json.loads((folder / "run" / "env.json").read_text())["command"]
    assert command[1:] == ["train", *DRAWN, "output=run", "output=run"]  # the second is for further processes
    assert exit_code("evaluate", "run=run") == 0
    assert exit_code("predict", "run=run", "input=run/plots/preview", "output=masks") == 0
    assert len(list((folder / "masks" / "masks").iterdir())) == 1


def test_a_run_that_fails_ends_with_1_and_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *DRAWN, FAILING, "output=run") == 1
    assert capsys.readouterr().err.splitlines()[-2:] == ["error: the disk is full", "nothing was saved yet"]


@pytest.mark.parametrize("words", [(FAILING,), ("data.bach_size=3",), ("backbone.name=resnt18",)])
def test_a_traceback_is_shown_only_when_it_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    exit_code("train", *DRAWN, *words, "output=quiet")
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    exit_code("train", *DRAWN, *words, "output=loud")
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, str]]:
    """Two trainings, each ended by a signal: run folder, exit code, and what was said on standard error."""
    words = [COMMAND, "train", *DRAWN, "trainer.max_epochs=5000", "callbacks.early_stopping=null", "output=run"]
    folders = {name: tmp_path_factory.mktemp(name) for name in ("SIGINT", "SIGTERM")}
    processes = {name: start(words, folder) for name, folder in folders.items()}
    ended = {}
    try:
        for name, process in processes.items():
            wait_for(folders[name] / "run" / "metrics.csv", process)
            process.send_signal(getattr(signal, name))
            said = process.communicate(timeout=60)[1]
            ended[name] = (folders[name] / "run", process.returncode, said)
    finally:
        for process in processes.values():
            process.kill()
    return ended


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,  # a full pipe would stop it
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has told its children to ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_a_training_with_its_code_and_a_checkpoint(
    signalled: dict[str, tuple[Path, int, str]], name: str, code: int
) -> None:
    run, ended, said = signalled[name]
    assert ended == code, said
    assert "Traceback" not in said
    assert finetune.load(run).class_names[0] == "background"
    assert not list(run.rglob("*.tmp"))


def test_a_sweep_makes_one_folder_for_each_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results: list[float | None] = []
    job = cli._job
    monkeypatch.setattr(cli, "_job", lambda *a: results.append(job(*a)) or results[-1])
    assert exit_code("train", "-m", *DRAWN, "name=shapes", "seed=0,1") == 0, capsys.readouterr().err
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


def test_a_sweep_whose_job_fails_ends_with_its_code_and_names_the_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "-m", *DRAWN, "optimizer.name=adamw,adamww") == 2
    said = capsys.readouterr().err
    assert "job 1 failed" in said
    assert "adamww" in said
    assert "Traceback" not in said
    assert len(list(folder.glob("multirun/run/*/0/model/model.safetensors"))) == 1
    assert list(folder.glob("multirun/run/*/1/*")) == []


@pytest.mark.parametrize("devices", ["2", "auto", "[0]"])
def test_a_sweep_over_several_devices_is_refused(folder: Path, devices: str) -> None:
    # not in this process, which further ranks would take down with them
    words = (*TINY, "data=synthetic", "trainer.max_epochs=1", f"trainer.devices={devices}", "seed=0,1")
    done = shell(COMMAND, "train", "-m", *words, cwd=folder)
    assert done.returncode == 2
    assert "one device" in done.stderr
    assert "trainer.devices=1" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.rglob("config.yaml")) == []


def test_a_misspelt_word_in_a_sweep_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", "-m", *DRAWN, "sed=0,1") == 2
    assert "Did you mean seed" in capsys.readouterr().err
    assert listing(folder) == {}


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
def test_the_tab_key_completes_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, offered: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert exit_code("-sc", "query=bash") == 0
    assert [word for word in capfd.readouterr().out.split() if not word.endswith(".")] == offered.split()


def test_the_command_is_taken_out_of_the_line_that_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
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
