"""Everything a user can get wrong: a clear message on standard error, exit code 2, and nothing written."""

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
from tests.samples import DRAWN, MODEL, TINY, draw_folder, exit_code, listing, on_folder, save

CLASSES = "data.classes=[ground,wall,sky]"


class Refuses:
    """Runs a command that must be refused, and returns what was said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.capsys = capsys
        self.folder = folder

    def __call__(self, *words: str) -> str:
        self.capsys.readouterr()
        before = listing(self.folder)
        code = exit_code(*words)
        said = self.capsys.readouterr().err
        assert code == 2, said
        assert said.startswith("error: ")
        assert "Traceback" not in said
        assert listing(self.folder) == before
        return said


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuses:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return Refuses(capsys, tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three classes."""
    folder = tmp_path_factory.mktemp("trained")
    return finetune.train(*on_folder(draw_folder(folder / "photos")), f"output={folder / 'run'}").folder


@pytest.fixture
def own_trained(trained: Path, refused: Refuses) -> Iterator[Path]:
    """The same run, watched: it too must stay as it is."""
    before = listing(trained.parent)
    yield trained
    assert listing(trained.parent) == before


def test_a_missing_folder(refused: Refuses) -> None:
    said = refused("train", *TINY, CLASSES, "data.root=nowhere")
    assert "nowhere" in said
    assert "images/" in said
    assert "data.root" in said


def test_no_folder_at_all(refused: Refuses) -> None:
    said = refused("train", *TINY, CLASSES)
    assert "data.root is not set" in said
    assert "data=synthetic" in said


def test_an_empty_folder(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    said = refused("train", *on_folder(tmp_path / "photos"))
    assert "photos' holds: nothing" in said
    assert "images" in said


def test_a_folder_with_other_things(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos" / "pictures").mkdir(parents=True)
    said = refused("train", *on_folder(tmp_path / "photos"))
    assert "pictures/" in said


def test_empty_image_and_mask_folders(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "photos" / "images").mkdir(parents=True)
    (tmp_path / "photos" / "masks").mkdir()
    assert "has no images" in refused("train", *on_folder(tmp_path / "photos"))


def test_images_without_masks_and_masks_without_images_are_all_listed(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    for name in ("images/photo_03.png", "masks/photo_05.png", "masks/photo_07.png"):
        (root / name).unlink()
    said = refused("train", *on_folder(root))
    assert "2 images without a mask" in said
    assert "photo_05.png" in said
    assert "photo_07.png" in said
    assert "1 masks without an image" in said
    assert "photo_03.png" in said


def test_an_image_and_a_mask_of_different_sizes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    save(root / "masks" / "photo_04.png", np.zeros((16, 20), dtype=np.uint8))
    said = refused("train", *on_folder(root))
    assert re.search(r"photo_04\.png' is 32x40, its mask '.*photo_04\.png' 16x20", said)


def test_a_truncated_image(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    path = (root / "images" / "photo_02.png").rename(root / "images" / "photo_02.jpg")
    with Image.open(path) as picture:
        picture.save(path, "jpeg", quality=95)
    path.write_bytes(path.read_bytes()[:-600])
    said = refused("train", *on_folder(root))
    assert "images/photo_02.jpg" in said
    assert "photo_03" not in said


def test_a_truncated_mask(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    path = root / "masks" / "photo_02.png"
    path.write_bytes(path.read_bytes()[:50])
    assert "masks/photo_02.png" in refused("train", *on_folder(root))


def test_files_that_are_no_images_are_all_named(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    (root / "images" / "photo_02.png").write_text("not a picture")
    (root / "images" / "photo_09.png").write_text("")
    said = refused("train", *on_folder(root))
    assert "photo_02.png" in said
    assert "photo_09.png" in said


def test_a_label_outside_the_classes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[:2, :5] = 7
    save(root / "masks" / "photo_06.png", mask)
    said = refused("train", *on_folder(root))
    assert "label 7" in said
    assert "10 pixels" in said
    assert "photo_06.png" in said
    assert "data.ignore_index=7" in said
    assert "data.classes=8" in said


def test_black_and_white_masks_for_two_classes(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 255))
    said = refused("train", *TINY, f"data.root={root}", "data.classes=2")
    assert "[0, 255]" in said
    assert "data.mask_values=[0,255]" in said


def test_the_setting_that_is_offered_for_black_and_white_masks_trains(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 255))
    assert exit_code("train", *TINY, f"data.root={root}", "data.classes=2", "data.mask_values=[0,255]") == 0


def test_a_color_picture_as_mask(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    (root / "masks" / "photo_01.png").write_bytes((root / "images" / "photo_01.png").read_bytes())
    said = refused("train", *on_folder(root))
    assert "photo_01.png" in said
    assert "color" in said


def test_classes_that_are_not_set(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 3, 9))
    said = refused("train", *TINY, f"data.root={root}")
    assert "data.classes is not set" in said
    assert "0, 3, 9" in said


@pytest.mark.parametrize(("classes", "said_too"), [("1", "Background"), ("[wall,wall]", "wall"), ("sky", "sky")])
def test_classes_that_make_no_sense(refused: Refuses, tmp_path: Path, classes: str, said_too: str) -> None:
    root = draw_folder(tmp_path / "photos", values=(0, 1))
    said = refused("train", *TINY, f"data.root={root}", f"data.classes={classes}")
    assert "class" in said
    assert said_too in said


def test_too_few_images_to_split(refused: Refuses, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", names=("a", "b"))
    assert "2 images cannot be split" in refused("train", *on_folder(root))


def test_an_unknown_backbone(refused: Refuses) -> None:
    said = refused("train", *DRAWN, "backbone.name=resnt18")
    assert "resnt18" in said
    assert "Did you mean resnet18" in said


def test_a_head_that_wants_another_backbone(refused: Refuses) -> None:
    words = [word for word in DRAWN if not word.startswith("head")]
    assert "Take one of vgg11" in refused("train", *words, "head=segnet")


def test_an_unknown_head(refused: Refuses) -> None:
    assert "Did you mean unet" in refused("train", *DRAWN, "head=unett", "~head.pyramid_channels")
    assert "Did you mean unet" in refused("train", *DRAWN, "head.name=unett")


def test_an_unknown_option_of_the_loss(refused: Refuses) -> None:
    assert "Did you mean gamma" in refused("train", *DRAWN, "loss=focal", "+loss.gama=2")
    assert "Did you mean loss.label_smoothing" in refused("train", *DRAWN, "loss.label_smothing=0.1")


def test_an_option_with_a_value_that_the_head_cannot_have(refused: Refuses) -> None:
    assert "segmentation_channels" in refused("train", *DRAWN, "head.segmentation_channels=16")


def test_a_misspelt_override(refused: Refuses) -> None:
    assert "Did you mean data.batch_size" in refused("train", *DRAWN, "data.bach_size=3")
    assert "Did you mean run" in refused("evaluate", "rnu=x")
    assert "Did you mean input" in refused("predict", "inptu=x")


def test_all_mistakes_at_once(refused: Refuses) -> None:
    words = ("head.name=unett", "+loss.gama=2", "optimizer.name=adamww", "data.batch_size=0", "data.root=nowhere")
    said = refused("train", *TINY, CLASSES, *words)
    for part in ("unett", "gama", "adamww", "batch_size", "nowhere"):
        assert part in said


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("+callbacks.x._target_=nowhere.Thing", "nowhere.Thing"),
        ("+callbacks.x._target_=os.system", "os.system"),
        ("+callbacks.early_stopping.moniter=val/iou", "moniter"),
        ("trainer.precision=half", "half"),
        ("trainer.accelerator=abacus", "abacus"),
        ("trainer.devices=0", "devices=0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: expected a whole number of 1"),
        ("+trainer={sync_batchnorm: true, devices: 2}", "torch synchronizes batch norms on GPUs alone"),
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
def test_a_setting_that_cannot_be(refused: Refuses, word: str, named: str) -> None:
    assert named in refused("train", *DRAWN, word)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No host answers, no proxy helps, and nothing is in the cache."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)


@pytest.mark.usefixtures("no_network")
def test_a_hub_that_does_not_answer(refused: Refuses) -> None:
    said = refused("train", *DRAWN, "backbone.name=resnet18", "backbone.weights=pretrained")
    assert "resnet18" in said
    assert huggingface_hub.constants.HF_HUB_CACHE in said
    for way_out in ("connection", "backbone.weights=FILE", "efficientnet_lite0", "backbone.weights=none"):
        assert way_out in said


@pytest.mark.usefixtures("no_network")
def test_mistakes_are_found_before_the_weights_are_asked_for(refused: Refuses) -> None:
    said = refused("train", *DRAWN, "backbone.weights=pretrained", "optimizer.name=adamww")
    assert "adamw" in said
    assert "hub" not in said


def test_an_existing_output_folder(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("keep me")
    said = refused("train", *DRAWN, "output=old")
    assert "output='old'" in said
    assert "not empty" in said


def test_an_output_that_is_a_file(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("keep me")
    assert "output='old'" in refused("train", *DRAWN, "output=old")


def test_an_empty_output_folder_is_taken(refused: Refuses, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert exit_code("train", *DRAWN, "output=new") == 0


DEEPLAB = [word for word in TINY if not word.startswith("head")] + ["head=deeplabv3plus"]


def test_a_batch_of_one_under_batch_norm(refused: Refuses) -> None:
    said = refused("train", *DEEPLAB, "data=synthetic", "data.size=32", "data.batch_size=1")
    assert "data.batch_size=2" in said
    assert "batch norm" in said


def test_one_training_image_under_batch_norm(refused: Refuses) -> None:
    said = refused("train", *DEEPLAB, "data=synthetic", "data.size=32", "data.count=1")
    assert "batch norm" in said
    assert "Add images" in said


def test_more_classes_in_the_checkpoint_than_in_the_data(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others", values=(0, 1))
    said = refused("evaluate", f"run={own_trained}", f"data.root={root}", "data.classes=[ground,wall]")
    assert "3 classes (ground, wall, sky)" in said
    assert "declares 2" in said


def test_more_classes_in_the_data_than_in_the_checkpoint(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others", values=(0, 1, 2, 3))
    assert "declares 4" in refused("evaluate", f"run={own_trained}", f"data.root={root}", "data.classes=4")
    assert "label 3 is outside the 3 classes" in refused("evaluate", f"run={own_trained}", f"data.root={root}")


def test_classes_in_another_order_than_in_the_checkpoint(refused: Refuses, trained: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "others")
    said = refused("evaluate", f"run={trained}", f"data.root={root}", "data.classes=[sky,wall,ground]")
    assert "ground, wall, sky" in said


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_that_is_not_set(refused: Refuses, command: str) -> None:
    assert "run is not set" in refused(command)


@pytest.mark.parametrize("words", [("evaluate",), ("predict", "input=photos", "output=masks")])
def test_a_run_that_is_not_there(refused: Refuses, words: tuple[str, ...]) -> None:
    said = refused(*words, "run=nowhere")
    assert "no model at 'nowhere'" in said
    assert "model folder" in said


def test_a_run_that_is_no_model(refused: Refuses, own_trained: Path) -> None:
    assert "train.log" in refused("evaluate", f"run={own_trained / 'train.log'}")


def test_evaluate_on_a_split_that_is_not_there(refused: Refuses, own_trained: Path) -> None:
    said = refused("evaluate", f"run={own_trained}", "split=tets")
    assert "test, val, train, all" in said


def test_evaluate_on_a_missing_folder(refused: Refuses, own_trained: Path) -> None:
    assert "nowhere" in refused("evaluate", f"run={own_trained}", "data.root=nowhere")


def test_evaluate_with_a_number_that_makes_no_sense(refused: Refuses, own_trained: Path) -> None:
    assert "batch_size" in refused("evaluate", f"run={own_trained}", "data.batch_size=-3")


def test_evaluate_into_an_existing_folder(refused: Refuses, own_trained: Path) -> None:
    assert "not empty" in refused("evaluate", f"run={own_trained}", f"output={own_trained}")


def test_predict_with_a_missing_input(refused: Refuses, own_trained: Path) -> None:
    assert "input is not set" in refused("predict", f"run={own_trained}")
    assert "output is not set" in refused("predict", f"run={own_trained}", "input=x")
    said = refused("predict", f"run={own_trained}", "input=nowhere", "output=masks")
    assert "input='nowhere'" in said
    assert ".png" in said


def test_predict_for_a_folder_without_images(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "holds no image" in refused("predict", f"run={own_trained}", "input=photos", "output=masks")


def test_predict_with_broken_images_names_them_all(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    (images / "photo_02.png").write_text("not a picture")
    (images / "photo_08.png").write_bytes((images / "photo_08.png").read_bytes()[:-600])
    said = refused("predict", f"run={own_trained}", f"input={images}", "output=masks")
    assert "2 of 12" in said
    assert "photo_02.png" in said
    assert "photo_08.png" in said


def test_predict_into_an_existing_folder(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    assert "not empty" in refused("predict", f"run={own_trained}", f"input={images}", f"output={images}")


def test_predict_on_a_device_that_is_not_there(refused: Refuses, own_trained: Path, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "photos") / "images"
    assert "abacus" in refused("predict", f"run={own_trained}", f"input={images}", "output=masks", "device=abacus")


def test_the_python_call_raises_what_the_shell_prints(refused: Refuses, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        finetune.train(*MODEL)
    assert listing(tmp_path) == {}
