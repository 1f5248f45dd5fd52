"""Odd images: each check fires on what is drawn for it, and not on the rest."""

import numpy as np
import pytest

from finetune.data.audit import audit_data
from finetune.data.audit.image_checks import (
    brightness_outliers,
    featureless_images,
    mixed_modes,
    size_outliers,
    various_sizes,
)
from finetune.data.audit.outliers import outliers
from tests.data.audit.drawn import data_set, kinds, photo

PHOTOS = [photo(seed) for seed in range(24)]


def test_good_data_has_no_findings() -> None:
    assert audit_data(data_set(PHOTOS)) == []


def test_constant_black_and_white_images_are_told_apart() -> None:
    constant, black, white = np.full_like(PHOTOS[0], 90), photo(30, low=0, high=9), photo(31, low=240, high=255)
    found = featureless_images(data_set([*PHOTOS[:3], constant, black, white]))
    assert kinds(found) == {"constant": [3], "black": [4], "white": [5]}
    assert {finding.severity for finding in found} == {"warning"}
    assert found[0].text.startswith("1 images have one color all over: 3.png.")


def test_a_dark_image_with_a_lamp_is_not_black() -> None:
    lamp = photo(30, low=0, high=9)
    lamp[:8, :8] = 255
    assert featureless_images(data_set([lamp])) == []


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("brightness", photo(40, low=200, high=255)),
        ("contrast", photo(41, low=125, high=135)),
        ("color", np.stack([photo(42)[..., 0] // 4, photo(42)[..., 0], photo(42)[..., 0] // 4], axis=-1)),
    ],
)
def test_an_image_unlike_the_others_is_an_outlier(kind: str, image: np.ndarray) -> None:
    assert brightness_outliers(data_set(PHOTOS)) == []
    gray = [np.repeat(each[..., :1], 3, axis=-1) for each in PHOTOS] if kind == "color" else PHOTOS
    found = brightness_outliers(data_set([*gray, image]))
    assert kinds(found)[kind] == [24]


def test_outliers_follow_the_formula_and_need_enough_values() -> None:
    values = {index: float(index % 5) for index in range(21)} | {21: 40.0}
    # the median is 2, the median distance 1
    assert outliers(values, least=10) == {21: pytest.approx(38 * 0.6745)}
    assert outliers(values, least=39) == {}
    assert outliers(dict.fromkeys(range(18), 0.0) | {18: 100.0}, least=1) == {}
    assert list(outliers(dict.fromkeys(range(30), 5.0) | {30: 9.0}, least=1)) == [30]


def test_sizes_are_counted_and_odd_ones_are_named() -> None:
    sizes = [(48, 64)] * 6 + [(240, 320), (8, 16), (24, 128)]
    data = data_set(
        [photo(i, size) for i, size in enumerate(sizes)], [np.zeros(size, dtype=np.uint8) for size in sizes]
    )
    (several,) = various_sizes(data)
    assert "have 4 sizes (height x width): 48x64 (6), 240x320 (1), 8x16 (1) and 1 more" in several.text
    assert kinds(size_outliers(data)) == {"large": [6], "small": [7], "aspect": [8]}
    same = data_set(PHOTOS[:6])
    assert various_sizes(same) == size_outliers(same) == []


def test_gray_images_among_color_ones_are_named() -> None:
    gray = np.repeat(photo(50)[..., :1], 3, axis=-1)
    assert kinds(mixed_modes(data_set([*PHOTOS[:3], gray]))) == {"gray": [3]}
    assert mixed_modes(data_set([gray, gray])) == []
