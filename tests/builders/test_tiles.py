"""Trainings on tiles of images: what is split, counted and scored."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import finetune
from finetune.builders.checks.training import check
from finetune.builders.data import training_data
from finetune.builders.recipe import data_facts
from finetune.builders.tiles import tiled_records
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.data.dataset import read_pair
from finetune.data.splitting.split_file import read_splits
from finetune.metrics.confusion import confusion_matrix
from tests.samples import TINY

pytestmark = pytest.mark.usefixtures("without_figures")

SIZE = (40, 56)


def draw(root: Path, count: int = 8, suffix: str = ".png") -> Path:
    """Write images and masks, the last of them smaller than a tile."""
    for index in range(count):
        random = np.random.default_rng(index)
        size = SIZE if index < count - 1 else (24, 24)
        mask = (random.random(size) < 0.1 + 0.05 * index).astype(np.uint8)
        for folder, pixels in (("images", np.dstack([mask * 150 + random.integers(0, 50, size)] * 3)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{index}{suffix}")
    return root


def settings_of(root: Path, *overrides: str) -> list[str]:
    return [*TINY, "data=folder", f"data.root={root}", "data.classes=[ground,thing]", *overrides]


def config_of(root: Path, *overrides: str) -> dict:
    return load_config(settings_of(root, *overrides), "train")


def test_the_recipe_looks_at_tiles_and_not_at_whole_masks(tmp_path):
    config = config_of(draw(tmp_path), "data.tiles=24", "backbone.in_channels=3")
    data = training_data(config)
    facts = data_facts(config, data)
    assert facts.looked_at == facts.images == len(data.datasets["train"])


def test_the_split_is_made_over_images_and_tiles_follow_it(tmp_path):
    root = draw(tmp_path)
    whole, tiled = (training_data(config_of(root, f"data.tiles={tiles}")) for tiles in ("null", "24"))
    assert [(record.name, record.split) for record in tiled.records] == [(r.name, r.split) for r in whole.records]
    for split, dataset in tiled.datasets.items():
        photos = [name.partition("[")[0] for name in dataset.names]
        assert list(dict.fromkeys(photos)) == whole.datasets[split].names
    assert sum(map(len, tiled.datasets.values())) == 7 * 6 + 1
    assert tiled.describe().endswith(" tiles, 2 classes: ground, thing")
    assert tiled.notes[0] == "7 of 8 images are larger than 24x24 pixels and are taken as 42 tiles (data.tiles)"


@pytest.mark.parametrize("stratify", ["false", "true"])
def test_classes_are_counted_as_without_tiles(tmp_path, stratify):
    root = draw(tmp_path)
    settings = (f"data.stratify={stratify}", "seed=3")
    whole, tiled = (training_data(config_of(root, f"data.tiles={tiles}", *settings)) for tiles in ("null", "[30,20]"))
    for split in ("train", "val", "test"):
        assert torch.equal(tiled.statistics[split].pixels, whole.statistics[split].pixels)
        assert tiled.statistics[split].images == len(tiled.datasets[split])


def test_scores_over_tiles_add_up_to_those_over_whole_images(tmp_path):
    root = draw(tmp_path)
    whole, tiled = (training_data(config_of(root, f"data.tiles={tiles}")) for tiles in ("null", "17"))

    def matrix(records: Sequence[finetune.data.Record]) -> torch.Tensor:
        total = torch.zeros(2, 2, dtype=torch.int64)
        for record in records:
            image, target = read_pair(record)
            total += confusion_matrix((image[0] > 60).long()[None], target[None].long(), 2, 255)
        return total

    assert torch.equal(matrix(whole.datasets["val"].records), matrix(tiled.datasets["val"].records))


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ("0", r"data\.tiles=0: expected a size in pixels, such as 2048"),
        ("[8,0]", r"data\.tiles=\[8, 0\]: expected a size in pixels"),
        ("big", "data.tiles=big: expected a whole number or a list of 2 whole numbers or null"),
        ("[8]", "data.tiles=.*: expected a whole number or a list of 2 whole numbers or null"),
    ],
)
def test_a_setting_that_is_no_size_is_named(tmp_path, tiles, message):
    with pytest.raises(ConfigError, match=message):
        check(config_of(draw(tmp_path), f"data.tiles={tiles}"))


def test_without_the_setting_no_file_is_opened(tmp_path):
    records = training_data(config_of(draw(tmp_path))).records
    assert tiled_records(records, {}) == [[record] for record in records]


def test_a_too_large_image_ends_with_the_setting_that_reads_it_and_the_setting_does(tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    root = draw(tmp_path, suffix=".tif")
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 1500)
    with pytest.raises(finetune.data.DataError, match=r"0\.tif' claims to have 56 x 40 pixels.*data\.tiles=2048"):
        training_data(config_of(root))
    assert len(training_data(config_of(root, "data.tiles=24")).datasets["train"])


def test_a_run_on_tiles_freezes_the_split_of_the_images_and_is_evaluated_on_tiles(tmp_path, capsys):
    root, output = draw(tmp_path / "data"), tmp_path / "run"
    finetune.train(*settings_of(root, "data.tiles=24", f"output={output}"))
    assert set(read_splits(output / "splits.csv")) == {str(index) for index in range(8)}
    finetune.evaluate(f"run={output}", "split=val", "trainer.accelerator=cpu")
    assert " over 6 tiles; tables and figures in " in "".join(capsys.readouterr())


MEASURED = """
import sys
import numpy
import tifffile
import finetune
from pathlib import Path
from finetune.profiling.memory import peak
from tests.samples import SYNTHETIC, TINY

root = Path(sys.argv[1])
step = "+trainer.max_steps=1", "+trainer.limit_val_batches=1"
finetune.train(*SYNTHETIC, *step, f"output={root}/small")
before = peak()
data = f"data.root={root}", f"data.splits={root}/splits.csv", "data.classes=2", "data.tiles=2048"
finetune.train(*TINY, *step, "data=folder", *data, f"output={root}/large")
print("own", peak() - before)
"""


@pytest.mark.slow  # twenty seconds: it reads 800 MB of pixels
def test_a_step_on_an_image_of_20_000_pixels_a_side_takes_little_memory(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    for seed, (folder, high) in enumerate((("images", 255), ("masks", 2))):
        block = np.random.default_rng(seed).integers(0, high, (64, 64)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        (tmp_path / folder).mkdir()
        for name, side in (("large", 20_000), ("small", 1024)):
            blocks = iter([block] * (-(-side // 1024)) ** 2)
            stored = {"tile": (1024, 1024), "compression": "zlib", "photometric": "minisblack"}
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", blocks, shape=(side, side), dtype=np.uint8, **stored)
    (tmp_path / "splits.csv").write_text("image,split\nlarge,train\nsmall,val\n")
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    own = int(done.stdout.rpartition("own")[2])
    assert 0 < own < 1000 * 2**20  # the pixels alone are 800 MB
