"""Colors that are changed on the device are those that the loading process would have made."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from finetune.builders.checks.training import check
from finetune.builders.data import prepare_datasets
from finetune.config.compose import load_config
from finetune.data import Augment, TrivialAugment
from finetune.data.augmentation.device_color import change_colors, with_colors
from finetune.data.augmentation.mix import Mix
from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.module import SegmentationData, collate
from finetune.data.sources import SyntheticSource
from tests.samples import TINY, draw_folder
from tests.tasks.tiny_run import Sizes, tiny_task

STRONG = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}


def dataset(transform: Any, leaves_color: bool, **options: Any) -> SegmentationDataset:
    images = SegmentationDataset(SyntheticSource(12, 48).records(), transform=transform, seed=3, **options)
    images.leaves_color = leaves_color
    return images


def batches(transform: Any, leaves_color: bool, **options: Any) -> list[dict[str, Any]]:
    images = dataset(transform, leaves_color, **options)
    return [collate([images[SampleKey(epoch, index)] for index in range(12)]) for epoch in range(3)]  # type: ignore[misc]


@pytest.mark.parametrize(
    "transform",
    [
        Augment(32, **STRONG),
        Augment(32, **STRONG, blur=0.5, clahe=0.5, equalize=0.5, cutout=0.5, sharpen=0.3, jpeg=0.3),
        Augment(32, **STRONG, noise=0.05, gamma=0.3),
        TrivialAugment(32),
    ],
    ids=["color", "some", "others", "trivial"],
)
def test_images_and_masks_are_the_same_on_both_ways(transform: Any) -> None:
    changed = 0
    for ours, batch in zip(batches(transform, False), batches(transform, True), strict=True):
        assert "color_matrix" not in ours
        later = with_colors(batch)
        changed += int((later["image"] != batch["image"]).flatten(1).any(1).sum())
        assert set(later) == set(ours)
        assert torch.equal(later["mask"], ours["mask"])
        assert (later["image"].int() - ours["image"].int()).abs().max() <= 1  # rounding
    assert bool(changed) == (not getattr(transform, "noise", 0))  # after which colors come too late


def test_samples_that_are_mixed_have_their_colors_before() -> None:
    mixed = batches(Augment(32, **STRONG), True, mix=Mix(cutmix=1.0))
    assert all("color_matrix" not in batch for batch in mixed)


def test_samples_whose_colors_never_change_have_nothing_to_apply() -> None:
    for transform in (Augment(32, blur=0.5), TrivialAugment(32, operations=["rotation", "gamma"])):
        assert all("color_matrix" not in batch for batch in batches(transform, True))


def test_a_transform_of_ones_own_is_called() -> None:
    class Black(Augment):
        def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            image, target = super().__call__(image, target, generator)
            return torch.zeros_like(image), target

    assert all(not batch["image"].any() and "color_matrix" not in batch for batch in batches(Black(32, **STRONG), True))


def test_channels_are_combined_as_by_a_product_of_matrices_and_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8, generator=generator)
    matrices = torch.randn(2, 5, 6, generator=generator)
    exact = torch.einsum("bcd,bdhw->bchw", matrices[..., :5].double(), images.double())
    expected = (exact + matrices[..., 5, None, None]).clamp(0, 255)
    assert (change_colors(images, matrices).double() - expected).abs().max() < 0.501
    assert torch.equal(change_colors(images, torch.eye(5, 6).expand(2, -1, -1)), images)


class Noting(pl.Callback):
    """Keeps the images of the training steps."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        assert set(batch) == {"image", "mask", "index"}
        self.images.append(batch["image"].float())


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_training_sees_the_colors_whichever_way_they_are_changed(precision: Any) -> None:
    losses = []
    for leaves_color in (False, True):
        images = dataset(Augment(32, **STRONG), leaves_color)
        data, task = SegmentationData(images, Sizes(3, split="val"), batch_size=4, num_workers=0), tiny_task()
        noting = Noting()
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        options: Any = dict.fromkeys(quiet, False)
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, precision=precision, callbacks=noting, **options)
        trainer.fit(task, datamodule=data)
        losses.append(torch.stack(noting.images))
    assert (losses[0] - losses[1]).abs().max() <= 1
    assert not torch.equal(losses[0][0], losses[0][1])


@pytest.mark.parametrize("is_on_gpu", [True, False])
def test_colors_are_left_to_a_gpu(is_on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path)
    config, data = check(load_config([*TINY, f"data.root={tmp_path}"], "train"))
    monkeypatch.setattr("finetune.builders.data.runs_on_cpu", lambda settings: not is_on_gpu)
    prepare_datasets(data, config)
    assert data.datasets["train"].leaves_color == is_on_gpu
    assert not data.datasets["val"].leaves_color
