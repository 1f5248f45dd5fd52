import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.data.files import ImageFile, MaskFile
from finetune.data.records import DataError, Record
from finetune.data.statistics import class_weights, inspect, read_all
from finetune.data.summary import class_pixels


def record(write, name: str, mask: np.ndarray | int, split: str = "train", size: tuple[int, int] = (8, 10)) -> Record:
    image, target = write(f"images/{name}.jpg", 99, size=size), write(f"masks/{name}.png", mask, size=size)
    return file_record(image, target, split)


def file_record(image: Path, mask: Path | None, split: str = "train", values: tuple[int, ...] | None = None) -> Record:
    return Record(image.stem, ImageFile(image), None if mask is None else MaskFile(mask, values), split)


def message(*arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as error:
        inspect(*arguments, **options)
    return str(error.value)


def test_counts_are_those_of_numpy_and_per_split(write):
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2, 255], (6, 9)).astype(np.uint8) for _ in range(5)]
    records = [record(write, f"{n}", mask, "train" if n < 4 else "val", (6, 9)) for n, mask in enumerate(masks)]
    found = inspect(records, classes=3)
    assert list(found) == ["train", "val"]
    train = np.stack(masks[:4])
    assert found["train"].images == 4
    assert found["train"].pixels.tolist() == [(train == label).sum() for label in range(3)]
    assert found["train"].ignored == (train == 255).sum()
    assert found["train"].sizes == {(6, 9): 4}
    assert found["val"].pixels.sum() + found["val"].ignored == 54


def test_records_that_have_been_read_are_counted_without_reading_them_again(write):
    records = [record(write, f"{n}", np.array([[n, 1, 2]], dtype=np.uint8), size=(1, 3)) for n in range(2)]
    readings = read_all(records)
    assert [class_pixels(reading, 3, 2).tolist() for reading in readings] == [[1, 1, 0], [0, 2, 0]]
    for path in (path for each in records for path in each.paths):
        path.unlink()
    moved = [replace(each, split=split) for each, split in zip(records, ("val", "test"), strict=True)]
    found = inspect(moved, 3, readings=readings)
    assert {split: statistics.pixels.tolist() for split, statistics in found.items()} == {
        "val": [1, 1, 1],
        "test": [0, 2, 1],
    }


def test_an_ignored_label_inside_the_classes_is_not_counted_as_a_class(write):
    found = inspect([record(write, "a", np.array([[0, 1, 1]], dtype=np.uint8), size=(1, 3))], 2, ignore_index=0)
    assert found["train"].pixels.tolist() == [0, 2]
    assert found["train"].ignored == 1


def test_a_label_outside_the_classes_says_where_and_what_to_set(write):
    records = [record(write, "a", 0), record(write, "b", 3)]
    text = message(records, classes=3)
    assert f"label 3 is outside the 3 classes (0 to 2): 80 pixels in 1 masks: mask '{records[1].target.path}'." in text
    assert "data.ignore_index=3" in text
    assert "data.classes=4" in text
    assert "data.mask_values" in text


def test_one_mistake_in_many_files_is_one_line(write):
    text = message([record(write, f"{n:03d}", 3, size=(2, 2)) for n in range(50)], classes=3)
    assert text.count("\n") == 1
    assert re.search(r"200 pixels in 50 masks: mask '.*000\.png', .*001\.png', .*002\.png' and 47 more\.", text)


@pytest.mark.parametrize("ignore_index", [255, 100])
def test_masks_of_0_and_255_ask_for_mask_values(write, ignore_index):
    records = [record(write, "a", 0), record(write, "b", 255)]
    text = message(records, classes=2, ignore_index=ignore_index)
    assert "[0, 255]" in text
    assert "data.mask_values=[0,255]" in text
    assert "data.mask_values" not in message([record(write, "c", 9)], classes=2, raw_values=False)
    translated = [replace(r, target=MaskFile(r.target.path, (0, 255))) for r in records]
    assert inspect(translated, classes=2)["train"].pixels.tolist() == [80, 80]


def test_three_classes_with_an_ignored_label_are_no_mistake_though_one_is_absent(write):
    assert inspect([record(write, "a", np.array([[0, 1, 255]], dtype=np.uint8), size=(1, 3))], 3)["train"].ignored == 1


def test_every_kind_of_mistake_comes_in_one_message(write, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    records = [
        record(write, "label", 7),
        file_record(tmp_path / "bad.png", write("m.png")),
        file_record(write("alone.png"), None),
        file_record(write("s.png", 0, size=(4, 4)), write("small.png", 0, size=(9, 4))),
    ]
    text = message(records, classes=3)
    assert "4 images checked, 4 problems" in text
    assert "cannot read" in text
    assert "alone.png' has no mask" in text
    assert re.search(r"s\.png' is 4x4, its mask '.*small\.png' 9x4", text)
    assert "label 7" in text


def test_one_cause_in_many_files_is_one_line_with_the_first_files(tmp_path, write):
    mask, color = write("m.png"), tmp_path / "color.png"
    records = [file_record(tmp_path / f"gone{n}.png", mask) for n in range(30)]
    for n in range(3):
        colors = np.random.default_rng(n).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).save(color.with_stem(f"color{n}"))
        records.append(file_record(write(f"i{n}.png", size=(4, 4)), color.with_stem(f"color{n}")))
    text = message(records, classes=2)
    assert "33 images checked, 2 problems" in text
    assert "gone0.png': FileNotFoundError" in text
    assert "The same in 29 more: gone1.png, gone2.png, gone3.png and 26 more." in text
    assert "is a color image (mode RGB)" in text
    assert "The same in 2 more: color1.png, color2.png." in text
    assert text.count("\n") == 2


def test_soft_edges_are_recognized(write):
    edges = np.repeat(np.array([0] * 40 + list(range(0, 250, 10)) + [255] * 40, dtype=np.uint8)[None], 8, 0)
    text = message([record(write, name, edges, size=edges.shape) for name in "ab"], classes=2)
    assert text.count("\n") == 1
    assert re.search(r"hold 26 values from 0 to 255, but there are 2 classes; \d+% of the pixels have 0 and 255", text)
    assert "soft edges from resizing or JPEG" in text


def test_numbers_of_objects_are_recognized(write):
    masks = [np.repeat(np.array([[0] * 9 + [n * 3 + 1, n * 3 + 2, n * 3 + 3]], dtype=np.uint8), 4, 0) for n in range(5)]
    text = message([record(write, f"{n}", mask, size=mask.shape) for n, mask in enumerate(masks)], classes=2)
    assert text.count("\n") == 1
    assert "the masks hold 16 values from 0 to 15" in text
    assert "data.mask_values=[0,[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]]" in text


def test_many_labels_of_another_kind_are_one_line(write):
    mask = np.repeat(np.arange(12, dtype=np.uint8)[None], 4, 0)
    text = message([record(write, f"{n}", mask, size=mask.shape) for n in range(12)], classes=3)
    assert "3, 4, 5, 6, 7, 8, 9, 10, 11 are outside. Name all classes in data.classes" in text


def test_sizes_that_are_turned_point_to_exif(write):
    turned = [file_record(write(f"i{n}.png", 9, size=(8, 6)), write(f"m{n}.png", 0, size=(6, 8))) for n in range(2)]
    assert "EXIF rotation that their masks do not have" in message(turned, classes=2)
    small = [file_record(write("i.png", 9, size=(8, 6)), write("m.png", 0, size=(2, 6)))]
    assert "resized by nearest neighbor" in message(small, classes=2)


@dataclass(frozen=True)
class Channels:
    """A target with one channel per class."""

    values: Tensor
    description: str
    paths: tuple[Path, ...] = ()

    def read(self) -> Tensor:
        return self.values


def channels(write, *values: list[list[int]], name: str = "a") -> Record:
    target = Channels(torch.tensor(values, dtype=torch.uint8), f"mask '{name}'")
    return Record(name, ImageFile(write(f"{name}.png", size=tuple(target.values.shape[-2:]))), target, "train")


def test_pixels_of_each_channel_are_counted(write):
    records = [channels(write, [[0, 1, 1]], [[1, 255, 1]]), channels(write, [[0, 0, 0]], [[0, 1, 255]], name="b")]
    counts = inspect(records, classes=2)["train"]
    assert counts.pixels.tolist() == [2, 3]
    assert counts.ignored == 2
    assert counts.multilabel
    assert not inspect([record(write, "c", 0)], classes=2)["train"].multilabel


def test_shares_are_of_the_pixels_of_the_images_even_if_a_pixel_may_have_several_classes(write):
    records = [channels(write, [[0, 1, 1]], [[1, 255, 1]]), channels(write, [[0, 0, 0]], [[0, 1, 255]], name="b")]
    several = inspect(records, classes=2)["train"]
    assert (several.total, several.labeled) == (6, 5)  # one of six is ignored in a channel, on average
    one = inspect([record(write, "c", np.array([[0, 1, 255]], dtype=np.uint8), size=(1, 3))], classes=2)["train"]
    assert (one.total, one.labeled) == (3, 2)


def test_wrong_channels_and_wrong_values_in_them_are_reported(write):
    records = [channels(write, [[0, 7]], [[2, 7]]), channels(write, [[0, 1]], name="b"), record(write, "c", 0)]
    text = message(records, classes=2)
    assert "1 masks have another number of channels than the 2 classes: mask 'b'." in text
    assert "value 7 in 1 masks with one channel per class: mask 'a'. Expected 0, 1 and data.ignore_index=255." in text
    assert "value 2 in 1 masks" in text
    assert re.search(
        r"2 masks have one channel per class and 1 hold class indices, such as mask 'a' and .*c\.png", text
    )


def test_every_record_is_decoded_once(write):
    reads = []

    class Counted(ImageFile):
        def read(self, channels: int = 3) -> Tensor:
            reads.append((self.path.name, channels))
            return super().read(channels)

    images = [replace(record(write, name, 0), image=Counted(write(f"{name}.png"))) for name in "abc"]
    inspect(images, classes=2, channels=1)
    assert sorted(reads) == [("a.png", 1), ("b.png", 1), ("c.png", 1)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("none", [1, 1]), ("inverse_sqrt", [0.5, 1.5]), ("median_frequency", [0.2, 1.8])],
)
def test_weights_of_a_hand_worked_pair(rule, expected):
    # 1/sqrt: 1/30 and 1/10, mean 1/15; 1/n: 1/900 and 1/100, mean 1/180
    weights = class_weights(torch.tensor([900, 100]), rule)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected)


def test_effective_number_is_the_formula_of_the_paper():
    n = np.array([70.0, 20.0, 10.0])
    b = 1 - 1 / (n.sum() + 1)
    raw = (1 - b) / (1 - b**n)
    assert class_weights(torch.tensor(n).long(), "effective_number").tolist() == pytest.approx(
        raw / raw.mean(), rel=1e-5
    )


@pytest.mark.parametrize("rule", ["none", "inverse_sqrt", "median_frequency", "effective_number"])
def test_absent_classes_weigh_one_and_the_rest_one_on_average(rule):
    weights = class_weights(torch.tensor([5_000_000, 0, 300_000, 20]), rule)
    assert weights[1] == 1
    assert weights[[0, 2, 3]].mean().item() == pytest.approx(1)
    assert weights.max() <= 10 * weights[[0, 2, 3]].median() * 1.0001
    assert class_weights(torch.tensor([10, 0]), rule).tolist() == [1, 1]


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="none, inverse_sqrt, median_frequency, effective_number"):
        class_weights(torch.tensor([1, 2]), "square")


@pytest.mark.parametrize(("orientation", "size", "count"), [(1, (8, 8), 0), (3, (8, 10), 1), (6, (8, 8), 1)])
def test_rotations_that_sizes_do_not_tell_are_listed(write, orientation, size, count):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = file_record(write("i/a.jpg", 9, size, exif=exif), write("m/a.png", 0, size))
    assert len(inspect([turned, record(write, "b", 1)], 2)["train"].turned) == count


def test_a_mask_that_fits_only_the_picture_as_stored_is_a_mistake(write):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_record(write("i/a.jpg", 9, (8, 10), exif=exif), write("m/a.png", 0, (8, 10)))
    assert "carry an EXIF rotation that their masks do not have" in message([turned], 2)
