"""`data.cache` says what it takes, and refuses what does not fit."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.builders import pixel_cache
from finetune.builders.data import prepare_datasets, training_data
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from tests.samples import SYNTHETIC, TINY, draw_folder

Usage = namedtuple("Usage", "total used free")


def cached_data(config: dict[str, Any]) -> DatasetBundle:
    config = with_placeholders_for_recipe(config)
    data = training_data(config)
    prepare_datasets(data, config)
    return data


def test_the_size_is_said_and_is_that_of_the_decoded_images(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = cached_data(load_config([*SYNTHETIC, "data.cache=ram"], "train"))
    assert "decoded images and masks take 41.0 kB of memory (data.cache)" in caplog.messages
    plain = cached_data(load_config(SYNTHETIC, "train"))
    for split in ("train", "val"):
        for index in range(len(plain.datasets[split])):
            assert torch.equal(data.datasets[split][index]["image"], plain.datasets[split][index]["image"])
    assert data.datasets["test"].pixels is None
    used = sum(Path(data.datasets[split].pixels.paths[0]).stat().st_size for split in ("train", "val"))
    assert used == (8 + 2) * 32 * 32 * 4


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache.memory, "available", lambda: 100_000)
    cached_data(load_config([*SYNTHETIC, "data.cache=ram"], "train"))
    with pytest.raises(ConfigError, match=r"take 81\.9 kB of memory, which has 0\.1 MB free\. Set data\.cache=disk"):
        cached_data(load_config([*SYNTHETIC, "data.cache=ram", "trainer.devices=2"], "train"))


def test_a_disk_cache_is_used_by_a_second_run_and_refused_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    draw_folder(tmp_path / "photos")
    overrides = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.classes=3", "data.cache=disk")
    config = load_config([*TINY, *overrides], "train")
    data = cached_data(config)
    expected = [data.datasets["val"][index]["image"] for index in range(len(data.datasets["val"]))]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 9))
    with pytest.raises(ConfigError, match=r"which has 0\.0 kB free\. Delete '.*cache/pixels' if no run uses it"):
        cached_data(config)
    monkeypatch.undo()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    again = cached_data(config).datasets["val"]
    monkeypatch.setattr("finetune.data.dataset.read_pair", lambda *_: pytest.fail("decoded"))
    assert all(torch.equal(again[index]["image"], image) for index, image in enumerate(expected))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path / "photos")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    config = load_config(
        [*TINY, "data=folder", f"data.root={tmp_path / 'photos'}", "data.classes=3", "data.cache=disk"], "train"
    )
    with pytest.raises(ConfigError, match=r"data\.cache=disk: .*file'\. Set FINETUNE_CACHE=FOLDER to one"):
        cached_data(config)
