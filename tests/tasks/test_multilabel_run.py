"""A multi-label run from the command line to its predictions, and the losses and weights that a config may name."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import finetune
from finetune.builders.checks.training import check
from finetune.builders.dummy_step import noise_step
from finetune.builders.task import task_without_weights
from finetune.commands.train import TrainResult
from finetune.config.compose import load_config
from finetune.data import CLASS_NAMES
from finetune.data.sources.synthetic import DrawnMask
from finetune.models import Segmenter
from finetune.runs.untrusted_config import check_untrusted_config
from finetune.tasks import MultilabelTask, SemanticTask
from tests.samples import SYNTHETIC, TINY, save

OVERRIDES = (*SYNTHETIC, "task=multilabel", "task.thresholds=[0.2,0.5,0.5,0.5,0.9]", "auxiliary=fcn")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """One epoch on synthetic images."""
    return finetune.train(*OVERRIDES, f"output={tmp_path_factory.mktemp('home') / 'run'}")


def test_the_run_has_scores_per_class_and_no_confusion_matrix(run: TrainResult) -> None:
    assert run.scores.keys() == {"iou", "dice", "precision", "recall", "f1", "accuracy"}
    folder = run.folder / "evaluation" / "test"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(
            "best.png",
            "calibration.json",
            "calibration.png",
            "classes.csv",
            "classes.png",
            "images.csv",
            "interval.json",
            "overlaps.npz",
            "scores.json",
        ),
        *("thresholds.csv", "thresholds.png", "worst.png"),
    ]
    with (folder / "classes.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == list(CLASS_NAMES)
    assert len(list((run.folder / "plots" / "preview").iterdir())) == 1


def test_the_model_knows_its_task_and_thresholds(run: TrainResult) -> None:
    config = json.loads((run.folder / "model" / "config.json").read_text())
    assert config["task"] == {"name": "multilabel", "thresholds": [0.2, 0.5, 0.5, 0.5, 0.9]}
    card = (run.folder / "model" / "README.md").read_text()
    assert "Task: multilabel, thresholds: [0.2, 0.5, 0.5, 0.5, 0.9]." in card
    for path in (run.folder, run.best):
        assert finetune.load(path).output.options() == {"thresholds": [0.2, 0.5, 0.5, 0.5, 0.9]}


def test_another_evaluation_gives_the_same_scores(run: TrainResult) -> None:
    result = finetune.evaluate(f"run={run.folder}")
    assert result.scores == pytest.approx(run.scores, nan_ok=True)
    assert result.matrix is None


def test_predictions_are_one_file_per_class(run: TrainResult, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    photo = save(tmp_path / "photos" / "day" / "a.png", pixels)
    (masks,) = finetune.load(run.folder).predict(photo).values()
    assert (masks.shape, masks.dtype) == ((5, 37, 53), np.uint8)
    model = finetune.load(run.folder).model
    with torch.no_grad():
        p = model(model.normalize(torch.from_numpy(pixels).movedim(-1, 0)[None]))[0].sigmoid().numpy()
    expected = p > np.array([0.2, 0.5, 0.5, 0.5, 0.9]).reshape(-1, 1, 1)
    assert (masks == expected).mean() > 0.999
    assert 0 < masks.mean() < 1

    written = finetune.predict(f"run={run.folder}", f"input={photo.parent.parent}", f"output={tmp_path / 'out'}")
    assert written == [tmp_path / "out" / "masks" / "day" / f"a_{name}.png" for name in CLASS_NAMES]
    for path, mask in zip(written, masks, strict=True):
        assert (np.asarray(Image.open(path)) == 255 * mask).all()
    half = float(np.median(p.max(axis=0)))  # the threshold above which half of the pixels have a class
    finetune.predict(f"run={run.folder}", f"input={photo}", f"output={tmp_path / 'half'}", f"threshold={half}")
    overlay = np.asarray(Image.open(tmp_path / "half" / "overlays" / "a.png"))
    stays = (overlay == pixels).all(axis=-1)
    assert 0.4 < stays.mean() < 0.6
    assert (stays == (p <= half).all(axis=0)).mean() > 0.99


def mistakes(*overrides: str) -> str:
    """Return the mistakes that the check of a training finds."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the callers look at the message
        check(load_config([*SYNTHETIC, *overrides], "train"))
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=bce",), "loss=bce does not fit task=semantic. Choose from: cross_entropy, dice, ce_dice, focal, "),
        (("task=multilabel", "loss=ce_dice"), "does not fit task=multilabel. Choose from: bce, bce_dice, "),
        (
            ("loss=dice", "+loss.gamma=3"),
            "there is no setting loss.gamma. Choose from: class_weights, auxiliary_weight.",
        ),
        (("loss=dice", "loss.name=dise"), "unknown loss.name 'dise'. Did you mean dice"),
        (("loss.class_weights=[1,20]",), "2 weights for 5 classes (background, disc"),
        (("loss.class_weights=[1,-1,1,1,1]",), "expected none, the name of a rule, or a list"),
        (("loss.class_weights=[0,0,0,0,0]",), "expected none, the name of a rule, or a list"),
        (("loss.class_weights=inverse",), "class weight rule 'inverse' is unknown"),
        (("loss.class_weights=3",), "expected none, the name of a rule, or a list"),
        (("task.name=semantics",), "unknown task.name 'semantics'. Did you mean semantic"),
        (("task=semantic", "+task.thresholds=0.5"), "there is no setting task.thresholds. There are none."),
        (("task=multilabel", "task.thresholds=2"), "thresholds=2: expected a number from 0 to 1"),
        (("task=multilabel", "task.thresholds=[0.5,0.5]"), "2 thresholds for 5 classes"),
        (("task=multilabel", "data.ignore_index=0"), "ignore_index=0: masks use 0 and 1"),
        (
            ("loss=foreign",),
            "loss.target is not set: expected the dotted name of a subclass of torch.nn.modules.module.Module",
        ),
        (("loss=foreign", "loss.target=torch.nn.Losses"), "loss.target=torch.nn.Losses: expected a subclass"),
        (("loss=foreign", "loss.target=os.system"), "loss.target=os.system is a builtin_function_or_method"),
        (
            ("loss=foreign", "loss.target=torch.nn.CrossEntropyLoss", "+loss.options.mode=x"),
            "CrossEntropyLoss does not take options={'mode': 'x'}",
        ),
        (
            ("task=multilabel", "callbacks.early_stopping.monitor=val/pixel_accuracy"),
            "'val/pixel_accuracy' is not logged by a validation. Did you mean val/accuracy",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    assert message in mistakes(*overrides)


def test_masks_per_class_need_the_multilabel_task(monkeypatch: pytest.MonkeyPatch) -> None:
    read = DrawnMask.read

    def as_masks(self: DrawnMask) -> torch.Tensor:
        return torch.stack([read(self) == k for k in range(5)]).to(torch.uint8)

    monkeypatch.setattr(DrawnMask, "read", as_masks)
    assert "Set task=multilabel for one mask per class" in mistakes("task=semantic")
    check(load_config([*SYNTHETIC, "task=multilabel"], "train"))


def draw_table(root: Path, column: str) -> str:
    """Write six images with a bright half, a table with the halves' masks, and return the overrides that read them."""
    rows = ["image," + column]
    for index in range(6):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:, : 8 + index] = 1
        save(root / f"{index}.png", np.repeat(mask[..., None] * 150 + 50, 3, axis=2))
        save(root / f"{index}_mask.png", mask)
        rows.append(f"{index}.png,{index}_mask.png")
    (root / "labels.csv").write_text("\n".join(rows))
    return f"data.root={root}"


def test_a_single_class_without_background_trains_and_predicts(folder: Path) -> None:
    root = draw_table(folder / "cracks", "mask:crack")
    data = ("data=csv", root, "task=multilabel", "augment=none", "augment.crop=null")
    run = finetune.train(*TINY, *data, "tuning=full", "optimizer.lr=1e-2", "trainer.max_epochs=15", "output=run")
    assert run.scores["iou"] > 0.8
    (mask,) = finetune.load(run.folder).predict(folder / "cracks" / "5.png").values()
    assert mask.shape == (1, 32, 32)
    (written,) = finetune.predict("run=run", f"input={folder / 'cracks' / '5.png'}", "output=out")
    assert written == Path("out/masks/5_crack.png")


def test_class_indices_of_a_single_class_are_refused(folder: Path) -> None:
    root = draw_table(folder / "cracks", "mask:crack")
    with pytest.raises(ValueError, match="Set task=multilabel for one mask per class"):
        check(load_config([*TINY, "data=csv", "task=semantic", root], "train"))
    for task in (SemanticTask, MultilabelTask):
        with pytest.raises(ValueError, match=r"single class, 'blob'.*data.classes=\[background,blob\]"):
            task.check_target(torch.zeros(4, 4), ["blob"], 255)
    with pytest.raises(ValueError, match="every pixel would have it"):
        SemanticTask(Segmenter("test_resnet.r160_in1k", "linear", ["blob"], weights="none"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("loss.class_weights=[1,20,1,1,0.5]",),
        ("loss=foreign", "loss.target=segmentation_models_pytorch.losses.DiceLoss", "+loss.options.mode=multiclass"),
        ("task=multilabel", "loss=bce", "loss.class_weights=[1,20,1,1,1]"),
        ("task=multilabel", "loss=foreign", "loss.target=torch.nn.BCEWithLogitsLoss", "loss.drop_ignored=true"),
    ],
)
def test_weights_by_hand_and_losses_of_other_packages_train(overrides: tuple[str, ...], folder: Path) -> None:
    assert finetune.train(*SYNTHETIC, *overrides, "+trainer.fast_dev_run=true").scores["iou"] >= 0


def test_a_step_on_random_data_trains_on_masks() -> None:
    config = load_config([*SYNTHETIC, "task=multilabel"], "train")
    task = task_without_weights(config, ["sky", "sea"])
    before = {name: parameter.clone() for name, parameter in task.model.head.named_parameters()}
    noise_step(config, task, (2, 3, 32, 32))()
    assert task.dummy_batch((2, 3, 32, 32))["mask"].shape == (2, 2, 32, 32)
    assert not any(torch.equal(parameter, before[name]) for name, parameter in task.model.head.named_parameters())


def test_the_loss_of_an_untrusted_config_is_not_imported() -> None:
    config = load_config([*SYNTHETIC, "output=run", "loss=foreign", "loss.target=os.system"], "train")
    with pytest.raises(ValueError, match=r"loss.target=os.system: its code would run"):
        check_untrusted_config(config)
    check_untrusted_config(config, {"loss.target"})
