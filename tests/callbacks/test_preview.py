"""The page of images that every validation leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.callbacks import ApplyTuningPlan, Preview
from finetune.plots import palette, preview
from tests.tasks.tiny_run import Sizes, tiny_data, tiny_task, tiny_trainer


def fit(folder: Path, images: int, epochs: int = 1, **options: Any) -> Any:
    task = tiny_task()
    trainer = tiny_trainer(ApplyTuningPlan(), Preview(images), max_epochs=epochs, default_root_dir=folder, **options)
    trainer.fit(task, datamodule=tiny_data())
    return task


def pages(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_validation_leaves_one_page(tmp_path: Path) -> None:
    fit(tmp_path, images=2, epochs=2, val_check_interval=1)
    assert pages(tmp_path) == [f"plots/preview/step_00000{step}.png" for step in (1, 2, 3, 4)]
    sizes = {Image.open(tmp_path / page).size for page in pages(tmp_path)}
    assert len(sizes) == 1


@pytest.mark.parametrize(("images", "shown"), [(1, [0]), (2, [0, 3]), (50, [0, 1, 2, 3, 4, 5, 6])])
def test_the_page_shows_images_spread_over_the_set_with_the_models_predictions(
    images: int, shown: list[int], tmp_path: Path
) -> None:
    task = fit(tmp_path, images)
    rows = []
    for index in shown:
        sample = Sizes(7, split="val")[index]
        with torch.no_grad():
            logits = task.model.eval()(task.model.normalize(sample["image"][None]))
        rows.append((sample["image"], sample["mask"], logits[0].argmax(0).to(torch.uint8)))
    expected = preview(rows, task.model.class_names, palette(5))
    page = Image.open(tmp_path / "plots" / "preview" / "step_000002.png")
    assert page.size == expected.size
    assert (np.asarray(page) == np.asarray(expected)).mean() > 0.999  # a pixel may tip between two memory formats


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="images=0: expected 1 or more"):
        Preview(0)


def test_loaders_without_a_data_module_have_no_page(tmp_path: Path) -> None:
    trainer = tiny_trainer(ApplyTuningPlan(), Preview(), max_epochs=1, default_root_dir=tmp_path)
    data = tiny_data()
    trainer.fit(tiny_task(), data.train_dataloader(), data.val_dataloader())
    assert trainer.current_epoch == 1
    assert pages(tmp_path) == []


def test_a_validation_that_stands_alone_leaves_none(tmp_path: Path) -> None:
    trainer = tiny_trainer(Preview(), default_root_dir=tmp_path)
    trainer.validate(tiny_task(), datamodule=tiny_data(), verbose=False)
    assert pages(tmp_path) == []


def test_drawing_does_not_disturb_the_training(tmp_path: Path) -> None:
    drawn = fit(tmp_path, images=2, epochs=2)
    plain = tiny_task()
    tiny_trainer(ApplyTuningPlan(), max_epochs=2).fit(plain, datamodule=tiny_data())
    twin = plain.state_dict()
    assert all(torch.equal(tensor, twin[name]) for name, tensor in drawn.state_dict().items())
