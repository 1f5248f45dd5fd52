"""The layouts of well-known data sets, as small trees of drawn files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.builders.checks.training import check
from finetune.config.compose import load_config
from tests.data.recognition.test_layouts import draw
from tests.samples import TINY, save


def mask(path: Path, *values: int) -> None:
    save(path, np.repeat(np.array(values, np.uint8), 32 // len(values))[None].repeat(32, 0))


def checked(*overrides: str) -> Any:
    return check(load_config([*TINY, "augment.crop=16", *overrides], "train"))[1]


def test_pascal_voc(tmp_path: Path) -> None:
    names = [f"2007_{n}" for n in range(5)]
    for name in [*names, "unlabeled"]:
        save(tmp_path / "JPEGImages" / f"{name}.jpg", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    for name in names:
        mask(tmp_path / "SegmentationClass" / f"{name}.png", 0, 15, 255, 20)
        mask(tmp_path / "SegmentationObject" / f"{name}.png", 0, 1, 255, 2)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, chosen in {"train": names[:3], "val": names[3:], "trainval": names}.items():
        (lists / f"{split}.txt").write_text("\n".join(chosen))
    data = checked("data=voc", f"data.root={tmp_path}")
    assert data.sizes() == {"train": 3, "val": 2}
    assert data.classes[15] == "person"
    assert data.statistics["train"].pixels[15] == data.statistics["train"].ignored == 3 * 8 * 32


def test_cityscapes(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        for n in range(3):
            stem = f"{split}/{city}/{city}_00000{n}_000019"
            image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
            save(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", image)
            mask(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", 0, 7, 26, 33)
            save(tmp_path / "gtFine" / f"{stem}_gtFine_color.png", image)
    data = checked("data=cityscapes", f"data.root={tmp_path}")
    assert data.sizes() == {"train": 3, "val": 3}
    assert [data.classes[k] for k in data.statistics["train"].pixels.nonzero().flatten()] == ["road", "car", "bicycle"]
    assert data.statistics["train"].ignored == 3 * 8 * 32


@pytest.mark.parametrize("with_names", [True, False])
def test_ade20k(tmp_path: Path, with_names: bool) -> None:
    for split in ("training", "validation"):
        names = [f"ADE_{split}_{n}" for n in range(3)]
        draw(tmp_path, f"images/{split}/{{}}.jpg", names=names)
        for name in names:
            save(
                tmp_path / "annotations" / split / f"{name}.png",
                np.arange(3, dtype=np.uint8).repeat(8)[None].repeat(20, 0),
            )
    if with_names:
        (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tbuilding, edifice\n")
    data = checked("data=ade20k", f"data.root={tmp_path}")
    assert data.sizes() == {"train": 3, "val": 3}
    assert data.classes == (("wall", "building, edifice") if with_names else ("class_1", "class_2"))
    assert data.statistics["train"].ignored == 3 * 8 * 20
