"""What a run folder knows of its run, also when its files are damaged."""

import json
import logging
from pathlib import Path

import pytest
import yaml

from finetune.checkpoints.checkpoint_io import write
from finetune.io.safe_files import LONGEST_TEXT, read_json
from finetune.profiling.memory import peak, reset_peak, resident
from finetune.runs.folder import close_log, is_finished, mark_finished, open_run_folder, write_environment
from finetune.runs.resume import newest_unfinished_run


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)  # a training in this process ends that


def run_of(folder: Path, facts: str | None = None) -> Path:
    """What is left of a run that was not finished."""
    write({}, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine", "output": str(folder)}))
    if facts is not None:
        (folder / "env.json").write_text(facts)
    return folder


DAMAGED = {
    "empty": "",
    "half": '{"command": ["fine',
    "list": "[]",
    "text": '"finished"',
    "null": "null",
    "deep": "[" * 100_000 + "]" * 100_000,
    "long": json.dumps({"finished": "x" * 300_000}),
    "many": json.dumps([0] * 30_000),
    "no text": "\udcff",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_run_whose_facts_are_damaged_is_not_finished_and_is_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_of(tmp_path / "run")
    (folder / "env.json").write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
    assert not is_finished(folder)
    assert not is_finished(folder)
    assert caplog.text.count(f"{folder / 'env.json'}'") == 1
    assert newest_unfinished_run([folder], "mine") == folder


@pytest.mark.parametrize("kind", DAMAGED)
def test_one_damaged_neighbor_does_not_stop_all(kind: str, tmp_path: Path) -> None:
    folder, other = run_of(tmp_path / "run"), run_of(tmp_path / "other")
    (other / "config.yaml").write_text(yaml.safe_dump({"name": "another", "output": str(other)}))
    (other / "env.json").write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
    assert newest_unfinished_run([other, folder], "mine") == folder


@pytest.mark.parametrize("facts", ["", "[]", '{"resumed": 7}'])
def test_a_run_whose_facts_are_damaged_goes_on_and_is_finished(facts: str, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", facts)
    open_run_folder(folder, {"seed": 0, "name": "mine"}, again=True)
    close_log(folder)
    mark_finished(folder)
    assert is_finished(folder)
    assert len(read_json(folder / "env.json")["resumed"]) == 1


def test_the_facts_stay_short_enough_to_be_read_however_often_a_run_goes_on(tmp_path: Path) -> None:
    resumed = [{"at": str(number), "command": ["x" * 5000]} for number in range(100)]
    write_environment(tmp_path, {"seed": 0, "resumed": resumed, "finished": "now"})
    assert (tmp_path / "env.json").stat().st_size <= LONGEST_TEXT
    assert json.loads((tmp_path / "env.json").read_text())["resumed"][-1] == resumed[-1]
    assert is_finished(tmp_path)


def test_memory_is_not_filled_by_the_facts_of_a_neighbor(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", "{}")
    with (folder / "env.json").open("r+b") as file:
        file.truncate(2**33)  # zeros that are nowhere on the disk
    before = resident() if reset_peak() else None
    assert not is_finished(folder)
    assert before is None or (peak() or 0) - before < 100 * 2**20
