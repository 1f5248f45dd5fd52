"""Files are whole at every moment, and on the disk before they have their names."""

import os
import stat
from pathlib import Path

import pytest

from finetune.io.atomic_write import replace_text, sync_folder, write_together


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_text_takes_the_place_of_another(tmp_path: Path) -> None:
    replace_text(tmp_path / "config.yaml", "old")
    replace_text(tmp_path / "config.yaml", "née")
    assert (tmp_path / "config.yaml").read_bytes() == "née".encode()
    assert contents(tmp_path).keys() == {"config.yaml"}


def test_all_are_on_the_disk_before_one_has_its_name_and_then_their_names_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str, str]] = []

    def noted(handle: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), *((tmp_path / name).read_text() for name in "ab")))

    write_together(tmp_path, {name: lambda part: part.write_text("old") for name in "ab"})
    monkeypatch.setattr(os, "fsync", noted)
    write_together(tmp_path, {name: lambda part: part.write_text("new") for name in "ab"})
    assert seen == [(False, "old", "old"), (False, "old", "old"), (True, "new", "new")]


@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt("Ctrl-C")])
def test_where_one_cannot_be_written_all_stay_as_they_were(tmp_path: Path, error: BaseException) -> None:
    def break_off(part: Path) -> None:
        part.write_text("half")
        raise error

    write_together(tmp_path, {name: lambda part: part.write_text("old") for name in "ab"})
    with pytest.raises(type(error), match=str(error)):
        write_together(tmp_path, {"a": lambda part: part.write_text("new"), "b": break_off})
    assert contents(tmp_path) == {"a": "old", "b": "old"}


def test_a_full_disk_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int) -> None:
        raise OSError("No space left")

    (tmp_path / "config.yaml").write_text("old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "config.yaml", "new")
    assert contents(tmp_path) == {"config.yaml": "old"}


def test_a_system_that_opens_no_folders_is_no_mistake(tmp_path: Path) -> None:
    sync_folder(tmp_path / "none")
