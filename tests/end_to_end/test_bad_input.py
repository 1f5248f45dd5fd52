"""Mistakes of users: a clear message on standard error, exit code 2, and no file written."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image

import finetune
from tests.samples import MODEL, SYNTHETIC, TINY, draw_folder, exit_code, listing, on_folder, save

pytestmark = pytest.mark.usefixtures("without_figures")

CLASSES = "data.classes=[ground,wall,sky]"


class Refuses:
    """Runs a command that must be refused, and returns its message."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.capsys = capsys
        self.folder = folder

    def __call__(self, *arguments: str) -> str:
        self.capsys.readouterr()
        before = listing(self.folder)
        code = exit_code(*arguments)
        message = self.capsys.readouterr().err
        assert code == 2, message
        assert message.startswith("error: ")
        assert "Traceback" not in message
        assert listing(self.folder) == before
        return message


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuses:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return Refuses(capsys, tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with three classes."""
    folder = tmp_path_factory.mktemp("trained")
    return finetune.train(*on_folder(draw_folder(folder / "photos")), f"output={folder / 'run'}").folder


@pytest.fixture
def watched_run(trained: Path, refused: Refuses) -> Iterator[Path]:
    """Return the same run, which must stay unchanged."""
    before = listing(trained.parent)
    yield trained
    assert listing(trained.parent) == before


def test_a_missing_folder(refused: Refuses) -> None:
    message = refused("train", *TINY, CLASSES, "data.root=nowhere")
    assert "nowhere" in message
    assert "images/" in message
    assert "data.root" in message


def test_no_folder_at_all(refused: Refuses) -> None:
    message = refused("train", *TINY, CLASSES)
    assert "data.root is not set" in message
    assert "data=synthetic" in message


def test_an_empty_folder(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    message = refused("train", *on_folder(tmp_path / "photos"))
    assert "photos' holds: nothing" in message
    assert "images" in message


def test_a_folder_without_images_and_masks(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos" / "other").mkdir(parents=True)
    message = refused("train", *on_folder(tmp_path / "photos"))
    assert "other/" in message


def test_empty_image_and_mask_folders(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos" / "images").mkdir(parents=True)
    (tmp_path / "photos" / "masks").mkdir()
    assert "has no images" in refused("train", *on_folder(tmp_path / "photos"))


def test_images_without_masks_and_masks_without_images_are_all_listed(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    for name in ("images/photo_03.png", "masks/photo_05.png", "masks/photo_07.png"):
        (root / name).unlink()
    message = refused("train", *on_folder(root))
    assert "2 images without a mask" in message
    assert "photo_05.png" in message
    assert "photo_07.png" in message
    assert "1 masks without an image" in message
    assert "photo_03.png" in message


def test_an_image_and_a_mask_of_different_sizes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    save(root / "masks" / "photo_04.png", np.zeros((16, 30), dtype=np.uint8))
    message = refused("train", *on_folder(root))
    assert re.search(r"photo_04\.png'? is 32x40, its mask .*16x30", message)


def test_a_truncated_image(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    path = (root / "images" / "photo_02.png").rename(root / "images" / "photo_02.jpg")
    with Image.open(path) as image:
        image.save(path, "jpeg", quality=95)
    path.write_bytes(path.read_bytes()[:-600])
    message = refused("train", *on_folder(root))
    assert "images/photo_02.jpg" in message
    assert "photo_03" not in message


def test_a_truncated_mask(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    path = root / "masks" / "photo_02.png"
    path.write_bytes(path.read_bytes()[:50])
    assert "masks/photo_02.png" in refused("train", *on_folder(root))


def test_all_files_that_are_not_images_are_named(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    (root / "images" / "photo_02.png").write_text("not an image")
    (root / "images" / "photo_09.png").write_text("")
    message = refused("train", *on_folder(root))
    assert "photo_02.png" in message
    assert "photo_09.png" in message


def test_a_label_outside_the_classes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[:2, :5] = 7
    save(root / "masks" / "photo_06.png", mask)
    message = refused("train", *on_folder(root))
    assert "label 7" in message
    assert "10 pixels" in message
    assert "photo_06.png" in message
    assert "data.ignore_index=7" in message
    assert "data.classes=8" in message


def test_black_and_white_masks_for_two_classes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 255))
    message = refused("train", *TINY, "data=folder", f"data.root={root}", "data.classes=2")
    assert "[0, 255]" in message
    assert "data.mask_values=[0,255]" in message


def test_the_suggested_setting_for_black_and_white_masks_trains(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 255))
    assert exit_code("train", *TINY, f"data.root={root}", "data.classes=2", "data.mask_values=[0,255]") == 0


def test_a_color_image_as_a_mask(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    (root / "masks" / "photo_01.png").write_bytes((root / "images" / "photo_01.png").read_bytes())
    message = refused("train", *on_folder(root))
    assert "photo_01.png" in message
    assert "color" in message


def test_masks_without_two_classes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(3,))
    message = refused("train", *TINY, f"data.root={root}")
    assert "the masks hold only the value 3; at least two classes are needed" in message
    assert "data.masks" in message


@pytest.mark.parametrize(("classes", "named"), [("1", "background"), ("[wall,wall]", "wall"), ("sky", "sky")])
def test_invalid_classes(refused: Refuses, tmp_path: Path, classes: str, named: str) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 1))
    message = refused("train", *TINY, f"data.root={root}", f"data.classes={classes}")
    assert "class" in message
    assert named in message


def test_too_few_images_to_split(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", names=("a", "b"))
    assert "2 images cannot be split" in refused("train", *on_folder(root))


def test_an_unknown_backbone(refused: Refuses) -> None:
    message = refused("train", *SYNTHETIC, "backbone.name=resnt18")
    assert "resnt18" in message
    assert "Did you mean resnet18" in message


def test_a_head_that_needs_another_backbone(refused: Refuses) -> None:
    overrides = [override for override in SYNTHETIC if not override.startswith("head")]
    assert "vgg11" in refused("train", *overrides, "head=segnet")


def test_an_unknown_head(refused: Refuses) -> None:
    assert "Did you mean unet" in refused("train", *SYNTHETIC, "head=unett", "~head.pyramid_channels")
    assert "Did you mean unet" in refused("train", *SYNTHETIC, "head.name=unett")


def test_an_unknown_option_of_the_loss(refused: Refuses) -> None:
    assert "Did you mean gamma" in refused("train", *SYNTHETIC, "loss=focal", "+loss.gama=2")
    assert "Did you mean loss.label_smoothing" in refused("train", *SYNTHETIC, "loss.label_smothing=0.1")


def test_an_invalid_value_of_a_head_option(refused: Refuses) -> None:
    assert "segmentation_channels" in refused("train", *SYNTHETIC, "head.segmentation_channels=16")


def test_a_misspelled_override(refused: Refuses) -> None:
    assert "Did you mean data.batch_size" in refused("train", *SYNTHETIC, "data.bach_size=3")
    assert "Did you mean run" in refused("evaluate", "rnu=x")
    assert "Did you mean input" in refused("predict", "inptu=x")


def test_all_mistakes_are_reported_at_once(refused: Refuses) -> None:
    overrides = ("head.name=unett", "+loss.gama=2", "optimizer.name=adamww", "data.batch_size=0", "data.root=nowhere")
    message = refused("train", *TINY, CLASSES, *overrides)
    for part in ("unett", "gama", "adamww", "batch_size", "nowhere"):
        assert part in message


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+callbacks.x._target_=nowhere.Thing", "nowhere.Thing"),
        ("+callbacks.x._target_=os.system", "os.system"),
        ("+callbacks.early_stopping.moniter=val/iou", "moniter"),
        ("trainer.precision=half", "half"),
        ("trainer.accelerator=abacus", "abacus"),
        ("trainer.devices=0", "devices=0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: expected a whole number of 1"),
        ("+trainer={sync_batchnorm: true, devices: 2}", "torch synchronizes batch norms on GPUs only"),
        ("trainer.gradient_clip_algorithm=foo", "trainer.gradient_clip_algorithm=foo: choose norm or value"),
        ("+optimizer.options.bta=3", "bta"),
        ("+backbone.options.depht=3", "depht"),
        ("+backbone.options.pretrained=true", "pretrained"),
        ("backbone.weights=nowhere.pth", "nowhere.pth"),
        ("backbone.weights=package:nothing", "nothing"),
        ("tuning.rules=[{match: nothing_like_it, lowest_lr_scale: 0.1},{match: .}]", "nothing_like_it"),
        ("auxiliary.channels=64", "auxiliary.channels=64 has no effect"),
        ("+auxiliary.depth=3", "auxiliary.depth=3 has no effect"),
        ("auxiliary.level=9", "auxiliary.level=9: expected 2 or 3 or 4 or 5"),
        ("loss.auxiliary_weight=1", "loss.auxiliary_weight=1 has no effect"),
        ("seed=-1", "seed=-1"),
        ("output=/dev/null/run", "/dev/null"),
    ],
)
def test_an_invalid_setting(refused: Refuses, override: str, named: str) -> None:
    assert named in refused("train", *SYNTHETIC, override)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No network, no proxy, and an empty cache."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_downloaded(refused: Refuses) -> None:
    message = refused("train", *SYNTHETIC, "backbone.name=resnet18", "backbone.weights=pretrained")
    assert "resnet18" in message
    assert huggingface_hub.constants.HF_HUB_CACHE in message
    for alternative in ("connection", "backbone.weights=FILE", "efficientnet_lite0", "backbone.weights=none"):
        assert alternative in message


@pytest.mark.usefixtures("no_network")
def test_mistakes_are_reported_before_weights_are_requested(refused: Refuses) -> None:
    message = refused("train", *SYNTHETIC, "backbone.weights=pretrained", "optimizer.name=adamww")
    assert "adamw" in message
    assert "hub" not in message


def test_an_existing_output_folder(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("keep me")
    message = refused("train", *SYNTHETIC, "output=old")
    assert "output='old'" in message
    assert "not empty" in message


def test_an_output_that_is_a_file(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("keep me")
    assert "output='old'" in refused("train", *SYNTHETIC, "output=old")


def test_an_empty_output_folder_is_accepted(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert exit_code("train", *SYNTHETIC, "output=new") == 0


DEEPLAB = [override for override in TINY if not override.startswith("head")] + ["head=deeplabv3plus"]


def test_a_batch_size_of_one_with_batch_norm(refused: Refuses) -> None:
    message = refused("train", *DEEPLAB, "data=synthetic", "data.size=32", "data.batch_size=1")
    assert "data.batch_size=2" in message
    assert "batch norm" in message


def test_batches_of_one_image_are_refused_where_a_head_pools_to_a_pixel(refused: Refuses) -> None:
    message = refused("train", *DEEPLAB, "data=synthetic", "data.size=32", "data.count=1", "data.batch_size=1")
    assert "batch norm" in message
    assert "data.batch_size=2" in message


def test_more_classes_in_the_checkpoint_than_in_the_data(refused: Refuses, watched_run: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others", values=(0, 1))
    message = refused("evaluate", f"run={watched_run}", f"data.root={root}", "data.classes=[ground,wall]")
    assert "3 classes (ground, wall, sky)" in message
    assert "declares 2" in message


def test_more_classes_in_the_data_than_in_the_checkpoint(refused: Refuses, watched_run: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others", values=(0, 1, 2, 3))
    assert "declares 4" in refused("evaluate", f"run={watched_run}", f"data.root={root}", "data.classes=4")
    assert "label 3 is outside the 3 classes" in refused("evaluate", f"run={watched_run}", f"data.root={root}")


def test_classes_in_another_order_than_in_the_checkpoint(refused: Refuses, trained: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others")
    message = refused("evaluate", f"run={trained}", f"data.root={root}", "data.classes=[sky,wall,ground]")
    assert "ground, wall, sky" in message


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_that_is_not_set(refused: Refuses, command: str) -> None:
    assert "run is not set" in refused(command)


@pytest.mark.parametrize("arguments", [("evaluate",), ("predict", "input=photos", "output=masks")])
def test_a_run_that_does_not_exist(refused: Refuses, arguments: tuple[str, ...]) -> None:
    message = refused(*arguments, "run=nowhere")
    assert "no model at 'nowhere'" in message
    assert "model folder" in message


def test_a_run_that_is_not_a_model(refused: Refuses, watched_run: Path) -> None:
    assert "train.log" in refused("evaluate", f"run={watched_run / 'train.log'}")


def test_evaluate_on_an_unknown_split(refused: Refuses, watched_run: Path) -> None:
    message = refused("evaluate", f"run={watched_run}", "split=tets")
    assert "test, val, train, all" in message


def test_evaluate_on_a_missing_folder(refused: Refuses, watched_run: Path) -> None:
    assert "nowhere" in refused("evaluate", f"run={watched_run}", "data.root=nowhere")


def test_evaluate_with_an_invalid_number(refused: Refuses, watched_run: Path) -> None:
    assert "batch_size" in refused("evaluate", f"run={watched_run}", "data.batch_size=-3")


def test_evaluate_into_an_existing_folder(refused: Refuses, watched_run: Path) -> None:
    assert "not empty" in refused("evaluate", f"run={watched_run}", f"output={watched_run}")


def test_predict_with_a_missing_input(refused: Refuses, watched_run: Path) -> None:
    assert "input is not set" in refused("predict", f"run={watched_run}")
    assert "output is not set" in refused("predict", f"run={watched_run}", "input=x")
    message = refused("predict", f"run={watched_run}", "input=nowhere", "output=masks")
    assert "input='nowhere'" in message
    assert ".png" in message


def test_predict_for_a_folder_without_images(refused: Refuses, watched_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "has no image in it" in refused("predict", f"run={watched_run}", "input=photos", "output=masks")


def test_predict_with_broken_images_predicts_the_others_and_names_them_all(
    watched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    (images / "photo_02.png").write_text("not an image")
    (images / "photo_08.png").write_bytes((images / "photo_08.png").read_bytes()[:-600])
    output = tmp_path / "masks"
    assert exit_code("predict", f"run={watched_run}", f"input={images}", f"output={output}") == 2
    message = capsys.readouterr().err
    assert "2 of 12" in message
    assert "photo_02.png" in message
    assert "photo_08.png" in message
    assert len(list((output / "masks").iterdir())) == len(list((output / "overlays").iterdir())) == 10


def test_predict_into_an_existing_folder(refused: Refuses, watched_run: Path, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    assert "not empty" in refused("predict", f"run={watched_run}", f"input={images}", f"output={images}")


def test_predict_on_an_unknown_device(refused: Refuses, watched_run: Path, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    assert "abacus" in refused("predict", f"run={watched_run}", f"input={images}", "output=masks", "device=abacus")


def test_the_python_call_raises_the_message_that_the_command_prints(refused: Refuses, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        finetune.train(*MODEL)
    assert listing(tmp_path) == {}
