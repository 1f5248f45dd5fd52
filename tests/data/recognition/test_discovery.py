import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.recognition.discovery import discover
from finetune.data.records import DataError
from tests.samples import draw_folder


def settings(root: Path, **given: object) -> dict[str, object]:
    return discover(root, given).settings


def test_a_folder_says_its_format_pairing_and_classes(tmp_path):
    draw_folder(tmp_path, values=(0, 1, 2))
    found = discover(tmp_path, {})
    assert found.settings == {
        "format": "folder",
        "root": str(tmp_path),
        "images": "images",
        "masks": "masks",
        "classes": ["class_0", "class_1", "class_2"],
        "mask_values": None,
        "ignore_index": 255,
        "snap": False,
    }
    assert len(found.lines) == 2
    assert all("(data." in line for line in found.lines)


def test_given_settings_win(tmp_path):
    draw_folder(tmp_path, values=(0, 100, 200))
    assert settings(tmp_path, classes=["a", "b", "c"])["mask_values"] == [0, 100, 200]
    assert settings(tmp_path, classes=["a", "b", "c"])["classes"] == ["a", "b", "c"]
    assert settings(tmp_path, classes=3)["classes"] == 3
    assert settings(tmp_path, mask_values=[0, [100, 200]])["mask_values"] == [0, [100, 200]]
    assert settings(tmp_path, mask_values=[0, [100, 200]])["classes"] == ["background", "foreground"]
    assert settings(tmp_path, mask_values=[100, 0, 200])["classes"] == ["class_100", "class_0", "class_200"]
    assert settings(tmp_path, classes={"a": 0, "b": [100, 200]})["classes"] == {"a": 0, "b": [100, 200]}
    assert settings(tmp_path, ignore_index=200)["mask_values"] == [0, 100]


def test_another_number_of_classes_is_left_to_the_check_of_the_masks(tmp_path):
    draw_folder(tmp_path, values=(0, 100, 200))
    assert settings(tmp_path, classes=["a", "b"])["mask_values"] is None


def test_the_place_of_masks_chooses_between_two(tmp_path):
    draw_folder(tmp_path)
    (tmp_path / "labels").mkdir()
    for path in (tmp_path / "masks").iterdir():
        (tmp_path / "labels" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError) as error:
        discover(tmp_path, {})
    text = str(error.value)
    assert "can be read in 2 ways" in text
    assert (
        "\n- data.masks=labels: 12 images in images/, 12 masks in labels/, which hold 3 gray values (0, 1, 2)" in text
    )
    assert "\n- data.masks=masks:" in text
    assert settings(tmp_path, masks="labels")["masks"] == "labels"


def test_classes_are_merged_renamed_and_dropped_by_the_names_of_a_legend(tmp_path):
    draw_folder(tmp_path, values=(0, 1, 2, 3))
    (tmp_path / "classes.txt").write_text("sky\ncar\ntruck\nroad\n")
    found = discover(tmp_path, {"classes": {"vehicle": ["car", "truck"], "ground": "road"}})
    assert found.settings["classes"] == ["vehicle", "ground"]
    assert found.settings["mask_values"] == [[1, 2], [3]]
    assert found.settings["ignore_index"] == [255, 0]
    assert "sky is in no class and ignored (data.classes)" in found.lines
    with pytest.raises(DataError, match=r"the masks have no class 'vehicles'\. Choose from: sky, car, truck, road"):
        discover(tmp_path, {"classes": {"a": "vehicles", "b": "road"}})


def test_a_table_wins_over_the_names_of_the_files_that_it_lists(tmp_path):
    draw_folder(tmp_path, ["a", "b", "c", "d"])
    rows = [f"images/{name}.png,masks/{name}.png" for name in "abcd"]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask", *rows]))
    for root in (tmp_path, tmp_path / "list.csv"):
        found = settings(root)
        assert (found["format"], found["root"], found["table"]) == ("csv", str(tmp_path), "list.csv")
        assert found["classes"] == ["class_0", "class_1", "class_2"]


@pytest.mark.parametrize("header", ["image,mask,split", "image;mask;split"])
def test_the_mistake_in_a_table_is_said_whatever_else_the_folder_holds(tmp_path, header):
    draw_folder(tmp_path, "abcd")
    rows = [f"images/{name}.png,masks/{name}.png,train" for name in "abcd"]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows, "images/a.png,masks/a.png,train,3"]))
    message = "line 6" if "," in header else r"line 1 has the columns image;mask;split; expected image,mask"
    for root in (tmp_path, tmp_path / "labels.csv"):
        with pytest.raises(DataError, match=message):
            discover(root, {})
    (tmp_path / "labels.csv").write_text("image,score\na,1\n")
    assert discover(tmp_path, {}).settings["format"] == "folder"


def test_what_is_in_no_known_form_says_what_is_there_and_what_to_set(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "video").mkdir()
    with pytest.raises(DataError, match=r"holds: notes\.txt, video/\. .*data\.images and data\.masks .*data\.format"):
        discover(tmp_path, {})
    with pytest.raises(DataError, match=r"is not a folder; set data\.root"):
        discover(tmp_path / "nowhere", {})


def test_masks_that_cannot_be_read_are_left_to_the_check_of_all_files(tmp_path):
    draw_folder(tmp_path)
    (tmp_path / "masks" / "photo_00.png").write_bytes(b"no image")
    assert settings(tmp_path)["classes"] == ["class_0", "class_1", "class_2"]
    for path in (tmp_path / "masks").iterdir():
        path.write_bytes(b"no image")
    assert "classes" not in settings(tmp_path)


FORMATS = Path(os.environ.get("FINETUNE_FORMATS", "not there"))  # small folders, each one way to keep masks
needs_formats = pytest.mark.skipif(not FORMATS.is_dir(), reason="FINETUNE_FORMATS names no folder of formats")


@needs_formats
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("antialiased_legend", ["background", "leaf", "stone"]),
        ("csv_list", ["class_0", "class_1", "class_2"]),
        ("exif_rotated", ["class_0", "class_1", "class_2"]),
        ("grey16", ["class_0", "class_1", "class_2"]),
        ("grey_ramp", ["background", "foreground"]),
        ("multilabel", ["leaf", "stone"]),
        ("one_based_side_by_side", ["class_1", "class_2", "class_3"]),
        ("palettes_differ", ["#000000", "#28b43c", "#c83ca0"]),
        ("rgb_legend", ["#000000", "#28b43c", "#c83ca0"]),
        ("smaller_masks", ["class_0", "class_1", "class_2"]),
    ],
)
def test_folders_as_people_keep_them_are_understood(name, classes):
    assert settings(FORMATS / name)["classes"] == classes


@needs_formats
@pytest.mark.parametrize(("name", "message"), [("alpha_matte", "alpha mattes"), ("ambiguous", "in 2 ways")])
def test_folders_that_leave_a_doubt_are_asked_about(name, message):
    with pytest.raises(DataError, match=message):
        discover(FORMATS / name, {})


def test_the_order_of_files_and_their_number_do_not_change_what_is_worked_out(tmp_path):
    random = np.random.default_rng(0)
    for number in range(9):
        pixels = np.kron(random.choice([0, 50, 200], (5, 6)), np.ones((4, 4))).astype(np.uint8)
        for folder in ("a", "b"):
            path = tmp_path / folder / "photos" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
            mask = tmp_path / folder / "masks" / f"{8 - number if folder == 'b' else number}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(mask)
    first, second = (discover(tmp_path / folder, {}) for folder in "ab")
    assert {**first.settings, "root": ""} == {**second.settings, "root": ""}
    assert first.lines == second.lines


def test_a_mask_with_values_that_are_no_classes_is_named(tmp_path):
    draw_folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks" / "b.png").unlink()
    np.save(tmp_path / "masks" / "b.npy", np.full((32, 40), 2**30))
    with pytest.raises(DataError, match=r"masks/b\.npy' has the value 1,073,741,824; expected -32,768 to 16,777,215"):
        discover(tmp_path, {})


def test_a_root_that_is_no_folder_is_said(tmp_path):
    with pytest.raises(DataError, match=r"is not a folder; set data\.root"):
        discover(tmp_path / ("long" * 100), {})
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(DataError, match="is a file, but no table or annotations"):
        discover(tmp_path / "notes.md", {})


@pytest.mark.parametrize(
    ("classes", "mask_values", "ignored"),
    [
        ({"vehicle": "car", "rest": "*"}, [[1], [0, 2]], 255),
        ({"vehicle": "car", "rest": 2}, [[1], [2]], [255, 0]),
        ({"vehicle": ["car", 2], "rest": "sky"}, [[1, 2], [0]], 255),
    ],
)
def test_classes_by_name_may_be_joined_by_values_and_by_all_others(tmp_path, classes, mask_values, ignored):
    draw_folder(tmp_path, values=(0, 1, 2))
    (tmp_path / "classes.txt").write_text("sky\ncar\nroad\n")
    found = settings(tmp_path, classes=classes)
    assert (found["mask_values"], found["ignore_index"]) == (mask_values, ignored)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"table": "x.csv"},
            r"data\.table is no setting of data\.format=folder, as which .* is read\. Leave it out, or set",
        ),
        ({"classes": {"a": 1.5, "b": 2}}, r"1\.5 is no value of masks: expected a number, a color"),
        ({"classes": {"a": None, "b": 2}}, r"None is no value of masks"),
    ],
)
def test_settings_that_fit_no_masks_are_refused(tmp_path, given, message):
    draw_folder(tmp_path)
    with pytest.raises(ValueError, match=message):
        discover(tmp_path, given)


def test_pipes_devices_and_links_that_lead_back_are_left_alone(tmp_path):
    draw_folder(tmp_path, ["a", "b", "c"])
    for name in ("images/pipe.png", "masks/pipe.png", "train.txt", "classes.txt", "labels.json", "table.csv", "a.xml"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "images" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "masks" / "loop").symlink_to(tmp_path / "masks")
    (tmp_path / "masks" / "nothing.png").symlink_to("nowhere")
    assert settings(tmp_path)["classes"] == ["class_0", "class_1", "class_2"]


@pytest.mark.parametrize("annotations", [[], [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]])
def test_a_coco_file_without_segmentations_is_named(annotations: list[dict[str, object]], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\.json' is a COCO file in which no annotation has a segmentation"):
        discover(tmp_path, {})
    draw_folder(tmp_path)  # masks beside it are read
    (tmp_path / "images" / "a.png").unlink()
    assert settings(tmp_path)["format"] == "folder"


def test_places_may_be_written_with_a_slash_at_the_end_or_a_dot_in_front(tmp_path):
    draw_folder(tmp_path, values=(0, 1, 2))
    (tmp_path / "splits").mkdir()
    names = [path.stem for path in sorted((tmp_path / "images").iterdir())]
    for split, chosen in (("train", names[:2]), ("val", names[2:])):
        (tmp_path / "splits" / f"{split}.txt").write_text("\n".join(chosen))
    plain = settings(tmp_path, images="images", masks="masks", lists="splits")
    assert settings(tmp_path, images="images/", masks="./masks", lists="splits/") == plain
    assert settings(tmp_path, images="./images/")["lists"] == "splits"


def test_a_list_of_a_split_that_is_no_text_is_of_no_interest_without_train(tmp_path):
    draw_folder(tmp_path, values=(0, 1))
    (tmp_path / "test.txt").write_bytes(b"caf\xe9 notes")
    assert "lists" not in settings(tmp_path)


@pytest.mark.parametrize("void", ["#FFFFFF", "#ffffff"])
def test_a_color_that_is_left_out_may_be_written_in_capitals(tmp_path, void):
    draw_folder(tmp_path, values=(0, 1, 2))
    for path in (tmp_path / "masks").iterdir():
        colors = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255]], np.uint8)
        Image.fromarray(colors[np.array(Image.open(path))]).save(path)
    found = settings(tmp_path, ignore_index=void)
    assert found["mask_values"] == ["#000000", "#ff0000"]


def test_images_in_formats_that_are_not_read_are_named(tmp_path):
    draw_folder(tmp_path)
    assert not any("not read" in line for line in discover(tmp_path, {}).lines)
    (tmp_path / "images" / "new.HEIC").write_bytes(b"?")
    line = discover(tmp_path, {}).lines[-1]
    assert line.startswith("1 images in ")
    assert "files ending in .heic are not read, such as new.HEIC. Save them as JPEG or TIFF" in line
