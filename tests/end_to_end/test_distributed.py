"""Trainings on two ranks, started by the command."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import finetune
from tests import forked
from tests.samples import COMMAND, TINY, draw_folder, shell

DISTRIBUTED = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "data=synthetic", "data.size=32")


def run_in(folder: Path) -> Path:
    """Return the only run folder, and check that nothing else was written."""
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    (run,) = (folder / "outputs").glob("*/*")
    return run


def written_matrix(run: Path) -> torch.Tensor:
    with (run / "evaluation" / "test" / "confusion.csv").open(newline="") as file:
        return torch.tensor([[int(v) for v in row[1:]] for row in list(csv.reader(file))[1:]])


def check(run: Path, output: str, images: int) -> None:
    matrix = written_matrix(run)
    assert matrix.sum() == images * 32 * 32
    again = finetune.evaluate(f"run={run}")
    assert torch.equal(again.matrix, matrix)
    for name in ("images.csv", "interval.json")[: min(images, 2)]:  # an interval takes two images
        assert (run / "evaluation" / "test" / name).read_text() == (again.folder / name).read_text()
    for text in (output, (run / "train.log").read_text()):
        lines = [re.sub(r"^[\d:, -]+ INFO ", "", line) for line in text.splitlines() if line.strip()]
        logged = [line for line in lines if re.match(r"epoch|best|tuning|test_resnet|class |\d+ train", line)]
        assert len(logged) >= 7
        assert len(logged) == len(set(logged)), text
    assert (run / "model" / "model.safetensors").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_two_ranks_write_one_run_with_the_scores_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = forked.start("train", *TINY, *DISTRIBUTED, "data.count=12", cwd=folder, logs=tmp_path)
    code, errors = command.wait()
    assert code == 0, errors
    output = command.stdout.read_text() + errors
    check(run_in(folder), output, images=3)  # two on one rank, and one on the other
    assert "sync_dist" not in output


@pytest.mark.slow
def test_the_module_starts_its_second_rank_too(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "finetune", *TINY, *DISTRIBUTED, "data.count=4")
    done = shell(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(run_in(tmp_path), done.stdout + done.stderr, images=1)  # on one rank, and none on the other


@pytest.mark.slow
def test_a_run_of_two_ranks_resumes_on_one_and_logs_that_it_is_not_exact(tmp_path: Path) -> None:
    overrides = (*TINY, "data=synthetic", "data.size=32", "data.count=12", "data.batch_size=2", "output=run")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1")
    assert shell(COMMAND, "train", *overrides, *two, cwd=tmp_path).returncode == 0
    one = ("trainer.devices=1", "trainer.strategy=auto", "trainer.max_epochs=2")
    done = shell(COMMAND, "train", "resume=run", *one, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "devices 1 instead of 2: each step has the same images" in done.stdout
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [(row["epoch"], row["step"]) for row in csv.DictReader(file)] == [("1", "3"), ("2", "6")]
    resumed = shell(COMMAND, "train", "resume=run", *two[:2], "trainer.max_epochs=3", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    refused = shell(COMMAND, "train", "resume=run", "trainer.max_epochs=4", "trainer.devices=3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "which 3 devices cannot share evenly" in refused.stderr


@pytest.mark.slow
def test_a_run_in_folders_of_any_name_trains_resumes_and_predicts(tmp_path: Path) -> None:
    draw_folder(tmp_path / "Bäume (1)")
    command = (sys.executable, "-m", "finetune")
    data = ("data.root=Bäume (1)", "data.classes=[ground,Straße #1,c=d]", "trainer.max_epochs=1")
    ranks = ("trainer.devices=2", "trainer.strategy=ddp")
    for overrides in (
        (*TINY, *data, *ranks, "output=ä/lr=0.1, (x)"),
        ("resume=ä/lr=0.1, (x)", *ranks, "trainer.max_epochs=2"),
    ):
        done = shell(*command, *overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (printed,) = [line for line in done.stdout.splitlines() if line.startswith("  finetune predict")]
    words = [word.replace("PHOTOS", "Bäume (1)/images/photo_0[0-3].png") for word in shlex.split(printed)[1:]]
    done = shell(*command, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "masks" / "masks").iterdir())) == 4


SCRIPT = """
import sys
import finetune

overrides = sys.argv[1:]
run = finetune.train(*overrides, "trainer.devices=2", "trainer.strategy=ddp", "output=run")
print("after", sorted(run.scores)[:1], flush=True)
assert finetune.evaluate("run=run").scores == run.scores
try:
    finetune.train(*overrides, "trainer.devices=2", "trainer.strategy=ddp", "output=second")
except ValueError as error:
    print("second:", error, flush=True)
"""


@pytest.mark.slow
def test_in_a_script_only_the_first_rank_goes_on_and_further_ranks_are_not_started_twice(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    overrides = [*TINY, "data=synthetic", "data.size=32", "data.count=12"]
    done = shell(sys.executable, "script.py", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after ['dice']") == 1
    assert done.stdout.count("second: this process has run on several devices before") == 1
    assert sorted(path.name for path in (tmp_path / "run" / "evaluation").iterdir()) == ["test", "test_2"]
    assert not (tmp_path / "second").exists()


@pytest.mark.slow
def test_an_evaluation_on_two_ranks_writes_its_files_once(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "finetune")
    assert (
        shell(*command, "train", *TINY, *DISTRIBUTED[2:], "data.count=12", "output=run", cwd=tmp_path).returncode == 0
    )
    done = shell(*command, "evaluate", "run=run", *DISTRIBUTED[:2], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(text) for text in ("test/iou 0.", "test/iou (")] == [1, 1]
    files = [
        sorted(path.name for path in (tmp_path / "run" / "evaluation" / name).iterdir()) for name in ("test", "test_2")
    ]
    assert files[0] == files[1]
