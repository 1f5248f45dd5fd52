"""Encodings are worked out from masks that are drawn in memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.masks.contents import MaskContents, read_contents
from finetune.data.recognition.encodings import Encoding, work_out_encoding
from finetune.data.recognition.legends import Legend
from finetune.data.records import DataError

SIZE = 40


def shapes(*values: int, background: int = 0) -> np.ndarray:
    """Return a mask with a block of 8 x 8 pixels for each value."""
    mask = np.full((SIZE, SIZE), background, np.int64)
    for number, value in enumerate(values):
        row, column = divmod(number, 4)
        mask[row * 10 + 1 : row * 10 + 9, column * 10 + 1 : column * 10 + 9] = value
    return mask


@pytest.fixture
def read(tmp_path):
    """Return the contents of masks after a way through PNG files."""

    def write_and_read(*masks: np.ndarray, suffix: str = ".png", **options) -> list[MaskContents]:
        paths = [tmp_path / f"{number}{suffix}" for number in range(len(masks))]
        for path, mask in zip(paths, masks, strict=True):
            Image.fromarray(mask.astype(np.uint16 if mask.max() > 255 else np.uint8)).save(path, **options)
        return [read_contents(path) for path in paths]

    return write_and_read


@pytest.mark.parametrize(
    ("values", "background", "settings"),
    [
        ((1, 2), 0, {"classes": ["class_0", "class_1", "class_2"], "ignore_index": 255}),
        ((1, 2, 255), 0, {"classes": ["class_0", "class_1", "class_2"], "ignore_index": 255}),
        ((255,), 0, {"classes": ["background", "foreground"], "mask_values": [0, 255], "ignore_index": 255}),
        ((1,), 0, {"classes": ["background", "foreground"], "ignore_index": 255}),
        ((2, 3), 1, {"classes": ["class_1", "class_2", "class_3"], "mask_values": [1, 2, 3], "ignore_index": 255}),
        ((2, 3, 255), 1, {"classes": ["class_1", "class_2", "class_3"], "mask_values": [1, 2, 3], "ignore_index": 255}),
        (
            (128, 255),
            0,
            {"classes": ["class_0", "class_128", "class_255"], "mask_values": [0, 128, 255], "ignore_index": 255},
        ),
        ((1000,), 0, {"classes": ["background", "foreground"], "mask_values": [0, 1000], "ignore_index": 255}),
        ((7, 26), 0, {"classes": ["class_0", "class_7", "class_26"], "mask_values": [0, 7, 26], "ignore_index": 255}),
    ],
)
def test_gray_values_say_their_classes(read, values, background, settings):
    found = work_out_encoding(read(shapes(*values, background=background)))
    assert found.settings == {"snap": False, "mask_values": None, **settings}


def test_void_that_is_known_is_no_class(read):
    found = work_out_encoding(read(shapes(1, 2, 11)), ignored=[11])
    assert (found.settings["classes"], found.settings["ignore_index"]) == (["class_0", "class_1", "class_2"], 11)
    found = work_out_encoding(read(shapes(1, 2, background=0)), ignored=[0])
    assert found.settings["mask_values"] == [1, 2]


def test_mostly_foreground_offers_the_swap(read):
    lines = work_out_encoding(read(255 - shapes(255))).lines
    assert any("data.classes={background: 255, foreground: 0}" in line for line in lines)
    assert not any("data.classes={" in line for line in work_out_encoding(read(shapes(255))).lines)


def ramp() -> np.ndarray:
    """Return a white disc whose border blends into black over several pixels."""
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(y - 20.3, x - 19.6)
    return ((12 - distance).clip(-2, 2) / 4 * 255 + 127.5).astype(np.uint8)


def test_soft_edges_are_cut_in_the_middle(read):
    found = work_out_encoding(read(ramp(), ramp()[::-1]))
    assert found.settings == {
        "classes": ["background", "foreground"],
        "mask_values": [0, 255],
        "ignore_index": 255,
        "snap": True,
    }
    assert "at soft edges" in found.lines[0]


def test_masks_that_were_saved_as_jpeg_are_snapped(read):
    masks = [np.kron(mask, np.ones((3, 3), int)) for mask in (shapes(255, 255, 255), shapes(255, 255))]
    found = work_out_encoding(read(*masks, suffix=".jpg", quality=60))
    assert (found.settings["mask_values"], found.settings["snap"]) == ([0, 255], True)
    assert "from JPEG" in found.lines[0]


def test_classes_in_jpeg_masks_that_cannot_be_told_from_noise_are_asked_about(read):
    indices = [np.kron(mask, np.ones((3, 3), int)) for mask in (shapes(1, 2), shapes(2, 1, 1))]
    with pytest.raises(
        DataError,
        match=r"saved as JPEG.* not clear whether 1, 2 are classes\. .*mask_values=\[0,1,2\] data\.snap=true if so\.",
    ):
        work_out_encoding(read(*indices, suffix=".jpg", quality=90))
    with_void = [np.where(np.arange(120) < 24, 255, mask) for mask in indices]
    with pytest.raises(DataError, match=r"not clear whether 1, 2 are classes"):
        work_out_encoding(read(*with_void, suffix=".jpg", quality=90))


@pytest.mark.parametrize("quality", [60, 90])
def test_small_objects_in_jpeg_masks_are_no_noise(read, quality):
    mask = np.zeros((240, 240), np.int64)
    mask[20:90, 30:150] = 150
    for number in range(40):
        y, x = 100 + 17 * (number // 8), 5 + 27 * (number % 8)
        mask[y : y + 7, x : x + 7] = 100
    with pytest.raises(
        DataError, match=r"set data\.mask_values=\[0,.*15\d\] data\.snap=true if so, data\.mask_values=\[0,15\d\]"
    ):
        work_out_encoding(read(mask, mask.T, suffix=".jpg", quality=quality))


def test_colors_that_jpeg_changed_a_little_are_one_class(tmp_path):
    mask, rgb = np.kron(shapes(1, 2, 1, 2), np.ones((6, 6), int)), np.zeros((240, 240, 3), np.uint8)
    rgb[mask == 1], rgb[mask == 2] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=50)
    assert len(work_out_encoding([read_contents(tmp_path / "a.jpg")]).settings["mask_values"]) == 3


def test_alpha_mattes_are_no_classes(read):
    y, x = np.mgrid[:SIZE, :SIZE]
    matte = (255 * np.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 150)).astype(np.uint8)
    with pytest.raises(DataError, match=r"alpha mattes .* set data\.mask_values=\[0,255\] data\.snap=true"):
        work_out_encoding(read(matte, matte.T))


def test_a_value_without_area_between_two_others_is_asked_for(read):
    mask = shapes(255)
    mask[mask == 255] = 255
    mask[1, 1:9] = 128
    with pytest.raises(DataError, match=r"mask_values=\[0,128,255\] if it is a class, or .*\[0,255\] data\.snap=true"):
        work_out_encoding(read(mask))


@pytest.mark.parametrize("consecutive", [True, False])
def test_numbers_of_objects_are_not_made_into_classes(read, consecutive):
    firsts = [1] * 8 if consecutive else [1 + 5 * n for n in range(8)]
    masks = [shapes(*range(first, first + 3 + n % 4)) for n, first in enumerate(firsts)]
    masks.append(np.concatenate([shapes(*range(1, 17)), shapes(*range(17, 24))]) if consecutive else shapes(41, 42))
    with pytest.raises(DataError, match=r"numbers of objects.*data\.classes=\{background: 0, object: '\*'\}"):
        work_out_encoding(read(*masks))


def test_few_values_may_be_numbers_of_objects_too_unless_they_are_known_to_be_classes(read):
    contents = read(*(shapes(*range(1, count + 1)) for count in (3, 1, 2, 5)))
    with pytest.raises(DataError, match=r"numbers of objects.*to take every value as a class, data\.classes=6"):
        work_out_encoding(contents)
    assert len(work_out_encoding(contents, are_classes=True).settings["classes"]) == 6
    without_background = read(*(shapes(*range(2, count + 1), background=1) for count in (3, 1, 2, 5)))
    assert len(work_out_encoding(without_background).settings["classes"]) == 5


def colored(mask: np.ndarray, colors: dict[int, str], path: Path, palette: list[int] | None = None) -> MaskContents:
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    for value, color in colors.items():
        rgb[mask == value] = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    if palette is None:
        Image.fromarray(rgb).save(path)
    else:  # the indices in another order
        image = Image.fromarray(np.vectorize(palette.index)(mask).astype(np.uint8), mode="P")
        image.putpalette([int(colors[value][i : i + 2], 16) for value in palette for i in (1, 3, 5)])
        image.save(path)
    return read_contents(path)


COLORS = {0: "#000000", 1: "#28b43c", 2: "#c83ca0"}


def test_colors_are_classes(tmp_path):
    contents = [colored(shapes(1, 2), COLORS, tmp_path / "a.png")]
    found = work_out_encoding(contents)
    assert found.settings["classes"] == found.settings["mask_values"] == ["#000000", "#28b43c", "#c83ca0"]
    assert "colors are the classes" in found.lines[0]


def test_palettes_that_differ_are_read_by_color_and_equal_ones_by_index(tmp_path):
    equal = [colored(shapes(1, 2), COLORS, tmp_path / f"{n}.png", [0, 1, 2]) for n in range(2)]
    found = work_out_encoding(equal)
    assert found.settings["mask_values"] is None
    assert found.settings["classes"] == ["class_0", "class_1", "class_2"]
    other = colored(shapes(1, 2), COLORS, tmp_path / "b.png", [2, 0, 1])
    found = work_out_encoding([*equal, other])
    assert found.settings["mask_values"] == ["#000000", "#28b43c", "#c83ca0"]
    assert "the palettes of the masks differ (index 0 is #000000 and #c83ca0)" in found.lines[0]


def test_one_color_at_several_indices_is_a_class_by_color(tmp_path):
    first = colored(shapes(1), COLORS, tmp_path / "a.png", [0, 1, 2])
    other = colored(shapes(1), COLORS, tmp_path / "b.png", [2, 2, 1, 0][1:])
    shifted = colored(shapes(1), COLORS, tmp_path / "c.png", [2, 2, 2, 0, 1])
    found = work_out_encoding([first, shifted])
    assert found.settings["mask_values"] == ["#000000", "#28b43c"]
    assert "(color #000000 is index 0 and index 3)" in found.lines[0]
    assert work_out_encoding([first, other]).settings["mask_values"] == ["#000000", "#28b43c"]


def test_indices_of_one_class_with_several_colors_are_asked_for(tmp_path):
    first = colored(shapes(1), COLORS, tmp_path / "a.png", [0, 1])
    other = colored(shapes(1), {0: "#000000", 1: "#010101"}, tmp_path / "b.png", [0, 1])
    with pytest.raises(
        DataError, match=r"index 1 is #010101 and #28b43c\).*mask_values=\[0,1\] to take the indices, or"
    ):
        work_out_encoding([first, other])


def soft(mask: np.ndarray, path: Path) -> MaskContents:
    """Return colored contents whose borders are blends."""
    colored(mask, COLORS, path)
    image = Image.open(path).resize((4 * SIZE, 4 * SIZE)).resize((3 * SIZE, 3 * SIZE), Image.Resampling.BILINEAR)
    image.save(path)
    return read_contents(path)


@pytest.mark.parametrize("with_legend", [True, False])
def test_blends_of_colors_are_no_classes(tmp_path, with_legend):
    contents = [soft(shapes(1, 2, 1), tmp_path / "a.png"), soft(shapes(2, 1, 2).T, tmp_path / "b.png")]
    legend = Legend(tmp_path / "legend.csv", ("sky", "leaf", "stone"), tuple(COLORS.values()))
    found = work_out_encoding(contents, [legend] if with_legend else [])
    assert found.settings["snap"]
    assert found.settings["mask_values"] == ["#000000", "#28b43c", "#c83ca0"]
    assert found.settings["classes"] == (["sky", "leaf", "stone"] if with_legend else list(COLORS.values()))


def test_a_legend_names_indices_and_is_passed_over_where_it_does_not_fit(read, tmp_path):
    contents = read(shapes(1, 2, 255))
    named = Legend(tmp_path / "classes.txt", ("soil", "crop", "weed"), (0, 1, 2))
    found = work_out_encoding(contents, [Legend(tmp_path / "a.txt", ("one", "two"), (0, 1)), named])
    assert (found.settings["mask_values"], found.settings["ignore_index"]) == (None, 255)
    assert found.settings["classes"] == ["soil", "crop", "weed"]
    assert "3 classes by classes.txt" in found.lines[0]
    sparse = Legend(tmp_path / "values.csv", ("road", "car"), (0, 7), (3,))
    found = work_out_encoding(read(shapes(3, 7)), [sparse])
    assert found.settings == {"classes": ["road", "car"], "mask_values": [0, 7], "ignore_index": 3, "snap": False}


def test_white_is_a_class_and_not_void_where_a_legend_would_leave_one_class(read, tmp_path):
    found = work_out_encoding(read(shapes(255)), [Legend(tmp_path / "classes.txt", ("ground", "roof"), (0, 1))])
    assert (found.settings["classes"], found.settings["mask_values"]) == (["background", "foreground"], [0, 255])
    assert "classes.txt names no class of 255 (data.classes)" in found.lines


def test_gray_colors_of_a_legend_and_of_void_stand_for_the_values_of_gray_masks(read, tmp_path):
    legend = Legend(tmp_path / "class_dict.csv", ("road", "background"), ("#ffffff", "#000000"))
    found = work_out_encoding(read(shapes(255)), [legend])
    assert (found.settings["classes"], found.settings["mask_values"]) == (["road", "background"], [255, 0])
    found = work_out_encoding(read(shapes(100, 200)), ignored=["#c8c8c8"])
    assert (found.settings["mask_values"], found.settings["ignore_index"]) == ([0, 100], 200)


def test_255_is_void_too_where_a_legend_names_another_value_as_void(read, tmp_path):
    legend = Legend(tmp_path / "classes.txt", ("road", "car"), (1, 2), ignored=(0,))
    found = work_out_encoding(read(shapes(1, 2, 255)), [legend])
    assert (found.settings["mask_values"], found.settings["ignore_index"]) == ([1, 2], [0, 255])


def test_masks_of_one_value_are_refused(read):
    with pytest.raises(DataError, match="only the value 0; at least two classes are needed"):
        work_out_encoding(read(shapes(), shapes()))


def test_photographs_are_no_masks(read):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3))
    with pytest.raises(DataError, match="not clear which are classes"):
        work_out_encoding(read(noise))


@pytest.mark.parametrize("seed", range(20))
def test_random_class_indices_are_taken_as_they_are_whatever_their_number(read, seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 60))
    masks = [np.kron(random.integers(0, classes, (10, 10)), np.ones((4, 4), int)) for _ in range(12)]
    masks[0][:4, :4] = 0
    found: Encoding = work_out_encoding(read(*masks))
    present = sorted({int(value) for mask in masks for value in np.unique(mask)})
    values = found.settings["mask_values"] or list(range(len(found.settings["classes"])))
    assert values == present


def test_values_in_between_that_are_to_stay_are_asked_about(read):
    with pytest.raises(
        DataError, match=r"snap=false, but .* look like blends of 0, 255 at soft edges.*all \(data\.mask_values\)\. "
    ):
        work_out_encoding(read(ramp(), ramp()[::-1]), snap=False)
    assert work_out_encoding(read(shapes(255)), snap=False).settings["snap"] is False


def test_snapping_that_is_asked_for_lists_the_values_to_snap_to(read):
    assert work_out_encoding(read(shapes(1, 2)), snap=True).settings == {
        "classes": ["class_0", "class_1", "class_2"],
        "mask_values": [0, 1, 2],
        "ignore_index": 255,
        "snap": True,
    }


def test_void_that_leaves_one_class_is_named(read):
    with pytest.raises(DataError, match=r"only the value 0 and 255, which data\.ignore_index leaves out; .*Leave out"):
        work_out_encoding(read(shapes(255)), ignored=[255])
