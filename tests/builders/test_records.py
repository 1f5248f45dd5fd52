"""Images that are left out, and masks that are cleaned, before anything else sees them."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import finetune
from finetune.builders.data import training_data
from finetune.builders.discovery import work_out_data
from finetune.builders.records import read_records
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.data import DataError, FolderSource
from tests.samples import TINY, draw_folder, on_folder, save

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "photos")


def test_an_excluded_image_is_in_no_split_and_the_log_says_how_many_are_left_out(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "exclude.txt").write_text("photo_03\nmasks/photo_04.png\n")
    caplog.set_level(logging.INFO, logger="finetune")
    data = training_data(
        load_config([*on_folder(photos), "data=folder", f"data.exclude={photos / 'exclude.txt'}"], "train")
    )
    names = {record.name for record in data.records}
    assert names == {f"photo_{i:02d}" for i in range(12)} - {"photo_03", "photo_04"}
    assert "2 of 12 images are left out by data.exclude" in caplog.messages


def test_a_broken_image_that_is_excluded_stops_nothing(photos: Path) -> None:
    (photos / "images" / "photo_01.png").write_bytes(b"no image")
    (photos / "exclude.txt").write_text("photo_01")
    config = load_config([*on_folder(photos), "data=folder"], "train")
    with pytest.raises(DataError, match="cannot read"):
        training_data(config)
    config["data"]["exclude"] = str(photos / "exclude.txt")
    assert len(training_data(config).records) == 11


def test_an_excluded_mask_says_nothing_about_the_classes(photos: Path) -> None:
    save(photos / "masks" / "photo_02.png", np.full((32, 40), 3, dtype=np.uint8))
    (photos / "exclude.txt").write_text("photo_02")
    found = [
        work_out_data(load_config([*TINY, f"data.root={photos}", *more], "train"))[0]["data"]["classes"]
        for more in ((), (f"data.exclude={photos / 'exclude.txt'}",))
    ]
    assert [len(classes) for classes in found] == [4, 3]


def test_a_run_keeps_its_list_and_evaluates_without_the_images_on_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos / "exclude.txt").write_text("photo_05")
    run = finetune.train(*on_folder(photos), "data.exclude=photos/exclude.txt", "data.clean_masks=2", "output=run")
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())["data"]
    assert (stored["exclude"], stored["clean_masks"]) == (str(photos / "exclude.txt"), 2)
    assert finetune.evaluate("run=run", "split=all").matrix.sum() == 11 * 32 * 40
    other = draw_folder(photos.parent / "others", names=("x", "y"))
    assert finetune.evaluate("run=run", f"data.root={other}").matrix.sum() == 2 * 32 * 40


def test_masks_lose_their_specks_when_they_are_read(photos: Path) -> None:
    speckled = np.zeros((32, 40), dtype=np.uint8)
    speckled[5, 5], speckled[9, 9:12] = 1, 2
    save(photos / "masks" / "photo_00.png", speckled)
    source = FolderSource(photos, classes=3)
    values = [read_records(source, {"clean_masks": pixels})[0].target.read().unique().tolist() for pixels in (0, 1, 3)]
    assert values == [[0, 1, 2], [0, 2], [0]]
    with pytest.raises(ConfigError, match=r"data\.clean_masks=-1: expected a number of pixels"):
        read_records(source, {"clean_masks": -1})


def test_a_name_that_is_not_utf_8_is_named(photos: Path) -> None:
    try:
        for folder, suffix in (("images", ".png"), ("masks", ".png")):
            (photos / folder / os.fsdecode(b"caf\xe9" + suffix.encode())).write_bytes(
                next((photos / folder).iterdir()).read_bytes()
            )
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(DataError, match=r"file name b'caf\\xe9' is not UTF-8\. Rename"):
        read_records(FolderSource(photos), {})
