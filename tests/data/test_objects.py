"""Targets as objects: what files tell one by one, areas of masks, and numbers in masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.data.files import ImageFile, MaskFile
from finetune.data.images.decode import open_image
from finetune.data.objects import Grouping, background_index, object_sizes, with_objects
from finetune.data.records import DataError, Record
from finetune.data.sources.coco import CocoSource
from finetune.data.sources.folder import FolderSource
from finetune.data.sources.mask_files import MaskFilesSource
from finetune.data.tiles import with_tiles
from finetune.instances import Objects, from_planes
from tests.samples import save

SIZE = (24, 32)


def read(record: Record, grouping: Grouping = "files", background: int = 0, ignore_index: int = 255) -> Objects:
    target = with_objects(record, grouping, background, ignore_index).target
    assert target is not None
    return from_planes(target.read())


def areas(objects: Objects) -> dict[int, list[int]]:
    """Class -> areas of its objects."""
    found: dict[int, list[int]] = {}
    for mask, label in zip(objects.masks, objects.labels.tolist(), strict=True):
        found.setdefault(label, []).append(int(mask.sum()))
    return {label: sorted(pixels) for label, pixels in sorted(found.items())}


def mask_record(folder: Path, mask: np.ndarray, **options: object) -> Record:
    image = save(folder / "images" / "a.png", np.zeros((*mask.shape, 3), dtype=np.uint8))
    path = save(folder / "masks" / "a.png", mask)
    return Record("a", ImageFile(image), MaskFile(path, **options))  # type: ignore[arg-type]  # any options


def square(mask: np.ndarray, top: int, left: int, side: int, value: int) -> None:
    mask[top : top + side, left : left + side] = value


def coco(folder: Path, annotations: list[dict[str, object]]) -> Record:
    save(folder / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 7, "name": "leaf"}, {"id": 9, "name": "stone"}],
        "annotations": [{"id": n, "image_id": 1, "iscrowd": 0, **entry} for n, entry in enumerate(annotations)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    (record,) = CocoSource(folder, "a.json").records()
    return record


def corners(top: int, left: int, side: int) -> list[list[int]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def test_each_coco_annotation_is_an_object_also_below_another(tmp_path: Path) -> None:
    record = coco(
        tmp_path,
        [
            {"category_id": 7, "segmentation": corners(2, 2, 8)},
            {"category_id": 7, "segmentation": corners(4, 4, 8)},
            {"category_id": 9, "segmentation": [*corners(14, 1, 3), *corners(20, 20, 4)]},
        ],
    )
    assert areas(read(record)) == {0: [64, 64], 1: [25]}


def test_a_crowd_is_no_object_and_counts_for_nothing(tmp_path: Path) -> None:
    crowd = {"category_id": 7, "segmentation": corners(10, 10, 6), "iscrowd": 1}
    objects = read(coco(tmp_path, [crowd, {"category_id": 9, "segmentation": corners(12, 12, 8)}]))
    assert areas(objects) == {1: [64]}
    assert objects.ignored is not None
    assert int(objects.ignored.sum()) == 36 - 16


def test_each_mask_file_is_an_object(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    for number, place in enumerate((2, 5)):  # they overlap
        mask = np.zeros(SIZE, dtype=np.uint8)
        square(mask, place, place, 6, 255)
        save(tmp_path / "masks" / "a" / f"{number}.png", mask)
    (record,) = MaskFilesSource(tmp_path, masks="masks/{stem}/{object}").records()
    assert areas(read(record)) == {0: [36, 36]}


def test_masks_of_classes_are_refused_until_it_is_said_what_an_object_is(tmp_path: Path) -> None:
    record = mask_record(tmp_path, np.zeros(SIZE, dtype=np.uint8))
    with pytest.raises(DataError, match=r"data\.instances=components .* data\.instances=ids"):
        read(record)


def test_each_area_of_a_class_is_a_component_and_the_background_is_none(tmp_path: Path) -> None:
    mask = np.ones(SIZE, dtype=np.uint8)  # class 1 is the background
    square(mask, 1, 1, 4, 0)
    square(mask, 10, 1, 3, 0)
    square(mask, 10, 4, 3, 2)  # touches, but is of another class
    square(mask, 20, 28, 3, 255)
    objects = read(mask_record(tmp_path, mask), "components", background=1)
    assert areas(objects) == {0: [9, 16], 1: [9]}
    assert objects.ignored is not None
    assert int(objects.ignored.sum()) == 9


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_each_value_of_a_mask_of_numbers_is_an_object_also_in_two_parts(tmp_path: Path, kind: type) -> None:
    mask = np.zeros(SIZE, dtype=kind)
    square(mask, 1, 1, 4, 3)
    square(mask, 10, 10, 3, 3)
    square(mask, 1, 20, 3, 250 if kind is np.uint8 else 40_000)
    save(tmp_path / "images" / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "a.png", mask)
    (record,) = FolderSource(tmp_path, classes={"background": 0, "cell": "*"}).records()
    assert areas(read(record, "ids")) == {0: [9, 25]}


def test_class_times_1000_plus_number_gives_both(tmp_path: Path) -> None:
    mask = np.full(SIZE, 7, dtype=np.uint16)  # an area without objects
    square(mask, 1, 1, 4, 24_000)
    square(mask, 8, 1, 4, 24_001)
    square(mask, 1, 20, 5, 26_000)
    square(mask, 20, 20, 2, 3)
    save(tmp_path / "images" / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "a.png", mask)
    classes = {"background": "*", "person": 24, "car": 26}
    source = FolderSource(tmp_path, classes=classes, ignore_index=[0, 3], divisor=1000)
    objects = read(source.records()[0], "ids", ignore_index=source.ignore_index)
    assert areas(objects) == {0: [16, 16], 1: [25]}
    assert objects.ignored is not None
    assert int(objects.ignored.sum()) == 4


def test_an_area_of_a_class_without_a_number_is_a_group_that_is_ignored(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, dtype=np.uint16)
    mask[2:6, 2:6], mask[2:6, 10:14], mask[12:16, 2:6] = 26001, 26, 7
    save(tmp_path / "images" / "a.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "a.png", mask)
    source = FolderSource(tmp_path, classes={"background": "*", "car": 26}, divisor=1000)
    objects = read(source.records()[0], "ids", ignore_index=source.ignore_index)
    assert areas(objects) == {0: [16]}
    assert objects.ignored is not None
    assert objects.ignored.nonzero().tolist() == [[row, column] for row in range(2, 6) for column in range(10, 14)]


def test_a_tile_has_the_parts_of_objects_that_it_shows(tmp_path: Path) -> None:
    record = coco(tmp_path, [{"category_id": 7, "segmentation": corners(4, 10, 12)}])
    (tiles,) = with_tiles([record], (24, 16))
    assert [areas(read(tile)) for tile in tiles] == [{0: [72]}, {0: [72]}]


def test_sizes_are_those_of_the_masks_and_their_boxes(tmp_path: Path) -> None:
    record = coco(tmp_path, [{"category_id": 9, "segmentation": [*corners(2, 2, 3), *corners(8, 20, 2)]}])
    sizes = object_sizes(with_objects(record, "files", 0, 255))
    assert (sizes.areas, sizes.heights, sizes.widths) == ([13], [8], [20])


def test_the_background_is_the_class_of_that_name_or_the_first() -> None:
    assert background_index(["cell", "Background"]) == 1
    assert background_index(["_background_", "cell"]) == 0
    assert background_index(["nothing", "cell"]) == 0


def test_all_planes_are_bytes(tmp_path: Path) -> None:
    target = with_objects(coco(tmp_path, []), "files", 0, 255).target
    assert target is not None
    planes: Tensor = target.read()
    assert (planes.dtype, tuple(planes.shape)) == (torch.uint8, (2, *SIZE))


def test_specks_are_counted_and_ignored(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, dtype=np.uint8)
    square(mask, 1, 1, 3, 1)
    mask[10, 10:18] = 1
    record = with_objects(mask_record(tmp_path, mask), "components", 0, 255)
    sizes = object_sizes(record)
    assert (sizes.areas, sizes.specks) == ([9], 1)
    objects = read(mask_record(tmp_path, mask), "components")
    assert objects.ignored is not None
    assert int(objects.ignored.sum()) == 8


@pytest.mark.parametrize("divisor", [1, 1000])
def test_objects_by_number_are_those_of_a_comparison_with_each_number(tmp_path: Path, divisor: int) -> None:
    random = np.random.default_rng(0)
    coarse = random.choice([0, 3, 9, 40, 2000], (6, 8)) if divisor == 1 else random.choice([0, 5, 1001, 1002], (6, 8))
    mask = np.kron(coarse, np.ones((4, 4), dtype=int)).astype(np.uint16)
    save(tmp_path / "images" / "a.png", np.zeros((*mask.shape, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "a.png", mask)
    classes = {"background": [0, 5] if divisor > 1 else 0, "cell": "*"}
    (record,) = FolderSource(tmp_path, classes=classes, divisor=divisor).records()
    numbers = [number for number in np.unique(mask) if number >= divisor]
    expected = [mask == number for number in numbers]
    assert [found.tolist() for found in read(record, "ids").masks.numpy()] == [each.tolist() for each in expected]
    sizes = object_sizes(with_objects(record, "ids", 0, 255))
    assert sizes.areas == [int(each.sum()) for each in expected]
    assert sizes.heights == [int(np.ptp(each.nonzero()[0])) + 1 for each in expected]


def test_each_file_is_decoded_once_for_classes_and_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros(SIZE, dtype=np.uint8)
    square(mask, 1, 1, 4, 1)
    numbered = mask_record(tmp_path, mask)
    save(tmp_path / "objects" / "a" / "0.png", mask)
    (single,) = MaskFilesSource(tmp_path, masks="objects/{stem}/{object}").records()
    opened: list[Path] = []

    def noted(path: Path) -> Image.Image:
        opened.append(path)
        return open_image(path)

    monkeypatch.setattr("finetune.data.masks.reading.open_image", noted)
    assert (len(read(numbered, "ids")), len(opened)) == (1, 1)
    assert (len(read(single, "files")), len(opened)) == (1, 2)
