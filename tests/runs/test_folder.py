"""Run folders: their state, also if their files are corrupt."""

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
def _logs_propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)  # a training in this process turns it off


def run_of(folder: Path, facts: str | None = None) -> Path:
    """Write the folder of an unfinished run."""
    write({}, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine", "output": str(folder)}))
    if facts is not None:
        (folder / "env.json").write_text(facts)
    return folder


CORRUPT = {
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


@pytest.mark.parametrize("content", CORRUPT)
def test_a_run_with_a_corrupt_env_json_is_unfinished_and_named_once(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_of(tmp_path / "run")
    (folder / "env.json").write_bytes(CORRUPT[content].encode("utf-8", "surrogateescape"))
    assert not is_finished(folder)
    assert not is_finished(folder)
    assert caplog.text.count(f"{folder / 'env.json'}'") == 1
    assert newest_unfinished_run([folder], "mine") == folder


@pytest.mark.parametrize("content", CORRUPT)
def test_a_corrupt_run_does_not_hide_the_others(content: str, tmp_path: Path) -> None:
    folder, other = run_of(tmp_path / "run"), run_of(tmp_path / "other")
    (other / "config.yaml").write_text(yaml.safe_dump({"name": "another", "output": str(other)}))
    (other / "env.json").write_bytes(CORRUPT[content].encode("utf-8", "surrogateescape"))
    assert newest_unfinished_run([other, folder], "mine") == folder


@pytest.mark.parametrize("facts", ["", "[]", '{"resumed": 7}'])
def test_a_run_with_a_corrupt_env_json_can_be_resumed_and_finished(facts: str, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", facts)
    open_run_folder(folder, {"seed": 0, "name": "mine"}, resumed=True)
    close_log(folder)
    mark_finished(folder)
    assert is_finished(folder)
    assert len(read_json(folder / "env.json")["resumed"]) == 1


def test_env_json_stays_readable_however_often_a_run_is_resumed(tmp_path: Path) -> None:
    resumed = [{"at": str(number), "command": ["x" * 5000]} for number in range(100)]
    write_environment(tmp_path, {"seed": 0, "resumed": resumed, "finished": "now"})
    assert (tmp_path / "env.json").stat().st_size <= LONGEST_TEXT
    assert json.loads((tmp_path / "env.json").read_text())["resumed"][-1] == resumed[-1]
    assert is_finished(tmp_path)


def test_a_huge_env_json_of_another_run_does_not_fill_the_memory(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", "{}")
    with (folder / "env.json").open("r+b") as file:
        file.truncate(2**33)  # a sparse file takes no space on the disk
    before = resident() if reset_peak() else None
    assert not is_finished(folder)
    assert before is None or (peak() or 0) - before < 100 * 2**20


def test_a_run_folder_that_cannot_be_written_leaves_no_log_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    handlers = list(logging.getLogger("finetune").handlers)
    monkeypatch.setattr("finetune.runs.folder.replace_text", full)
    with pytest.raises(OSError, match="No space left"):
        open_run_folder(tmp_path / "run", {"seed": 0, "name": "mine"})
    assert logging.getLogger("finetune").handlers == handlers


def test_the_log_of_a_run_folder_behind_a_link_is_closed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk", target_is_directory=True)
    handlers = list(logging.getLogger("finetune").handlers)
    open_run_folder(tmp_path / "runs" / "first", {"seed": 0, "name": "mine"})
    close_log(tmp_path / "runs" / "first")
    assert logging.getLogger("finetune").handlers == handlers
