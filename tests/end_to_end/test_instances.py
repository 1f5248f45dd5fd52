"""Objects from files to scores: one setting to train, exact resume, the same scores on two ranks, clear refusals."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune.callbacks import ApplyTuningPlan, Checkpoint, IoU
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.checkpoints.saved_model import load_model
from finetune.data.module import SegmentationData
from finetune.models import InstanceSegmenter
from finetune.tasks import InstanceTask
from tests import forked
from tests.instance_samples import drawn_objects
from tests.samples import MODEL, SYNTHETIC, TINY, exit_code, save
from tests.tasks.test_instance import Squares, task
from tests.tasks.test_resume import Cut, CutOff
from tests.tasks.tiny_run import tiny_trainer

SMALL = (
    *(override for override in TINY if not override.startswith("head")),
    *("task=instance", "head.channels=16", "augment.crop=64"),
)
RCNN = (*SMALL, "head.box_features=16", "head.mask_layers=1")


def object_folder(root: Path, count: int = 10, size: int = 64) -> Path:
    """Write images with a mask file for each object; the last image has none."""
    for index, (image, objects) in enumerate(drawn_objects(count, size, seed=0)):
        save(root / f"{index:02d}" / "images" / "photo.png", image.permute(1, 2, 0).numpy())
        for number, mask in enumerate(objects.masks if index < count - 1 else ()):
            save(root / f"{index:02d}" / "masks" / f"{number}.png", mask.numpy().astype(np.uint8) * 255)
    (root / f"{count - 1:02d}" / "masks").mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("instances")
    data = object_folder(folder / "data")
    trained = finetune.train(*RCNN, f"data.root={data}", f"output={folder / 'run'}")
    return trained.folder, trained.scores


def test_a_folder_of_objects_trains_from_its_root_alone(run: tuple[Path, dict[str, float]]) -> None:
    folder, scores = run
    assert {"mask_ap", "box_ap", "pq", "f1", "count_error"} <= scores.keys()
    model = load_model(folder).model
    assert isinstance(model, InstanceSegmenter)
    assert model.class_names == ("object",)
    log = (folder / "train.log").read_text()
    assert "objects in" in log
    assert "head.anchor_sizes=[" in log
    assert (folder / "plots" / "augmentation.png").is_file()
    assert len(list((folder / "plots" / "preview").iterdir())) == 1
    assert "mask_ap" in (folder / "report.html").read_text()


def test_an_evaluation_of_the_run_finds_the_scores_of_its_end(run: tuple[Path, dict[str, float]]) -> None:
    folder, scores = run
    again = finetune.evaluate(f"run={folder}", "trainer.accelerator=cpu").scores
    assert again == pytest.approx(scores, nan_ok=True, abs=0)


def test_a_plan_of_objects_needs_no_training(run: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    data = run[0].parent / "data"
    planned = finetune.plan(*SMALL, "head=yolact", f"data.root={data}", f"plan.figure={tmp_path / 'plan.png'}")
    assert planned.costs[0].forward_flops > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=synthetic", "data.count=8", "data.size=32"), "data.instances=components"),
        (("head=fpn",), "head=fpn does not fit task=instance. Choose from: mask_rcnn, yolact"),
        (("loss=ce_dice",), "loss=ce_dice does not fit task=instance. Choose from: of_head"),
        (("checkpoint.monitor=val/iou",), "'val/iou' is not logged by a validation"),
        (("augment.mix.cutmix=0.5",), "augment.mix.cutmix mixes masks of classes"),
        (("augment.class_crop=0.5",), "augment.class_crop=0.5: task=instance has no masks of classes"),
        (("auxiliary=fcn",), "auxiliary: head=mask_rcnn has losses of its own"),
        (("data.clean_masks=10",), "data.instances=components"),
        (("head.anchor_sizes=[8,16]",), "head.anchor_sizes"),
        (("backbone.output_stride=12",), "backbone.output_stride=12: expected 8, 16 or 32"),
        (("head.weights=coco.pth", "init_from=other"), "head.weights and init_from each give weights to the head"),
        (("+loss.weights.mask=2",), "loss.weights.mask: the head's terms are loss_objectness, loss_rpn_box_reg"),
        (("tta=flip",), "tta: objects of several views cannot be averaged"),
        (("recipe=thorough",), "Set tta=none"),
    ],
)
def test_what_does_not_fit_objects_is_refused(
    overrides: tuple[str, ...],
    message: str,
    run: tuple[Path, dict[str, float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = [] if "data=synthetic" in overrides else [f"data.root={run[0].parent / 'data'}"]
    own = RCNN if "head=fpn" not in overrides else [each for each in RCNN if not each.startswith("head.")]
    assert exit_code("train", *own, *data, *overrides, f"output={tmp_path / 'run'}") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_masks_that_number_their_objects_need_no_classes(tmp_path: Path) -> None:
    for index, (image, objects) in enumerate(drawn_objects(10, 64, seed=1)):
        ids = np.zeros((64, 64), dtype=np.uint16)
        for number, mask in enumerate(objects.masks.numpy(), start=300):
            ids[mask] = number
        save(tmp_path / "data" / "images" / f"{index}.png", image.permute(1, 2, 0).numpy())
        save(tmp_path / "data" / "masks" / f"{index}.png", ids)
    trained = finetune.train(
        *RCNN, f"data.root={tmp_path / 'data'}", "data.instances=ids", f"output={tmp_path / 'run'}"
    )
    assert load_model(trained.folder).mask_classes == ("background", "object")
    assert "1 class: object" in (trained.folder / "train.log").read_text()
    again = finetune.evaluate(f"run={trained.folder}", "trainer.accelerator=cpu").scores
    assert again == pytest.approx(trained.scores, nan_ok=True, abs=0)


def bad_coco(folder: Path, annotations: list[dict[str, object]], images: int = 6) -> Path:
    """Write images with an annotation of each kind on every image."""
    folder.mkdir()
    for index in range(images):
        save(folder / f"{index}.png", np.full((64, 64, 3), 90, dtype=np.uint8))
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in range(images)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 10 * n + k, "image_id": n, "category_id": 1, "iscrowd": 0, **entry}
            for n in range(images)
            for k, entry in enumerate(annotations)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


SQUARE = {"segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]]}


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([SQUARE, {"segmentation": [[1, 1, 9, 9]]}], "it has 2 points; expected 3 or more"),
        ([SQUARE, {**SQUARE, "category_id": 5}], "category"),
        ([SQUARE, {**SQUARE, "image_id": 77}], "77"),
        ([{"segmentation": [[90, 90, 99, 90, 99, 99]]}], "no train and no val and no test image has an object"),
    ],
)
def test_bad_annotations_are_named(
    annotations: list[dict[str, object]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bad_coco(tmp_path / "data", annotations)
    assert exit_code("train", *RCNN, f"data.root={data}", f"output={tmp_path / 'run'}") == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_objects_without_width_and_beyond_the_image_are_no_objects(tmp_path: Path) -> None:
    thin = {"segmentation": [[5, 5, 5, 20, 5, 30]]}
    outside = {"segmentation": [[50, 50, 90, 50, 90, 90, 50, 90]]}
    data = bad_coco(tmp_path / "data", [SQUARE, thin, outside])
    trained = finetune.train(*RCNN, f"data.root={data}", f"output={tmp_path / 'run'}")
    log = (trained.folder / "train.log").read_text()
    assert "8 objects in 4 training images" in log
    assert "6 objects of fewer than 9 pixels are ignored" in log
    assert all(np.isfinite(value) for name, value in trained.scores.items() if name in ("mask_ap", "f1", "count_error"))


def test_a_head_of_objects_needs_their_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *SYNTHETIC[len(MODEL) :], "head=yolact", f"output={tmp_path / 'run'}") == 2
    assert "For objects, set task=instance" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["calibrate", "explain", "suggest"])
def test_commands_for_masks_of_classes_refuse_a_model_of_objects(
    command: str, run: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    place = [f"input={run[0].parent / 'data'}", f"output={run[0].parent / command}"]
    assert exit_code(command, f"run={run[0]}", *(place if command != "calibrate" else ())) == 2
    assert "pixels" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["window=128", "tta=flip"])
def test_windows_and_views_of_an_evaluation_are_refused(
    setting: str, run: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("evaluate", f"run={run[0]}", "trainer.accelerator=cpu", setting) == 2
    assert "window, tta: task=instance evaluates images whole, in one view" in capsys.readouterr().err


def test_examples_are_drawn_by_the_model_that_is_scored(
    run: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, find = [], InstanceTask.find
    monkeypatch.setattr(InstanceTask, "find", lambda task, image: modes.append(task.training) or find(task, image))
    finetune.evaluate(f"run={run[0]}", "trainer.accelerator=cpu", f"output={tmp_path / 'out'}")
    assert modes
    assert not any(modes)


def test_scores_without_a_value_are_left_out_of_the_model(run: tuple[Path, dict[str, float]]) -> None:
    assert any(np.isnan(value) for value in run[1].values())
    stored = json.loads((run[0] / "model" / "config.json").read_text(), parse_constant=pytest.fail)["scores"]
    assert stored.keys() == {f"test/{name}" for name, value in run[1].items() if not np.isnan(value)}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("report", "run=[{run},{run}]"), "only runs that classify pixels are compared"),
        (("evaluate", "run={run}", "threshold=0.3"), "threshold=0.3: objects are scored with task.min_score"),
    ],
)
def test_what_is_about_pixels_is_refused_by_its_setting(
    command: tuple[str, ...], message: str, run: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*(word.replace("{run}", str(run[0])) for word in command)) == 2
    assert message in capsys.readouterr().err


def numbered(folder: Path, count: int, dtype: type) -> Path:
    """Write images with masks that number their objects, of 9 pixels each, from 1 on."""
    side = 4 * (int(count**0.5) + 1)
    numbers = np.zeros((side, side), dtype=dtype)
    for index in range(count):
        row, column = divmod(index, side // 4)
        numbers[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] = index + 1
    for index in range(6):
        save(folder / "images" / f"{index}.png", np.full((side, side, 3), 90, dtype=np.uint8))
        save(folder / "masks" / f"{index}.png", numbers)
    return folder


@pytest.mark.parametrize(("count", "dtype"), [(300, np.uint16), (255, np.uint8)])
def test_every_number_but_0_is_an_object(
    count: int, dtype: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = numbered(tmp_path / "data", count, dtype)
    planned = finetune.plan(*SMALL, "head=yolact", f"data.root={data}", "data.instances=ids", "data.classes=[cell]")
    assert planned is not None
    text = "\n".join(caplog.messages)
    assert f"at most {count} in one" in text
    assert "1 class: cell" in text
    assert "all values of the masks but 0 number objects of the class cell" in text


def test_a_value_that_is_given_as_void_is_no_object(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = numbered(tmp_path / "data", 255, np.uint8)
    finetune.plan(*SMALL, "head=yolact", f"data.root={data}", "data.instances=ids", "data.ignore_index=255")
    text = "\n".join(caplog.messages)
    assert "at most 254 in one" in text
    assert "all values of the masks but 0 and 255, which is void, number objects" in text


def test_several_classes_of_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = numbered(tmp_path / "data", 5, np.uint8)
    given = (f"data.root={data}", "data.instances=ids", "data.classes=[cell,nucleus]")
    assert exit_code("train", *SMALL, "head=yolact", *given, f"output={tmp_path / 'run'}") == 2
    assert "masks that number objects have one class" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["mask_rcnn", pytest.param("yolact", marks=pytest.mark.slow)])
def test_a_training_that_was_cut_off_ends_as_if_it_had_never_stopped(head: str, tmp_path: Path) -> None:
    def fit(name: str, *extra: CutOff, resume: bool = False) -> dict[str, torch.Tensor]:
        tuned, folder = task(head, lr=1e-3), tmp_path / name
        trainer = tiny_trainer(
            *(ApplyTuningPlan(), IoU(table=False), *extra, Checkpoint("val/mask_ap", every_n_steps=1)),
            max_epochs=2,
            default_root_dir=folder,
            enable_checkpointing=True,
            plugins=CheckpointFiles(),
        )
        data = SegmentationData(Squares(8), Squares(5), batch_size=4)
        trainer.fit(tuned, datamodule=data, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
        return {**tuned.model.state_dict(), **{f"log/{k}": v for k, v in trainer.callback_metrics.items()}}

    whole = fit("whole")
    with pytest.raises(Cut):
        fit("cut", CutOff(3))
    resumed = fit("cut", resume=True)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name].nan_to_num(), resumed[name].nan_to_num())] == []


@pytest.mark.slow
def test_two_ranks_score_as_one_does(run: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    command = forked.start(
        "evaluate", f"run={run[0]}", "split=train", *ranks, "output=two", cwd=tmp_path, logs=tmp_path
    )
    code, errors = command.wait()
    assert code == 0, errors
    one = finetune.evaluate(f"run={run[0]}", "split=train", "trainer.accelerator=cpu", f"output={tmp_path / 'one'}")
    assert one.scores["mask_ar"] == one.scores["mask_ar"]
    assert json.loads((tmp_path / "two" / "scores.json").read_text()) == json.loads(
        (tmp_path / "one" / "scores.json").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mask_rcnn", "yolact"])
def test_two_ranks_train_on_images_without_objects(head: str, tmp_path: Path) -> None:
    data = object_folder(tmp_path / "data", count=12)
    for masks in data.glob("0[2468]/masks/*.png"):
        masks.unlink()
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "data.batch_size=1")
    small = RCNN if head == "mask_rcnn" else (*SMALL, "head=yolact")
    command = forked.start("train", *small, *ranks, f"data.root={data}", "output=run", cwd=tmp_path, logs=tmp_path)
    code, errors = command.wait()
    assert code == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mask_rcnn", "yolact"])
def test_two_ranks_unfreeze_the_backbone_at_the_same_step(head: str, tmp_path: Path) -> None:
    data = object_folder(tmp_path / "data", count=12)
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=4", "data.batch_size=2")
    plan = ("tuning=head_then_full", "tuning.unfreeze_at=0.5", "checkpoint.keep_last=4")
    small = RCNN if head == "mask_rcnn" else (*SMALL, "head=yolact")
    command = forked.start(
        "train", *small, *ranks, *plan, f"data.root={data}", "output=run", cwd=tmp_path, logs=tmp_path
    )
    code, errors = command.wait()
    assert code == 0, errors
    paths = sorted((tmp_path / "run" / "checkpoints").glob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    contents = [torch.load(path, weights_only=True) for path in paths]
    states = [content["state_dict"] for content in sorted(contents, key=lambda content: content["global_step"])]
    assert len(states) == 4
    weights = [name for name in states[0] if ".backbone." in name and name.endswith("weight") and ".fc." not in name]
    changed = [[not torch.equal(one[name], other[name]) for name in weights] for one, other in pairwise(states)]
    assert not any(changed[0])
    assert all(changed[1])
    assert all(changed[2])


def test_a_run_of_yolact_is_exported_and_one_of_mask_rcnn_refused(
    run: tuple[Path, dict[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    data, trained = run[0].parent / "data", tmp_path / "run"
    finetune.train(*SMALL, "head=yolact", "head.prototypes=8", f"data.root={data}", f"output={trained}")
    exported = finetune.export(f"run={trained}", "format=onnx", "size=[64,64]", f"output={tmp_path / 'onnx'}")
    assert [path.name for path in exported.files] == ["model.onnx"]
    assert "objects agree" in str(exported.agreement)
    assert exit_code("export", f"run={trained}", "format=web", f"output={tmp_path / 'web'}") == 2
    assert "format=web is for models that classify pixels" in capsys.readouterr().err
    assert exit_code("export", f"run={run[0]}", "format=onnx", f"output={tmp_path / 'rcnn'}") == 2
    assert "head=mask_rcnn cannot be written as ONNX" in capsys.readouterr().err
    folder = finetune.export(f"run={run[0]}", "format=safetensors", f"output={tmp_path / 'model'}").folder
    assert isinstance(load_model(folder).model, InstanceSegmenter)
