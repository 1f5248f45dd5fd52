"""Mistakes that show once the data is known, before anything is written."""

from pathlib import Path

import numpy as np
import pytest

from finetune.builders.checks.training import check
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from tests.samples import SYNTHETIC, TINY, draw_folder, on_folder, save


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        check(load_config(overrides, "train"))
    return str(error.value)


def test_images_of_different_sizes_need_a_crop_or_batches_of_one(folder: Path) -> None:
    draw_folder(folder)
    for name in range(3):
        save(folder / "images" / f"photo_0{name}.png", np.zeros((20, 30, 3), np.uint8))
        save(folder / "masks" / f"photo_0{name}.png", np.zeros((20, 30), np.uint8))
    without_crop = (*on_folder(folder), "augment.crop=null")
    message = mistake(*without_crop)
    assert "the training images have 2 sizes (height x width): 20x30, 32x40" in message
    assert "set augment.crop, or data.batch_size=1" in message
    check(load_config([*without_crop, "data.batch_size=1"], "train"))
    mixed = mistake(*without_crop, "data.batch_size=1", "augment.mix.classmix=0.1")
    assert "without augment.mix" in mixed
    check(load_config([*on_folder(folder), "augment.crop=16"], "train"))
    check(load_config([*on_folder(folder), "~augment.crop"], "train"))  # leaves the default of the transform


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.limit_train_batches=0.01", "limit_train_batches=0.01 of 2 batches is none. Set a whole number"),
        ("+trainer.val_check_interval=3", "val_check_interval=3, but an epoch has 2 batches"),
        ("+trainer.overfit_batches=0.3", "overfit_batches=0.3 of 2 train batches is none"),
    ],
)
def test_limits_that_leave_nothing_are_refused(override: str, message: str) -> None:
    assert message in mistake(*SYNTHETIC, override)


@pytest.mark.parametrize(
    "overrides",
    [
        ("+trainer.limit_train_batches=0.5",),
        ("+trainer.limit_train_batches=1",),
        ("+trainer.val_check_interval=2",),
        ("+trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"),
        ("+trainer.val_check_interval=0.5",),
    ],
)
def test_limits_that_leave_something_are_accepted(overrides: tuple[str, ...]) -> None:
    check(load_config([*SYNTHETIC, *overrides], "train"))


def test_few_images_make_full_batches_of_several_crops(caplog: pytest.LogCaptureFixture) -> None:
    few = (
        "backbone=timm",
        "backbone.name=test_resnet.r160_in1k",
        "backbone.weights=none",
        "data=synthetic",
        "data.size=32",
    )
    few = (*few, "augment.crop=32", "data.count=1", "data.batch_size=8", "head=deeplabv3plus")
    check(load_config([*few, "trainer.accelerator=cpu", "trainer.devices=2"], "train"))
    assert "batches of one image" not in caplog.text
    assert "data.batch_size=8. Set data.batch_size=1 or less" in mistake(*few, "+trainer.overfit_batches=1")


def test_images_of_weight_zero_alone_are_refused(folder: Path) -> None:
    draw_folder(folder)
    rows = [f"images/{path.name},masks/{path.name},0" for path in sorted((folder / "images").iterdir())]
    (folder / "table.csv").write_text("\n".join(["image,mask,weight", *rows]) + "\n")
    message = mistake(*TINY, "data=csv", f"data.root={folder}", "data.table=table.csv", "data.classes=3")
    assert "training images have the weight 0, so none is trained on" in message


@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_split_without_a_pixel_that_counts_is_refused(folder: Path, empty: str) -> None:
    for split in ("train", "val"):
        draw_folder(folder, [f"{split}/{name}" for name in "abcd"], (2, 2) if split == empty else (0, 1))
    data = (*TINY, f"data.root={folder}", "data.classes=2", "data.ignore_index=2")
    assert f"every pixel of the {empty} masks has the label 2 and is ignored" in mistake(*data)


def test_the_score_of_a_class_that_no_val_image_has_cannot_be_monitored(folder: Path) -> None:
    data = (*TINY, f"data.root={draw_folder(folder)}", "data.classes=[ground,wall,sky,moon]")
    message = mistake(*data, "checkpoint.monitor=val/iou/moon")
    assert "checkpoint.monitor=val/iou/moon: no val image has the class 'moon'" in message
    check(load_config([*data, "checkpoint.monitor=val/iou/wall"], "train"))
