"""Training on objects: losses, gradients, scores, previews."""

from pathlib import Path

import pytest
import torch

from finetune.callbacks import EMA, ApplyTuningPlan, IoU, Preview
from finetune.data import SampleKey
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData, collate
from finetune.instances import Planes, from_planes
from finetune.losses import CEDice, HeadLoss
from finetune.models import InstanceSegmenter
from finetune.tasks import InstanceTask
from finetune.tuning.plan import Plan, Rule
from tests.tasks.tiny_run import tiny_trainer

SIDE = 64
SMALL = {"channels": 16, "box_features": 16, "mask_layers": 1, "proposals": 20, "anchor_sizes": [8, 12, 16, 20, 24]}


class Squares(torch.utils.data.Dataset[Sample]):
    """Dark images with bright squares: one per class, below each other; every fourth image is empty."""

    def __init__(self, images: int, classes: int = 2) -> None:
        self.images, self.classes = images, classes

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key: int | SampleKey) -> Sample:
        index = key.index if isinstance(key, SampleKey) else key
        image, planes = torch.full((3, SIDE, SIDE), 30, dtype=torch.uint8), Planes(SIDE, SIDE)
        for label in range(self.classes if index % 4 != 3 else 0):
            mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            mask[8 + 24 * label : 24 + 24 * label, 4 + 3 * index % 40 : 20 + 3 * index % 40] = True
            image[label % 3, mask] = 220
            planes.add(mask, label)
        return {"image": image, "mask": planes.finish(), "index": index}


def task(head: str = "mask_rcnn", **options: object) -> InstanceTask:
    torch.manual_seed(0)
    options_of_head = SMALL if head == "mask_rcnn" else {"channels": 16, "prototypes": 8}
    model = InstanceSegmenter(
        "test_resnet.r160_in1k", head, ["red", "green"], weights="none", head_options=options_of_head
    )
    return InstanceTask(model, **{"lr": 1e-3, "schedule_name": "constant", "warmup": 0, **options})


@pytest.mark.parametrize("head", ["mask_rcnn", "yolact"])
def test_images_without_objects_give_finite_losses_and_gradients_for_all_that_trains(head: str) -> None:
    tuned = task(head)
    batch = collate([Squares(8)[3], Squares(8)[7]])
    loss, _ = tuned.losses(batch)  # type: ignore[arg-type]  # a mapping of tensors
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert int(tuned.count_images(batch)) == 2  # type: ignore[arg-type]  # a mapping of tensors
    without = {name for name, p in tuned.model.named_parameters() if p.grad is None}
    assert without == tuned.model.unused_parameters()


@pytest.mark.parametrize("head", ["mask_rcnn", "yolact"])
def test_a_training_scores_logs_and_draws(head: str, tmp_path: Path) -> None:
    tuned, trainer = task(head), tiny_trainer(ApplyTuningPlan(), IoU(), Preview(2), default_root_dir=tmp_path)
    trainer.fit(tuned, datamodule=SegmentationData(Squares(8), Squares(5), batch_size=4))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 <= logged["val/mask_ap"] <= 1
    assert logged["val/count_error"] >= 0
    assert "val/loss" not in logged
    assert logged["train/loss"] > 0
    assert [path.name for path in (tmp_path / "plots" / "preview").iterdir()] == ["step_000002.png"]


def test_perfect_objects_score_1_and_each_image_counts_once() -> None:
    tuned, dataset = task(), Squares(5)
    for index in range(5):
        objects = from_planes(dataset[index]["mask"])
        tuned.evaluator.update([objects], [objects], torch.tensor([index]))
    scores = tuned.evaluator.compute(tuned.evaluator.counts())
    assert {scores[name] for name in ("mask_ap", "box_ap", "pq", "f1")} == {1.0}
    assert scores["count_error"] == 0


def test_outputs_that_are_not_finite_are_counted() -> None:
    tuned = task()
    tuned.eval()
    with torch.no_grad():
        next(iter(tuned.model.fpn.parameters())).fill_(torch.nan)
        tuned.evaluate([collate([Squares(5)[0], Squares(5)[1]])])  # type: ignore[list-item]  # a mapping of tensors
    assert int(tuned.non_finite) == 2


def test_weights_of_terms_change_the_loss_and_unknown_ones_are_refused() -> None:
    batch = collate([Squares(8)[0], Squares(8)[1]])
    totals = []
    for weights in ({}, {"loss_mask": 0.0}):
        torch.manual_seed(0)
        totals.append(float(task(loss=HeadLoss(weights)).losses(batch)[0].detach()))  # type: ignore[arg-type]
    assert totals[1] < totals[0]
    with pytest.raises(ValueError, match=r"loss.weights.masks: the head's terms are .*loss_mask"):
        task(loss=HeadLoss({"masks": 1.0})).losses(batch)  # type: ignore[arg-type]


def test_losses_of_pixels_and_targets_of_classes_do_not_fit() -> None:
    assert not InstanceTask.accepts(CEDice)
    assert InstanceTask.accepts(HeadLoss)  # type: ignore[arg-type]  # takes terms instead of logits
    with pytest.raises(ValueError, match="needs planes"):
        InstanceTask.check_target(torch.zeros(8, 8, dtype=torch.uint8), ["red"], 255)


def test_frozen_parts_stay_as_they_are_to_the_bit() -> None:
    tuned = task(plan=Plan((Rule("backbone", train=False), Rule("fpn", train=False), Rule("."))))
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(table=False))
    trainer.fit(tuned, datamodule=SegmentationData(Squares(8), Squares(5), batch_size=4))
    after = tuned.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)


@pytest.mark.parametrize("head", ["mask_rcnn", "yolact"])
def test_adapters_and_averaged_weights_train(head: str) -> None:
    tuned = task(head)
    tuned.model.add_lora({"rank": 2})
    adapters = Rule(r"parametrizations\.weight\.0\.")
    tuned = InstanceTask(tuned.model, plan=Plan((adapters, Rule("backbone", train=False), Rule("."))), lr=1e-3)
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(table=False), EMA())
    trainer.fit(tuned, datamodule=SegmentationData(Squares(8), Squares(5), batch_size=4))
    assert trainer.callback_metrics["val/mask_ar"] >= 0
    tuned.model.merge_adapters()
    assert not tuned.model.has_lora


def test_a_dummy_batch_is_one_that_trains() -> None:
    tuned = task()
    loss, _ = tuned.losses(tuned.dummy_batch((2, 3, 64, 96)))
    assert loss.isfinite()
