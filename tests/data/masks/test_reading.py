import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.masks.contents import read_contents
from finetune.data.masks.reading import read_mask
from finetune.data.masks.values import MAX_MASK_VALUE, MIN_MASK_VALUE, ignored_label
from finetune.data.options import mask_encoding
from finetune.data.records import DataError


def ramp(height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


@pytest.mark.parametrize("name", ["m.png", "m.gif", "m.bmp", "m.tif"])
def test_palette_masks_give_their_indices(tmp_path, name):
    indices = ramp() % 4
    image = Image.fromarray(indices, mode="P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 9, 9, 9])
    image.save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == torch.uint8
    assert np.array_equal(mask.numpy(), indices)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_one_bit_masks_give_zero_and_one(tmp_path, name):
    Image.fromarray(ramp() % 2 == 1).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name).numpy(), ramp() % 2)


def test_mask_values_map_file_values_to_classes_and_keep_the_ignored_label(write):
    path = write("m.png", np.array([[0, 128, 64], [255, 0, 128]], dtype=np.uint8))
    assert read_mask(path, [64, 0, 128]).tolist() == [[1, 2, 0], [255, 1, 2]]
    both = write("b.png", np.array([[0, 255]], dtype=np.uint8))
    assert read_mask(both, [0, 255]).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"m\.png.*: 64 \(1 px\), 255 \(1 px\)"):
        read_mask(path, [0, 128], ignore_index=7)


def test_masks_above_255_need_mask_values(tmp_path):
    Image.fromarray(np.array([[0, 1000]], dtype=np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="from 0 to 1000"):
        read_mask(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", [0, 1000]).tolist() == [[0, 1]]


def test_a_value_of_a_mask_file_does_not_say_how_much_memory_is_used(tmp_path):
    values = np.array([[0, 70_000, 2**31 - 1, -5]], dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "m.tif")
    with pytest.raises(DataError, match=r"m\.tif.*: -5 \(1 px\), 2147483647 \(1 px\)\."):
        read_mask(tmp_path / "m.tif", [0, 70_000])
    Image.fromarray(values[:, :2].copy()).save(tmp_path / "m.tif")
    assert read_mask(tmp_path / "m.tif", [70_000, 0]).tolist() == [[1, 0]]


@pytest.mark.parametrize("values", [[0, MAX_MASK_VALUE + 1], [0, MIN_MASK_VALUE - 1], [10**15]])
def test_mask_values_that_no_file_has_are_refused(write, values):
    with pytest.raises(DataError, match=r"data\.mask_values=.*expected values from -32,768 to 16,777,215"):
        read_mask(write("m.png", 0), values)


def test_a_mask_with_many_unknown_values_gets_a_short_message(tmp_path):
    Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(200, 300)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="and 59,988 more") as error:
        read_mask(tmp_path / "m.png", [0])
    assert len(str(error.value)) < 500


def test_gray_saved_as_color_is_read_and_real_color_is_not(write):
    gray = np.repeat(ramp()[..., None], 3, axis=2)
    assert np.array_equal(read_mask(write("g.png", gray)).numpy(), ramp())
    gray[0, 0, 1] = 9
    with pytest.raises(DataError, match="color image"):
        read_mask(write("c.png", gray))


def test_an_ignored_value_among_the_class_indices_is_kept_apart_from_them(write):
    path = write("m.png", np.array([[0, 1, 2, 3]], dtype=np.uint8))
    assert read_mask(path, [1, 2, 3], ignore_index=0).tolist() == [[255, 0, 1, 2]]
    assert ignored_label([1, 2, 3], 0) == 255
    assert read_mask(path, [1, 2, 0], ignore_index=3).tolist() == [[2, 0, 1, 3]]
    assert ignored_label([1, 2, 0], 3) == 3


def test_several_values_may_be_one_class(write):
    path = write("m.png", np.array([[0, 1, 2, 9]], dtype=np.uint8))
    assert read_mask(path, [0, [1, 2, 9]]).tolist() == [[0, 1, 1, 1]]
    with pytest.raises(DataError, match=r"neither in data.mask_values=\[0, \[1, 2\]\] nor .*: 9 \(1 px\)"):
        read_mask(path, [0, [1, 2]])


def test_minus_one_can_be_ignored(tmp_path):
    Image.fromarray(np.array([[0, 1, -1]], dtype=np.int32)).save(tmp_path / "m.tif")
    assert read_mask(tmp_path / "m.tif", ignore_index=-1).tolist() == [[0, 1, 255]]
    assert read_mask(tmp_path / "m.tif", [1, 0], ignore_index=-1).tolist() == [[1, 0, 255]]
    with pytest.raises(DataError, match="values from -1 to 1"):
        read_mask(tmp_path / "m.tif")
    Image.fromarray(np.array([[0, 255, -1]], dtype=np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"has the value 255 next to data.ignore_index=-1"):
        read_mask(tmp_path / "b.tif", ignore_index=-1)
    assert read_mask(tmp_path / "b.tif", [0, 255], ignore_index=-1).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("seed", range(5))
def test_the_lookup_table_equals_a_dictionary(seed, tmp_path):
    random = np.random.default_rng(seed)
    values = random.choice(np.arange(-40, 70_000), 12, replace=False)
    groups = [values[:3].tolist(), *values[3:11].tolist()]
    void = int(values[11])
    pixels = random.choice(values, (7, 9)).astype(np.int32)
    Image.fromarray(pixels).save(tmp_path / "m.tif")
    by_value = {value: index for index, group in enumerate(groups) for value in np.ravel(group).tolist()}
    expected = [[by_value.get(value, ignored_label(groups, void)) for value in row] for row in pixels.tolist()]
    assert read_mask(tmp_path / "m.tif", groups, void).tolist() == expected


def test_colors_are_classes_in_every_kind_of_color_file(write, tmp_path):
    colors = np.array([[[0, 0, 0], [255, 0, 255], [0, 0, 255]]], np.uint8)
    write("rgb.png", colors)
    Image.fromarray(np.dstack([colors, np.full((1, 3), 9, np.uint8)])).save(tmp_path / "rgba.png")
    palette = Image.fromarray(np.array([[2, 0, 1]], np.uint8), mode="P")
    palette.putpalette([255, 0, 255, 0, 0, 255, 0, 0, 0])
    palette.save(tmp_path / "palette.png")
    for name in ("rgb.png", "rgba.png", "palette.png"):
        assert read_mask(tmp_path / name, ["#000000", "#FF00FF", "#0000ff"]).tolist() == [[0, 1, 2]], name
        assert read_mask(tmp_path / name, ["#000000", "#ff00ff"], "#0000ff").tolist() == [[0, 1, 255]], name
    with pytest.raises(DataError, match=r"rgb\.png' has values .*: #0000ff \(1 px\)"):
        read_mask(tmp_path / "rgb.png", ["#000000", "#ff00ff"])


def test_gray_files_have_gray_colors(write):
    assert read_mask(write("m.png", np.array([[0, 9]], np.uint8)), ["#090909", "#000000"]).tolist() == [[1, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_colors_that_are_looked_up_equal_a_dictionary(write, seed):
    random = np.random.default_rng(seed)
    colors = random.integers(0, 256, (7, 3), dtype=np.uint8)
    mask = random.integers(0, 7, (20, 30))
    names = ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]
    assert np.array_equal(read_mask(write("m.png", colors[mask]), names).numpy(), mask)


def test_all_other_values_may_be_one_class_or_ignored(write):
    path = write("m.png", np.array([[0, 7, 200, 255]], np.uint8))
    assert read_mask(path, [0, "*"]).tolist() == [[0, 1, 1, 255]]
    assert read_mask(path, [0, 7], "*").tolist() == [[0, 1, 255, 255]]


def test_several_values_may_be_ignored(write):
    path = write("m.png", np.array([[0, 1, 2, 3, 255]], np.uint8))
    assert read_mask(path, [1, 2], [0, 3, 255]).tolist() == [[3, 0, 1, 3, 3]]
    assert read_mask(path, None, [3, 255]).tolist() == [[0, 1, 2, 3, 3]]
    assert ignored_label(None, [3, 255]) == 3


def test_whole_numbers_of_a_floating_point_tiff_are_read_and_fractions_refused(tmp_path):
    path = tmp_path / "m.tif"
    Image.fromarray(np.array([[0, 1, -9999], [300, 1, 0]], np.float32)).save(path)
    assert read_mask(path, [0, 1, 300], ignore_index=-9999).tolist() == [[0, 1, 255], [2, 1, 0]]
    assert read_contents(path).pixels == {0: 2, 1: 2, -9999: 1, 300: 1}
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(path)
    for read in (read_mask, read_contents):
        with pytest.raises(DataError, match=r"float32 numbers of shape .*; expected whole numbers"):
            read(path)


def test_a_color_is_not_left_out_of_masks_that_are_read_by_number():
    with pytest.raises(ValueError, match="ignore_index has the color #e0e0c0, but the masks are read by their numbers"):
        mask_encoding(["a", "b"], ignore_index="#e0e0c0")
