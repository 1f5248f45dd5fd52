"""The recorded versions and devices, against what the system reports."""

import subprocess
from pathlib import Path

import pytest
import torch

from finetune.engine.environment import device_name, numerics_environment
from finetune.runs.prepare import INEXACT
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


def test_a_checkpoint_records_them_unchanged(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    before = numerics_environment(trainer)
    trainer.fit(tiny_task(), datamodule=tiny_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert (
        torch.load(tmp_path / "a.ckpt", weights_only=True)["made_by"] == before == numerics_environment(tiny_trainer())
    )
    assert before["accelerator"] == "cpu"
    assert before["threads"] == torch.get_num_threads()
    assert set(INEXACT) == set(before) - {"finetune"}


def test_the_threads_of_ranks_are_known_before_they_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert numerics_environment(tiny_trainer(devices=2, strategy="ddp"))["threads"] == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert numerics_environment(tiny_trainer(devices=2, strategy="ddp"))["threads"] == torch.get_num_threads()


def test_the_processor_has_a_name() -> None:
    name = device_name(torch.device("cpu"))
    assert name
    if Path("/proc/cpuinfo").is_file():
        reported = subprocess.run(["lscpu"], capture_output=True, text=True).stdout
        assert name in reported or "Model name" not in reported
