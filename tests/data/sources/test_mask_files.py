from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.files import LayeredMaskFiles
from finetune.data.records import DataError
from finetune.data.sources.mask_files import MaskFilesSource


def save(path: Path, pixels: np.ndarray | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((1, 4)))
    save(tmp_path / "masks" / "car" / "a.png", [[0, 255, 255, 0]])
    save(tmp_path / "masks" / "road" / "a.png", [[0, 0, 9, 9]])
    save(tmp_path / "masks" / "road" / "b.png", [[1, 1, 1, 1]])
    return tmp_path


def targets(source: MaskFilesSource) -> list[list]:
    return [record.target.read().tolist() for record in source.records()]


def test_a_later_class_is_drawn_over_an_earlier_one_in_the_order_of_the_classes(root):
    assert MaskFilesSource(root).class_names == ("background", "car", "road")
    assert targets(MaskFilesSource(root)) == [[[0, 1, 2, 2]], [[2, 2, 2, 2]]]
    assert targets(MaskFilesSource(root, classes=["background", "road", "car"])) == [[[0, 2, 2, 1]], [[1, 1, 1, 1]]]


def test_overlapping_classes_have_a_channel_each_and_no_background(root):
    source = MaskFilesSource(root, multilabel=True)
    assert source.class_names == ("car", "road")
    assert targets(source) == [[[[0, 1, 1, 0]], [[0, 0, 1, 1]]], [[[0, 0, 0, 0]], [[1, 1, 1, 1]]]]


def test_a_class_that_is_not_named_is_not_drawn(root):
    assert targets(MaskFilesSource(root, classes=["car"])) == [[[0, 1, 1, 0]], [[0, 0, 0, 0]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat"]}, "no mask in .* is of the class 'cat'.*Did you mean car"),
        ({"images": "photos"}, r"no images in '.*photos'\. Set data\.images"),
        ({"masks": "labels/{class}/{stem}"}, r"no masks '.*labels/\{class\}/\{stem\}' for the images"),
    ],
)
def test_what_is_not_there_is_named(root, options, message):
    with pytest.raises(DataError, match=message):
        MaskFilesSource(root, **options).records()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "masks/{stem}"}, r"expected a path with \{stem\} and one of"),
        ({"masks": "masks/{stem}/{kind}"}, r"expected a path with \{stem\} and one of"),
        ({"masks": "masks/{stem}{class}"}, r"expected a path with \{stem\} and one of"),
        ({"masks": "masks/{stem}/{object}", "multilabel": True}, "needs a mask for each class"),
        ({"ignore_index": 300}, "masks are 8-bit"),
    ],
)
def test_options_that_make_no_sense_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        MaskFilesSource(root, **options)


def test_masks_of_no_image_are_refused_by_name(root):
    save(root / "masks" / "car" / "c.png", [[0]])
    with pytest.raises(DataError, match=r"1 masks are of no image: c\.png"):
        MaskFilesSource(root).records()


def test_masks_of_one_image_that_differ_in_size_are_refused_by_name(root):
    save(root / "masks" / "car" / "b.png", [[0, 1]])
    with pytest.raises(DataError, match=r"road/b\.png' is 1x4|car/b\.png' is 1x2"):
        targets(MaskFilesSource(root))


def test_an_image_without_objects_is_background(tmp_path):
    save(tmp_path / "x.png", np.ones((3, 5)))
    assert LayeredMaskFiles(tmp_path / "x.png", ()).read().tolist() == np.zeros((3, 5)).tolist()


def test_files_that_share_a_name_are_refused(root):
    save(root / "images" / "more" / "a.png", np.zeros((1, 4)))
    save(root / "masks" / "car" / "more" / "a.png", np.zeros((1, 4)))
    with pytest.raises(DataError, match=r"2 files share their name: images/a\.png, images/more/a\.png\. Rename them"):
        MaskFilesSource(root).records()


@pytest.mark.parametrize("name", ["Background", "_background_"])
def test_a_mask_of_the_background_is_no_class_however_it_is_written(root, name):
    save(root / "masks" / name / "a.png", [[255, 0, 0, 0]])
    assert MaskFilesSource(root).class_names == ("background", "car", "road")


def test_the_noise_of_a_jpeg_is_no_class(root):
    disc = (np.hypot(*(np.mgrid[:64, :64] - 32)) < 20).astype(np.uint8)
    save(root / "images" / "c.png", np.zeros((64, 64)))
    Image.fromarray(255 * disc).save(root / "masks" / "road" / "c.jpg", quality=75)
    decoded = np.asarray(Image.open(root / "masks" / "road" / "c.jpg"))
    assert ((decoded > 0) != disc).sum() > 100  # all of which would be road
    found = next(target for target in targets(MaskFilesSource(root)) if len(target) == 64)
    assert ((np.array(found) > 0) == disc).mean() > 0.995


def test_a_jpeg_whose_values_may_be_noise_is_refused_and_a_png_of_that_name_is_read(root):
    for format_name, expected in (("JPEG", "is a JPEG with values up to 1"), ("PNG", None)):
        mask = Image.fromarray(np.ones((8, 8), np.uint8))
        save(root / "images" / "c.png", np.zeros((8, 8)))
        mask.save(root / "masks" / "road" / "c.jpg", format=format_name)
        record = MaskFilesSource(root).records()[-1]
        if expected is None:
            assert record.target.read().unique().tolist() == [2]
        else:
            with pytest.raises(DataError, match=expected):
                record.target.read()
