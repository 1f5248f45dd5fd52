"""Multi-label training and scores, on masks that overlap."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MultilabelJaccardIndex, MultilabelPrecision, MultilabelRecall

from finetune.callbacks import ApplyTuningPlan, IoU, Preview
from finetune.data import SampleKey
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.losses import BCE, BCEDice, CEDice
from finetune.models import Segmenter
from finetune.tasks import MultilabelTask, SemanticTask
from finetune.tasks.multilabel import masks_of_indices
from tests.tasks.tiny_run import Sizes, tiny_trainer

NAMES = ("shape", "round", "any pixel")
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


class Overlapping(Sizes):
    """Images with three masks: all shapes, some of them, and every pixel; one row is ignored for the second."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        index = sample["mask"]
        masks = torch.stack([index > 0, index > 2, index >= 0]).to(torch.uint8)
        masks[1, 0] = 255
        return {**sample, "mask": masks}


class Ignored(Overlapping):
    """Images without a pixel that counts."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        return {**sample, "mask": torch.full_like(sample["mask"], 255)}


class OneSize(Overlapping):
    """Images of one size, as a training needs them."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        index = key.index if isinstance(key, SampleKey) else key
        return super().__getitem__(3 * (index // 3))


def model(classes: Any = NAMES, head: str = "fpn", **head_options: Any) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("test_resnet.r160_in1k", head, classes, weights="none", head_options=head_options or SMALL)


def task(**options: Any) -> MultilabelTask:
    return MultilabelTask(model(), **{"lr": 1e-2, "schedule_name": "constant", "warmup": 0, **options})


def data(**options: Any) -> SegmentationData:
    return SegmentationData(OneSize(12), Overlapping(5, split="val"), **{"batch_size": 2, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MultilabelTask, dict[str, float], Path]:
    """Return a task after a short training, what it logged, and the folder with its previews."""
    folder = tmp_path_factory.mktemp("run")
    tuned = task()
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), Preview(2), max_epochs=3, default_root_dir=folder)
    trainer.fit(tuned, datamodule=data())
    return tuned, {name: float(value) for name, value in trainer.callback_metrics.items()}, folder


def predictions(tuned: MultilabelTask) -> list[tuple[Tensor, Tensor]]:
    """Probabilities and masks (K, H, W) of every validation image."""
    tuned.model.eval()
    samples = [Overlapping(5, split="val")[index] for index in range(5)]
    with torch.no_grad():
        return [(tuned.model(tuned.model.normalize(s["image"][None]))[0].sigmoid(), s["mask"]) for s in samples]


def test_a_training_logs_scores_and_learns(trained) -> None:
    _, logged, _ = trained
    scores = ("iou", "dice", "precision", "recall", "f1", "accuracy", *(f"iou/{name}" for name in NAMES))
    assert logged.keys() == {f"val/{name}" for name in (*scores, "loss")} | {"train/loss"}
    assert logged["val/iou/any pixel"] > 0.9


@pytest.mark.parametrize(
    ("name", "metric"),
    [("iou", MultilabelJaccardIndex), ("precision", MultilabelPrecision), ("recall", MultilabelRecall)],
)
def test_logged_scores_are_those_of_torchmetrics(trained, name: str, metric: Any) -> None:
    tuned, _, _ = trained
    counted = metric(len(NAMES), average="macro", ignore_index=255)
    for probabilities, masks in predictions(tuned):
        counted.update(probabilities[None], masks[None].long())
    logged = tiny_trainer(IoU(table=False)).validate(tuned, datamodule=data(), verbose=False)[0]
    assert logged[f"val/{name}"] == pytest.approx(float(counted.compute()), abs=1e-4)


def test_the_validation_loss_is_the_mean_over_single_images(trained) -> None:
    tuned, _, _ = trained
    losses = [float(BCEDice()(p.logit()[None], masks[None])) for p, masks in predictions(tuned)]
    for batch_size in (1, 3):
        loaded = data(batch_size=batch_size)
        logged = tiny_trainer().validate(tuned, datamodule=loaded, verbose=False)[0]
        assert logged["val/loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_page_of_previews_is_drawn(trained) -> None:
    *_, folder = trained
    pages = sorted((folder / "plots" / "preview").iterdir())
    assert [page.name for page in pages] == ["step_000006.png", "step_000012.png", "step_000018.png"]
    assert min(Image.open(pages[-1]).size) > 100


def test_a_training_on_ignored_pixels_changes_nothing() -> None:
    tuned = task(weight_decay=0.0)
    before = {name: parameter.clone() for name, parameter in tuned.named_parameters()}
    ignored = SegmentationData(Ignored(1), Overlapping(1, split="val"), batch_size=1)
    tiny_trainer(ApplyTuningPlan()).fit(tuned, datamodule=ignored)
    assert tuned.train_loss == 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in tuned.named_parameters())


def test_class_indices_score_as_their_masks_do() -> None:
    class AsMasks(Sizes):
        def __getitem__(self, key: int | SampleKey) -> Sample:
            sample = super().__getitem__(key)
            return {**sample, "mask": masks_of_indices(sample["mask"][None], 5, 255)[0]}

    scores = []
    for dataset in (Sizes(4, split="val"), AsMasks(4, split="val")):
        loaded, tuned = SegmentationData(dataset, dataset, batch_size=2), MultilabelTask(model(5))
        scores.append(tiny_trainer(IoU(table=False)).validate(tuned, datamodule=loaded, verbose=False)[0])
    np.testing.assert_equal(scores[1], scores[0])


def test_each_class_has_its_threshold() -> None:
    logits = torch.tensor([0.2, 0.2, 0.8]).logit().view(1, 3, 1, 1).expand(2, 3, 4, 5)
    decoded = task(thresholds=[0.1, 0.5, 0.9]).output.decode(logits)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == logits.shape
    assert decoded[:, :, 0, 0].tolist() == [[1, 0, 0]] * 2
    assert task(thresholds=0.7).output.decode(logits)[0, :, 0, 0].tolist() == [0, 0, 1]
    assert task(thresholds=0.7).config() == {"name": "multilabel", "thresholds": [0.7, 0.7, 0.7]}


@pytest.mark.parametrize("thresholds", [1.5, -0.1, "high", [0.5, 0.5], [0.5, 0.5, None], True])
def test_thresholds_that_do_not_fit_are_refused(thresholds: Any) -> None:
    with pytest.raises(ValueError, match="thresholds="):
        task(thresholds=thresholds)


@pytest.mark.parametrize(
    ("head", "options", "outputs"),
    [
        ("ocr", {"channels": 16, "key_channels": 8}, 1),
        ("unet", {"decoder_channels": [16, 16, 8, 8, 8], "deep_supervision": True}, 4),
    ],
)
def test_auxiliary_outputs_are_trained_on_masks(head: str, options: dict[str, Any], outputs: int) -> None:
    tuned = MultilabelTask(model(head=head, **options), BCE(auxiliary_weight=0.3))
    batch = tuned.dummy_batch((2, 3, 40, 56))
    _, auxiliary = tuned.losses(batch)
    logits, *others = tuned.model(tuned.model.normalize(batch["image"]), auxiliary=True)
    assert logits.shape == batch["mask"].shape
    assert len(others) == outputs
    assert float(auxiliary) == pytest.approx(sum(0.3 * float(BCE()(scores, batch["mask"])) for scores in others))


def test_a_loss_of_other_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="CEDice takes targets as indices, but MultilabelTask has masks"):
        MultilabelTask(model(), CEDice())
    with pytest.raises(ValueError, match="BCE takes targets as masks, but SemanticTask has indices"):
        SemanticTask(model(), BCE())


@pytest.mark.parametrize("label", [0, 1])
def test_labels_that_masks_use_cannot_be_ignored(label: int) -> None:
    with pytest.raises(ValueError, match=f"ignore_index={label}: masks use 0 and 1"):
        task(ignore_index=label)


def test_masks_of_another_number_of_classes_are_refused() -> None:
    MultilabelTask.check_target(torch.zeros(3, 4, 5), NAMES, 255)
    MultilabelTask.check_target(torch.zeros(4, 5), NAMES, 255)
    with pytest.raises(ValueError, match=r"masks of shape \(2, 4, 5\), but task=multilabel with 3 classes needs"):
        MultilabelTask.check_target(torch.zeros(2, 4, 5), NAMES, 255)
    with pytest.raises(ValueError, match=r"task=semantic needs class indices \(H, W\). Set task=multilabel"):
        SemanticTask.check_target(torch.zeros(3, 4, 5), NAMES, 255)
