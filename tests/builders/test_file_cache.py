"""Commands read the files of a data set once."""

import os
from pathlib import Path

import pytest

from finetune.builders.checks.training import check
from finetune.builders.inspection import file_cache
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.runs.prepare import note_data
from tests.samples import TINY, draw_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = draw_folder(tmp_path / "photos")
    for path in root.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    return root


def test_a_second_run_on_the_same_data_decodes_and_hashes_nothing_before_it_trains(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([*TINY, f"data.root={photos}"], "train")
    first, data = check(config)
    note_data(tmp_path, data.records, None, file_cache(first["data"]))
    hashes = (tmp_path / "fingerprints.csv").read_text()
    for name in ("statistics.take_reading", "files.MaskFile.contents", "caching.fingerprint._fingerprint"):
        monkeypatch.setattr(f"finetune.data.{name}", lambda *_: pytest.fail("read"))
    second, again = check(config)
    assert second == first
    assert again.records == data.records
    assert again.statistics["train"].pixels.tolist() == data.statistics["train"].pixels.tolist()
    note_data(tmp_path, again.records, None, file_cache(second["data"]))
    assert (tmp_path / "fingerprints.csv").read_text() == hashes


def test_full_decodes_all_and_another_word_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(load_config([*TINY, f"data.root={photos}"], "train"))
    monkeypatch.setattr("finetune.data.files.MaskFile.contents", lambda *_: pytest.fail("read"))
    with pytest.raises(ConfigError, match=r"data\.verify=all: expected changed or full or none"):
        check(load_config([*TINY, f"data.root={photos}", "data.verify=all"], "train"))
    with pytest.raises(pytest.fail.Exception):
        check(load_config([*TINY, f"data.root={photos}", "data.verify=full"], "train"))
