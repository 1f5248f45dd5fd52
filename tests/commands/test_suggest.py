"""The command `suggest`: its folder, and what it refuses."""

import csv
from pathlib import Path

import pytest

import finetune
from finetune.checkpoints.saved_model import save_model
from finetune.config.errors import ConfigError
from finetune.data.sources.labelme import LabelmeSource
from finetune.models import Segmenter
from tests.samples import draw_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none"), {}, {})
    return tmp_path / "model"


def test_the_chosen_images_are_listed_and_linked_so_that_they_can_be_predicted(model: Path, tmp_path: Path) -> None:
    pool = draw_folder(tmp_path / "pool", ["a/one", "b/one", "two", "three"]) / "images"
    result = finetune.suggest(f"run={model}", f"input={pool}", f"output={tmp_path / 'next'}", "count=3", "device=cpu")
    with (tmp_path / "next" / "suggested.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["image"]), float(row["uncertainty"])) for row in rows] == list(result.images)
    links = [tmp_path / "next" / "images" / path.relative_to(pool) for path, _ in result.images]
    assert len(links) == 3
    assert all(link.resolve() == path.resolve() for link, (path, _) in zip(links, result.images, strict=True))
    masks = finetune.predict(
        f"run={model}",
        f"input={tmp_path / 'next' / 'images'}",
        f"output={tmp_path / 'next' / 'labels'}",
        "write=[labelme]",
    )
    assert len(masks) == 3
    records = LabelmeSource(tmp_path / "next").records()  # of the links, although the images are elsewhere
    assert sorted(record.image.paths[0] for record in records) == sorted(links)
    assert LabelmeSource.recognize(tmp_path / "next")[0].lines[0].startswith("3 JSON files of labelme")


def test_files_that_cannot_be_read_are_named_after_the_others_have_been_looked_at(model: Path, tmp_path: Path) -> None:
    pool = draw_folder(tmp_path / "pool", ["one", "two"]) / "images"
    (pool / "broken.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"1 of 3 files cannot be read:\n.*broken.png.*2 of the others are in"):
        finetune.suggest(f"run={model}", f"input={pool}", f"output={tmp_path / 'next'}")
    assert len(list((tmp_path / "next" / "images").iterdir())) == 2


@pytest.mark.parametrize("count", ["0", "many", "1.5"])
def test_a_count_that_is_no_number_of_images_is_refused(count: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"count={count}: expected a number of images, 1 or more"):
        finetune.suggest(f"run={model}", f"input={tmp_path}", f"output={tmp_path / 'next'}", f"count={count}")
