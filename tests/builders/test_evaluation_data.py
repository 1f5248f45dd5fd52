import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.builders.evaluation_data import evaluation_data
from finetune.checkpoints.saved_model import SavedModel
from finetune.config.errors import ConfigError
from finetune.data import DataError
from tests.samples import draw_folder

PLANT = {"plant": ["leaf", "stem"]}


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Return three images with a leaf of 16 pixels, a stem of 4 and a stone of 1."""
    root = draw_folder(tmp_path, "abc")
    for name in "abc":
        squares = {"leaf": (0, 4), "stem": (10, 12), "stone": (20, 21)}
        shapes = [
            {"label": label, "points": [[start, start], [end, end]], "shape_type": "rectangle"}
            for label, (start, end) in squares.items()
        ]
        (root / "images" / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{name}.png"}))
    return root / "images"


def evaluated(root: Path, names: tuple[str, ...], trained: Any = None, **given: Any) -> Any:
    """Return the pixels of each class, for a model and the settings of its training and of its evaluation."""
    backbone = SimpleNamespace(in_channels=3)
    model: Any = SimpleNamespace(class_names=names, backbone=backbone)
    saved = SavedModel(model, {"ignore_index": 255}, {"name": "semantic"})
    settings = {"format": "labelme", "root": str(root), "classes": trained, "ignored": [], "batch_size": 1}
    config = {"data": given, "split": None}
    data, split = evaluation_data(config, saved, {"data": settings, "seed": 0})
    return data.statistics[split].pixels.tolist()


def test_the_classes_of_the_training_stand_for_the_same_labels(annotated: Path) -> None:
    size = 3 * 32 * 40
    assert evaluated(annotated, ("background", "plant"), PLANT) == [size - 60, 60]
    assert evaluated(annotated, ("background", "stem", "leaf"), ["stem", "leaf"]) == [size - 60, 12, 48]
    assert evaluated(annotated, ("background", "leaf", "stem", "stone")) == [size - 63, 48, 12, 3]


def test_other_labels_can_stand_for_the_classes_of_the_model(annotated: Path) -> None:
    classes = {"plant": "stone"}
    assert evaluated(annotated, ("background", "plant"), None, classes=classes)[1] == 3
    with pytest.raises(
        ConfigError, match=r"the model has 3 classes \(background, plant, sky\), but data\.classes decl"
    ):
        evaluated(annotated, ("background", "plant", "sky"), None, classes=classes)
    with pytest.raises(ConfigError, match="the model's classes are background, sky, but data"):
        evaluated(annotated, ("background", "sky"), None, classes=classes)


def test_slices_have_the_groups_of_the_data_then_of_the_split_file_then_those_that_are_found(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", [f"{site}_{n}" for site in "abc" for n in range(2)], values=(0, 1))
    model: Any = SimpleNamespace(class_names=("ground", "wall"), backbone=SimpleNamespace(in_channels=3))
    saved = SavedModel(model, {"ignore_index": 255}, {"name": "semantic"})
    names = [f"{site}_{n}" for site in "abc" for n in range(2)]
    rows = [f"images/{name}.png,masks/{name}.png,{name[0]}" for name in names]
    (root / "labels.csv").write_text("\n".join(["image,mask,site", *rows]))
    (tmp_path / "splits.csv").write_text("\n".join(["image,split,group", *(f"{n},val,g{n[-1]}" for n in names)]))

    def groups(**settings: Any) -> list[str]:
        trained = {"root": str(root), "classes": 2, "batch_size": 1, "group": None, "splits": "given", **settings}
        config = {"data": {}, "split": "val", "slices": ["group"]}
        data, _ = evaluation_data(config, saved, {"data": trained, "seed": 0}, tmp_path / "splits.csv")
        return [record.group for record in data.records]

    assert groups(format="folder") == ["g0", "g1"] * 3
    (tmp_path / "splits.csv").write_text("\n".join(["image,split", *(f"{n},val" for n in names)]))
    assert groups(format="folder") == [""] * 6
    assert groups(format="folder", group="([abc])_") == ["a", "a", "b", "b", "c", "c"]
    (tmp_path / "splits.csv").write_text("\n".join(["image,split", *(f"images/{n}.png,val" for n in names)]))
    assert groups(format="csv", table="labels.csv") == ["a", "a", "b", "b", "c", "c"]


def test_a_model_alone_snaps_values_as_in_its_training(tmp_path: Path) -> None:
    root = draw_folder(tmp_path, "ab", values=(0, 190, 200))  # the class of 200 has a soft edge
    model: Any = SimpleNamespace(class_names=("ground", "wall"), backbone=SimpleNamespace(in_channels=3))
    saved = SavedModel(model, {"ignore_index": 255, "mask_values": [0, 200], "snap": True}, {"name": "semantic"})
    given = {"format": "folder", "root": str(root), "batch_size": 1}
    data, split = evaluation_data({"data": given, "split": None}, saved)
    assert data.statistics[split].pixels.sum() == 2 * 32 * 40
    saved.data["snap"] = False
    with pytest.raises(DataError, match="190"):
        evaluation_data({"data": given, "split": None}, saved)


def test_images_that_the_run_trained_on_are_named_if_they_are_given_as_other_data(
    annotated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = SimpleNamespace(class_names=("background", "leaf"), backbone=SimpleNamespace(in_channels=3))
    saved = SavedModel(model, {"ignore_index": 255}, {"name": "semantic"})
    settings = {"format": "labelme", "root": "gone", "classes": ["leaf"], "ignored": [], "batch_size": 1}
    config = {"data": {"root": str(annotated)}, "split": None}
    for rows, is_warned in (("a.png,train\nb.png,train\nc.png,test\n", True), ("x.png,train\na.png,test\n", False)):
        (tmp_path / "splits.csv").write_text("image,split\n" + rows)
        caplog.clear()
        evaluation_data(config, saved, {"data": settings, "seed": 0}, tmp_path / "splits.csv")
        assert ("2 of 3 images have names that the run trained on" in caplog.text) == is_warned
