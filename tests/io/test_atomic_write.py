"""Atomic writes: old or new files at any time, synced before they get their names."""

import os
import stat
from pathlib import Path

import pytest

from finetune.io.atomic_write import replace_text, sync_folder, write_together


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_old_files(folder: Path) -> None:
    write_together(folder, {name: lambda part: part.write_text("old") for name in "ab"})


def test_a_text_replaces_another(tmp_path: Path) -> None:
    replace_text(tmp_path / "config.yaml", "old")
    replace_text(tmp_path / "config.yaml", "née\r\n")
    assert (tmp_path / "config.yaml").read_bytes() == "née\r\n".encode()
    assert contents(tmp_path).keys() == {"config.yaml"}


def test_all_files_are_synced_before_any_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[tuple[bool, str, str]] = []

    def record(handle: int) -> None:
        syncs.append((stat.S_ISDIR(os.fstat(handle).st_mode), *((tmp_path / name).read_text() for name in "ab")))

    write_old_files(tmp_path)
    monkeypatch.setattr(os, "fsync", record)
    write_together(tmp_path, {name: lambda part: part.write_text("new") for name in "ab"})
    assert syncs == [(False, "old", "old"), (False, "old", "old"), (True, "new", "new")]


@pytest.mark.parametrize("step", ["write", "verify", "sync"])
@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt("Ctrl-C")])
def test_a_failure_leaves_all_files_as_they_were(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    def write_half(part: Path) -> None:
        part.write_text("half")
        if step == "write":
            fail()

    write_old_files(tmp_path)
    if step == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error), match=str(error)):
        write_together(tmp_path, {"a": write_half, "b": write_half}, verify=fail if step == "verify" else None)
    assert contents(tmp_path) == {"a": "old", "b": "old"}


def test_a_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path / "none")
