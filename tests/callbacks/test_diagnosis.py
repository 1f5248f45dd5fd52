"""Short trainings on drawn images that go wrong, each in one way, and some that go well."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from finetune.callbacks import ApplyTuningPlan, Checkpoint, Diagnosis, IoU
from finetune.callbacks.diagnosis import _moves
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.data.augmentation.transforms import Augment
from finetune.data.augmentation.trivial import TrivialAugment
from finetune.data.dataset import Sample, SampleKey
from finetune.data.module import SegmentationData
from finetune.losses import CrossEntropy, ForeignLoss
from finetune.models import Segmenter
from finetune.tasks import MultilabelTask, SemanticTask, TuningTask
from finetune.tuning.plan import Plan, Rule
from finetune.tuning.timing import Timeline
from tests.callbacks.diagnosed_ranks import losses_by_hand, named_images
from tests.engine.ranks import run_ranks
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import FROZEN, tiny_task, tiny_trainer

SIZE, BLOCK = 32, 8  # pixels
GROUND, WALL, SKY, SPECK = range(4)


class Bars(Dataset[Sample]):
    """Three gray bars in noise, one class each; the bars take turns in being the left one.

    Args:
        count: number of images.
        seed: of the images; another one for validation.
        noise: fraction of the blocks of the masks that have a random class.
        specks: whether one random pixel of each mask, which looks like any other, has a fourth class.
        mispaired: whether the masks are those of other images.
    """

    def __init__(
        self, count: int, seed: int = 0, noise: float = 0.0, specks: bool = False, mispaired: bool = False
    ) -> None:
        random = np.random.default_rng(seed)
        self.samples: list[tuple[Tensor, Tensor]] = []
        for _ in range(count):
            mask = np.roll(np.arange(SIZE) * 3 // SIZE, random.integers(SIZE))[None].repeat(SIZE, 0)
            image = mask * 80 + random.integers(0, 80, (3, SIZE, SIZE))
            wrong, others = random.random((2, SIZE // BLOCK, SIZE // BLOCK)).repeat(BLOCK, 1).repeat(BLOCK, 2)
            mask = np.where(wrong < noise, others * 3, mask)
            mask = np.roll(mask, random.integers(SIZE), 1) if mispaired else mask
            if specks:
                mask[random.integers(SIZE), random.integers(SIZE)] = SPECK
            self.samples.append((torch.tensor(image, dtype=torch.uint8), torch.tensor(mask, dtype=torch.uint8)))
        self.names = [f"bars_{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        index = key.index if isinstance(key, SampleKey) else key
        image, mask = self.samples[index]
        return {"image": image, "mask": mask, "index": index}


class Overlapping(Bars):
    """Masks of two classes: all but the ground, and the sky."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        masks = torch.stack([sample["mask"] != GROUND, sample["mask"] == SKY]).to(torch.uint8)
        return {**sample, "mask": masks}


class Training(NamedTuple):
    """A tiny training: its data, and options of task and trainer."""

    train: Dataset[Sample]
    val: Dataset[Sample]
    epochs: int
    batch_size: int = 4
    task: type[TuningTask] = SemanticTask
    options: dict[str, Any] = {}
    trainer: dict[str, Any] = {}


CONSTANT = {"schedule_name": "constant"}
ILL = {
    "class_unfound": Training(Bars(16, specks=True), Bars(6, 1, specks=True), 6),
    "overfitting": Training(Bars(4, noise=0.7), Bars(6, 1), 24, 2, options=CONSTANT),
    "at_chance": Training(Bars(16, mispaired=True), Bars(16, 1, mispaired=True), 14, 2),
    "frozen_backbone": Training(
        *(SyntheticDataset(32, SIZE), SyntheticDataset(16, SIZE, split="val")),
        *(16, 8),
        options={"plan": FROZEN, **CONSTANT},
    ),
    "rising_loss": Training(
        *(Bars(16), Bars(6, 1), 10),
        options={"optimizer": "sgd", "lr": 30.0, "warmup": 0.9, **CONSTANT},
        trainer={"gradient_clip_val": 1.0},
    ),
}
THAWING = Plan((Rule("backbone", train=[[3, None]]), Rule(".")))
WELL = {
    "semantic": Training(Bars(16), Bars(6, 1), 10),
    "few images": Training(Bars(4), Bars(2, 1), 12, 2),
    "multilabel": Training(Overlapping(16), Overlapping(6, 1), 10, task=MultilabelTask),
    "frozen": Training(Bars(16), Bars(6, 1), 10, options={"plan": FROZEN, "lr": 1e-2, **CONSTANT}),
    "thawing": Training(Bars(16), Bars(6, 1), 10, options={"plan": THAWING}),
    "several validations an epoch": Training(Bars(16), Bars(6, 1), 6, trainer={"val_check_interval": 0.5}),
}


def train(case: Training, *callbacks: pl.Callback, ckpt_path: Path | None = None, **options: Any) -> set[str]:
    """Train and return the symptoms that were named."""
    if case.task is SemanticTask:
        task: TuningTask = tiny_task(**case.options)
    else:
        small = {"pyramid_channels": 32, "segmentation_channels": 64}
        torch.manual_seed(0)
        model = Segmenter("test_resnet.r160_in1k", "fpn", ["raised", "sky"], weights="none", head_options=small)
        task = case.task(model, lr=3e-3)
    shares = {"triangle": 1 / SIZE**2}  # the name of SPECK in a tiny task
    data = SegmentationData(case.train, case.val, batch_size=case.batch_size, class_shares=shares)
    diagnosis = Diagnosis()
    trainer = tiny_trainer(
        *(ApplyTuningPlan(), IoU(), diagnosis, *callbacks), max_epochs=case.epochs, **case.trainer, **options
    )
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return set(diagnosis.state_dict()["named"])


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "finetune.callbacks.diagnosis"]


EXPECTED = {
    "class_unfound": (
        "epoch 3: hardly a pixel of these classes of the validation images is predicted: triangle (0.10% of the "
        "training pixels). Next: loss.class_weights=median_frequency gives them more weight, trainer.max_epochs=12 giv"
    ),
    "overfitting": "Validation images with the highest loss: bars_",
    "at_chance": "predictions that ignore the image would have 0.200",
    "frozen_backbone": "Next: tuning=discriminative",
    "rising_loss": "the learning rate is too high. Next: optimizer.lr=10.",
}


@pytest.mark.parametrize("symptom", ILL)
def test_a_training_that_goes_wrong_says_so_once_with_the_next_move(
    symptom: str, caplog: pytest.LogCaptureFixture
) -> None:
    named = train(ILL[symptom])
    assert symptom in named
    assert named <= {symptom, "class_unfound"}  # a model that has learned little finds few classes
    said = messages(caplog)
    assert len(said) == len(named)
    assert [EXPECTED[symptom] in message for message in said].count(True) == 1


def test_only_settings_that_the_training_has_are_advised() -> None:
    task: Any = SimpleNamespace(timeline=Timeline(10), loss=CrossEntropy())

    def moves(transform: object) -> list[str]:
        data = SimpleNamespace(train=SimpleNamespace(transform=transform))
        trainer: Any = SimpleNamespace(datamodule=data, max_steps=-1)
        return [move.partition("=")[0].partition(" ")[0] for move in _moves(trainer, task)]

    ours = ["augment.class_crop", "loss.class_weights", "trainer.max_epochs", "a"]
    assert moves(Augment()) == ours
    assert moves(TrivialAugment()) == ours
    assert moves(Augment(class_crop=0.5)) == ours[1:]
    assert moves(Augment(crop=None)) == ours[:3]
    task.loss = ForeignLoss(torch.nn.CrossEntropyLoss)
    assert moves(object()) == ["trainer.max_epochs"]


@pytest.mark.parametrize("case", WELL)
def test_a_training_that_goes_well_says_nothing(case: str, caplog: pytest.LogCaptureFixture) -> None:
    assert train(WELL[case]) == set()
    assert messages(caplog) == []


class Killed(Exception):
    """What ends a training in these tests."""


class KilledIn(pl.Callback):
    """Ends the training at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise Killed


@pytest.mark.parametrize("epoch", [2, pytest.param(3, marks=pytest.mark.slow)])  # before the message; right after it
def test_a_resumed_training_says_what_an_uninterrupted_one_says(
    epoch: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = ILL["class_unfound"]
    train(case)
    whole = messages(caplog)
    assert len(whole) == 1  # in the third epoch
    caplog.clear()
    saving: dict[str, Any] = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    with pytest.raises(Killed):
        train(case, KilledIn(epoch), Checkpoint(), **saving, plugins=CheckpointFiles())
    last = tmp_path / "checkpoints" / "last.ckpt"
    train(case, Checkpoint(), ckpt_path=last, **saving, plugins=CheckpointFiles())
    assert messages(caplog) == whole


def test_two_ranks_name_the_images_that_one_names_and_only_the_first_speaks() -> None:
    alone = named_images()
    losses = losses_by_hand()
    hardest = sorted(losses, key=lambda name: -losses[name])[:3]
    named = ", ".join(f"{name} ({losses[name]:.3f})" for name in hardest)
    assert alone == [f"epoch 1: overfitting. Validation images with the highest loss: {named}."]
    assert run_ranks(named_images, 2) == [alone, []]


def test_a_task_that_scores_no_iou_and_a_validation_outside_of_a_training_say_nothing() -> None:
    diagnosis = Diagnosis()
    tiny_trainer(ApplyTuningPlan(), diagnosis).fit(  # without the callback iou nothing is summed
        tiny_task(), datamodule=SegmentationData(Bars(4), Bars(2, 1), batch_size=2)
    )
    tiny_trainer(IoU(table=False), diagnosis).validate(
        tiny_task(), datamodule=SegmentationData(Bars(4), Bars(2, 1), batch_size=2), verbose=False
    )
    assert diagnosis.state_dict()["history"] == []


@pytest.mark.parametrize("patience", [0, True])
def test_a_patience_below_1_is_refused(patience: int) -> None:
    with pytest.raises(ValueError, match=r"patience=\w+; expected a whole number, 1 or more"):
        Diagnosis(patience)
