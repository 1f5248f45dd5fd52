"""Two processes on one machine, started by the real command."""

import csv
import re
import sys
from pathlib import Path

import pytest
import torch

import finetune
from tests.samples import COMMAND, TINY, shell

DISTRIBUTED = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "data=drawn", "data.size=32")


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
