import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.data.caching.file_cache import FileCache
from finetune.data.files import ImageFile
from finetune.data.images.survey import (
    check_has_effect,
    dropped_alpha,
    find_channels,
    find_value_range,
    read_headers,
    with_value_range,
)
from finetune.data.records import DataError, Record
from finetune.data.sources import SyntheticSource
from finetune.data.sources.hf import HfImage
from tests.tiff_writer import write_tiff


def headers(*paths):
    return read_headers(Record(path.stem, ImageFile(path)) for path in paths)


@pytest.fixture
def draw(tmp_path):
    def save(name, mode="RGB", value=0):
        path = tmp_path / name
        Image.new(mode, (6, 4), value).save(path)
        return path

    return save


@pytest.mark.parametrize(
    ("modes", "channels", "said"),
    [
        ((), 3, ""),
        (("RGB", "P", "CMYK"), 3, ""),
        (("L", "1", "I;16", "LA"), 1, "the images are gray: backbone.in_channels=1"),
        (("L", "RGB", "RGB"), 3, "1 gray and 2 color images: backbone.in_channels=3"),
        (("RGBA", "RGB"), 3, ""),
    ],
)
def test_channels_are_those_of_the_images(draw, modes, channels, said):
    found, lines = find_channels(headers(*(draw(f"{i}.tif", mode) for i, mode in enumerate(modes))))
    assert found == channels
    assert lines[0].startswith(said) if said else not lines


def test_any_number_of_bands_is_found(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.zeros((4, 6, 8), np.uint16), extra=(0,) * 7)
    assert find_channels(headers(path)) == (8, ["the images have 8 bands: backbone.in_channels=8"])


def test_mixed_numbers_of_bands_are_counted_with_the_first_file_of_each(draw, tmp_path):
    paths = [write_tiff(tmp_path / f"{i}.tif", np.zeros((4, 6, 5), np.uint8), extra=(0,) * 4) for i in range(2)]
    with pytest.raises(DataError, match=r"1 with 3 \(such as '.*c\.png'\), 2 with 5 \(such as '.*0\.tif'\)"):
        find_channels(headers(*paths, draw("c.png")))


def test_files_that_cannot_be_read_and_images_that_are_no_files_are_left_out(draw, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    good = draw("good.png")
    assert list(headers(tmp_path / "broken.png", good, tmp_path / "missing.png")) == [good]
    assert read_headers(SyntheticSource(4, 32).records()) == {}


@pytest.mark.parametrize(("alpha", "channels", "is_said"), [(255, 3, False), (9, 3, True), (9, 4, False), (9, 1, True)])
def test_transparency_that_is_left_out_is_said(draw, alpha, channels, is_said):
    found = headers(draw("a.png", "RGBA", (1, 2, 3, 255)), draw("b.png", "RGBA", (1, 2, 3, alpha)))
    lines = dropped_alpha(found, channels)
    assert bool(lines) == is_said
    assert not lines or ("2 images" in lines[0] and "backbone.in_channels=4" in lines[0])


def deep(path: Path, low: int, high: int) -> Path:
    values = np.linspace(low, high, 6000).astype(np.uint16).reshape(60, 100)
    Image.fromarray(values).save(path)
    return path


def test_the_range_is_found_over_all_images_and_said(tmp_path, draw):
    paths = [deep(tmp_path / "a.png", 1000, 2000), deep(tmp_path / "b.png", 1500, 4000)]
    value_range, lines = find_value_range(headers(*paths), 1)
    every = np.concatenate([np.asarray(Image.open(path)).flatten() for path in paths])
    low, high = np.quantile(every, [0.001, 0.999], method="inverted_cdf").tolist()
    assert value_range == [low, high]
    setting = f"data.value_range=[{low},{high}]"
    assert lines == [f"the images hold 16-bit values; those from {low:,} to {high:,} become black to white: {setting}"]
    _, mixed = find_value_range(headers(*paths, draw("c.png", "L")), 1)
    assert mixed == [*lines, "1 of 3 training images have 8 bit and are taken as they are"]


def test_eight_bit_images_need_no_range_and_a_given_one_is_refused(draw):
    found = headers(draw("a.png"))
    assert find_value_range(found, 3) == (None, [])
    with pytest.raises(DataError, match=r"data\.value_range=\[0, 9\] has no effect"):
        check_has_effect([0, 9], found)
    check_has_effect([0, 9], {})


def test_a_deep_file_that_breaks_off_does_not_stop_the_search(tmp_path):
    good, cut = deep(tmp_path / "a.png", 1000, 2000), deep(tmp_path / "b.png", 0, 9000)
    cut.write_bytes(cut.read_bytes()[:200])
    assert find_value_range(headers(good, cut), 1)[0] == find_value_range(headers(good), 1)[0]


def test_files_are_read_with_the_range(tmp_path):
    path = deep(tmp_path / "a.png", 1000, 2000)
    synthetic = SyntheticSource(4, 32).records()[0]
    read, same = with_value_range([Record("a", ImageFile(path)), synthetic], [1000, 2000])
    assert (read.image.read(1).min(), read.image.read(1).max()) == (0, 255)
    assert same is synthetic


def test_large_images_are_looked_at_in_parts(tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    random = np.random.default_rng(0)
    paths = [write_tiff(tmp_path / f"{i}.tif", random.integers(0, 9000, (40, 50)).astype(np.uint16)) for i in range(2)]
    rgba = np.full((40, 50, 4), 65_535, np.uint16)
    rgba[39, 49, 3] = 9  # the last pixel is transparent
    clear = write_tiff(tmp_path / "clear.tif", rgba, photometric=2, extra=(2,))
    whole, said = find_value_range(headers(*paths), 1), dropped_alpha(headers(clear), 3)
    monkeypatch.setattr("finetune.data.images.survey.PART", (16, 16))
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 1000)
    assert find_value_range(headers(*paths), 1) == whole
    assert dropped_alpha(headers(clear), 3) == said != []


def test_a_range_that_is_known_is_found_without_decoding_an_image(tmp_path, monkeypatch):
    paths = [deep(tmp_path / "a.png", 1000, 2000), deep(tmp_path / "b.png", 1500, 4000)]
    for path in paths:
        os.utime(path, (1, 1))  # files that were just written may change without a new time
    cache = FileCache("changed", tmp_path / "cache")
    found = find_value_range(headers(*paths), 1, cache)
    with monkeypatch.context() as patch:
        patch.setattr("finetune.data.images.survey.read_pixels", lambda path: pytest.fail("decoded"))
        assert find_value_range(headers(*paths), 1, cache) == found
    os.utime(deep(paths[1], 1500, 9000), (2, 2))
    assert find_value_range(headers(*paths), 1, cache)[0] == find_value_range(headers(*paths), 1)[0] != found[0]


def test_images_of_a_data_set_of_the_hub_are_read_with_the_range() -> None:
    values = np.linspace(1000, 2000, 24).astype(np.uint16).reshape(4, 6)
    cell: Any = SimpleNamespace(read=lambda: Image.fromarray(values), name="7")
    with pytest.raises(DataError, match=r"image '7' holds 16-bit values, .*data\.value_range="):
        HfImage(cell).read(1)
    (record,) = with_value_range([Record("a", HfImage(cell))], [1000, 2000])
    assert record.image.read(1).flatten().tolist() == np.rint((values.ravel() - 1000.0) * 0.255).tolist()
