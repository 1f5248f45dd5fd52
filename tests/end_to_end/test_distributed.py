"""Two processes on one machine, started by the real command."""

import csv
import re
import sys
from pathlib import Path

import pytest
import torch

import finetune
from tests.samples import COMMAND, TINY, shell

DISTRIBUTED = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "data=synthetic", "data.size=32")


def trained(folder: Path, *command: str) -> tuple[Path, str]:
    """The one run folder that the command leaves, and what it printed."""
    done = shell(*command, *TINY, *DISTRIBUTED, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    (run,) = (folder / "outputs").glob("*/*")
    return run, done.stdout + done.stderr


def written_matrix(run: Path) -> torch.Tensor:
    with (run / "evaluation" / "test" / "confusion.csv").open(newline="") as file:
        return torch.tensor([[int(v) for v in row[1:]] for row in list(csv.reader(file))[1:]])


def check(run: Path, printed: str, images: int) -> None:
    matrix = written_matrix(run)
    assert matrix.sum() == images * 32 * 32
    assert torch.equal(finetune.evaluate(f"run={run}").matrix, matrix)
    for text in (printed, (run / "train.log").read_text()):
        lines = [re.sub(r"^[\d:, -]+ INFO ", "", line) for line in text.splitlines() if line.strip()]
        told = [line for line in lines if re.match(r"epoch|best|tuning|test_resnet|class |\d+ train", line)]
        assert len(told) >= 7
        assert len(told) == len(set(told)), text
    assert (run / "model" / "model.safetensors").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_two_processes_leave_one_run_with_the_scores_of_one(tmp_path: Path) -> None:
    run, printed = trained(tmp_path, COMMAND, "train", "data.count=12")  # 3 test images: two and one
    check(run, printed, images=3)
    assert "sync_dist" not in printed


@pytest.mark.slow
def test_the_module_starts_its_second_process_too(tmp_path: Path) -> None:
    run, printed = trained(tmp_path, sys.executable, "-m", "finetune", "data.count=4")  # 1 test image: one and none
    check(run, printed, images=1)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one_and_says_what_is_not_exact(tmp_path: Path) -> None:
    words = (*TINY, "data=synthetic", "data.size=32", "data.count=12", "data.batch_size=2", "output=run")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1")
    assert shell(COMMAND, "train", *words, *two, cwd=tmp_path).returncode == 0
    one = ("trainer.devices=1", "trainer.strategy=auto", "trainer.max_epochs=2")
    done = shell(COMMAND, "train", "resume=run", *one, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "devices 1 instead of 2: each step has the same images" in done.stdout
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [(row["epoch"], row["step"]) for row in csv.DictReader(file)] == [("1", "3"), ("2", "6")]
    again = shell(COMMAND, "train", "resume=run", *two[:2], "trainer.max_epochs=3", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    refused = shell(COMMAND, "train", "resume=run", "trainer.max_epochs=4", "trainer.devices=3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "which 3 devices cannot share evenly" in refused.stderr
