from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data import DataError, Record, SegmentationDataset, inspect
from finetune.data.files import ImageFile
from finetune.data.polygons.annotated import AnnotatedImage, DrawnMask, with_folder_splits
from finetune.data.polygons.shapes import Polygon, rectangle


def test_objects_are_drawn_over_each_other_on_the_background(write):
    image = write("a.png", size=(4, 6))
    objects = ((2, (Polygon(rectangle(0, 0, 4, 2)),)), (255, (Polygon(rectangle(2, 0, 6, 1)),)))
    mask = DrawnMask(image, Path("a.json"), objects, background=1)
    assert mask.read().tolist() == [[2, 2, 255, 255, 255, 255], [2, 2, 2, 2, 1, 1], [1] * 6, [1] * 6]
    assert mask.read().dtype == torch.uint8
    assert mask.paths == (Path("a.json"),)
    assert mask.description == "annotations of 'a.png' in 'a.json'"


def test_a_drawn_mask_can_be_counted_and_read_as_a_dataset(write):
    image = write("a.png", size=(4, 6))
    target = DrawnMask(image, image, ((1, (Polygon(rectangle(0, 0, 4, 2)),)),), size=(4, 6))
    records = [Record("a", ImageFile(image), target)]
    assert inspect(records, 2)[""].pixels.tolist() == [16, 8]
    assert SegmentationDataset(records)[0]["mask"].sum() == 8


@pytest.mark.parametrize("name", ["all.json", "{}.json"])
def test_the_same_mistake_in_many_images_is_one_line(write, name):
    images = [write(f"{stem}.png", size=(4, 6)) for stem in "abc"]
    files = [path.with_name(name.format(path.stem)) for path in images]
    records = [
        Record(path.name, ImageFile(path), DrawnMask(path, file, (), size=(8, 12)))
        for path, file in zip(images, files, strict=True)
    ]
    with pytest.raises(
        DataError, match=r"3 images checked, 1 problem:\n- image '.*a\.png' has 4x6 .* 8x12.*2 more: b\.png"
    ):
        inspect(records, 2)


def test_a_polygon_that_is_too_complex_is_refused_with_its_image(write):
    image = write("a.png", size=(1000, 10))
    zigzag = np.array([[0, 0], [1, 1e6]] * 20_000, dtype=float)
    with pytest.raises(DataError, match=r"annotations of 'a\.png' in 'a\.json': a polygon of 40,000 points"):
        DrawnMask(image, Path("a.json"), ((1, (Polygon(zigzag),)),)).read()


def test_all_images_are_in_a_folder_of_a_split_or_none():
    def images(*names):
        return [AnnotatedImage(Path("data", name), Path("a.json"), ()) for name in names]

    root = Path("data")
    assert [image.split for image in with_folder_splits(images("a.png", "x/b.png"), root)] == ["", ""]
    assert [image.split for image in with_folder_splits(images("train/a.png", "x/val/b.png"), root)] == ["train", "val"]
    with pytest.raises(
        DataError, match=r"1 images of 'data' lie outside of the folders of its splits, such as 'data/b\.p"
    ):
        with_folder_splits(images("train/a.png", "b.png"), root)
