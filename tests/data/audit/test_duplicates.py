"""Copies: equal, resized, compressed again and turned ones are found, other images are not."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from finetune.data.audit.duplicates import exact_duplicates, near_duplicates
from finetune.data.audit.examination import examine
from finetune.data.audit.hashes import (
    MOST_BITS,
    close_pairs,
    count_bits,
    hash_images,
    similar_pairs,
)
from tests.data.audit.drawn import data_set, kinds, labels, photo


def photos(count: int) -> list[np.ndarray]:
    return [photo(seed) for seed in range(count)]


def smooth(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Return a smooth image (H, W, 3), as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def compressed(image: np.ndarray, quality: int = 40) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def test_copies_in_one_split_are_a_note_and_over_splits_a_leak() -> None:
    first, second, third = photos(3)
    data = data_set([first, first, second, second, third], None, ["train", "train", "train", "test", "val"])
    found = {finding.kind: finding for finding in exact_duplicates(data)}
    assert kinds(list(found.values())) == {"leak": [2, 3], "duplicate": [0, 1]}
    assert (found["leak"].severity, found["duplicate"].severity) == ("warning", "note")
    assert found["leak"].exclude == [2]  # of the two, the one in test stays
    assert found["leak"].text.startswith(
        "1 images are in several splits, so scores come out too high: 2.png (train) = "
    )
    assert exact_duplicates(data_set(photos(3))) == []


def test_a_copy_with_another_mask_is_said() -> None:
    other = labels()
    other[0, 0] = 1
    found = exact_duplicates(data_set([photo(0), photo(0), photo(1), photo(1)], [labels(), other, labels(), labels()]))
    assert kinds(found) == {"labels_differ": [0, 1], "duplicate": [0, 1, 2, 3]}


def test_images_of_one_color_are_no_copies() -> None:
    plain = np.full((48, 64, 3), 90, dtype=np.uint8)
    data = data_set([plain, plain])
    assert exact_duplicates(data) == near_duplicates(data) == []


TURNED = {
    "resized": lambda image: resized(image, (50, 40)),
    "compressed": compressed,
    "brighter by a little": lambda image: (image.astype(int) + 2).clip(0, 255).astype(np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned by 180 degrees": lambda image: image[::-1, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image, 1),
    "turned by 270 degrees": lambda image: np.rot90(image, 3),
    "mirrored and compressed": lambda image: compressed(image[:, ::-1].copy(), 60),
}


@pytest.mark.parametrize("turn", TURNED)
def test_a_changed_copy_is_found(turn: str) -> None:
    copy = np.ascontiguousarray(TURNED[turn](smooth(3)))
    images = [smooth(seed) for seed in range(12)] + [copy]
    masks = [np.zeros(image.shape[:2], dtype=np.uint8) for image in images]
    masks[3][:30] = 1
    data = data_set(images, masks, [*["train"] * 12, "test"])
    found = near_duplicates(data)
    assert kinds(found)["near_leak"] == [3, 12]
    named = turn.partition(" and")[0].replace("270", "90")
    assert "~ 12.png (test)" in found[0].text
    assert (named in found[0].text) == ("mirrored" in turn or "turned" in turn or "upside" in turn)


def test_images_that_differ_are_no_copies_even_in_fog() -> None:
    images = [smooth(seed) for seed in range(40)]
    foggy = [(200 + image.astype(float) / 40).astype(np.uint8) for image in images]
    assert near_duplicates(data_set(images, np.zeros((96, 128), dtype=np.uint8))) == []
    assert near_duplicates(data_set(foggy, np.zeros((96, 128), dtype=np.uint8))) == []


def test_a_copy_with_quite_another_mask_is_said() -> None:
    images = [smooth(0), compressed(smooth(0)), smooth(1)]
    half = np.zeros((96, 128), dtype=np.uint8)
    half[:48] = 1
    data = data_set(images, [np.zeros_like(half), half, half])
    assert kinds(near_duplicates(data)) == {"labels_differ": [0, 1], "near_duplicate": [0, 1]}


@pytest.mark.parametrize("bits", [0, 3, 4, 6, 7])
def test_no_close_pair_is_missed(bits: int) -> None:
    random = np.random.default_rng(bits)
    hashes = random.integers(0, 2**64, 60, dtype=np.uint64)
    flipped = [sum(1 << int(b) for b in random.choice(64, n % 10, replace=False)) for n in range(60)]
    hashes = np.concatenate([hashes, hashes ^ np.array(flipped, dtype=np.uint64)])
    expected = {
        (i, j)
        for i, j in itertools.permutations(range(len(hashes)), 2)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= bits
    }
    found = {pair for part in close_pairs(hashes, hashes, bits) for pair in zip(*part.tolist(), strict=True)}
    assert found == expected
    assert len(expected) >= 2 * 6 * (bits + 1)


@pytest.mark.parametrize("bit", range(16))
def test_a_pair_is_found_by_the_only_band_that_differs_in_one_bit(bit: int) -> None:
    hashes = np.random.default_rng(bit).integers(0, 2**64, 4, dtype=np.uint64)
    # seven bits: one in a band, two in each other
    patterns = [sum((1 << bit if band == own else 0b110) << 16 * band for band in range(4)) for own in range(4)]
    others = hashes ^ np.array(patterns, dtype=np.uint64)
    found = {
        p
        for part in close_pairs(np.r_[hashes, others], np.r_[hashes, others], 7)
        for p in zip(*part.tolist(), strict=True)
    }
    assert found >= {(i, i + 4) for i in range(4)}


def test_images_of_one_hash_are_no_copies_unless_they_look_alike() -> None:
    rise = np.arange(32)[None] * np.ones((32, 1))
    bright_top = np.where(np.arange(32) < 16, 100, 0)[:, None]
    clear = np.stack([3 * rise + bright_top, 3 * rise + bright_top[::-1]]).astype(np.uint8)
    stripes = 6 * (np.arange(32) // 4 % 2)[:, None]
    foggy = np.stack([100 + rise // 4, 100 + rise // 4 + stripes]).astype(np.uint8)
    for images in (clear, foggy):
        assert len(set(hash_images(images).tolist())) == 1
        assert similar_pairs(images) == []
    assert len(similar_pairs(np.stack([foggy[0], foggy[0] + 1]))) == 1


def test_more_bits_than_the_bands_allow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bits=8: expected at most 7, up to which no pair is missed"):
        list(close_pairs(np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64), MOST_BITS + 1))


def test_bits_are_counted() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    assert count_bits(values).tolist() == [int(value).bit_count() for value in values]


def test_a_hash_has_a_bit_for_each_rise_in_a_grid_of_8_by_9() -> None:
    # cells of 9 x 8 pixels, so that the grid is exact
    grid = np.random.default_rng(0).integers(0, 256, (8, 9))
    image = grid.repeat(9, axis=0).repeat(8, axis=1).astype(np.uint8)
    (found,) = hash_images(image[None])
    rises = (grid[:, 1:] > grid[:, :-1]).reshape(-1)
    assert int(found).bit_count() == rises.sum()
    assert np.unpackbits(np.array([found]).view(np.uint8)).tolist() == rises.astype(int).tolist()


def test_each_of_many_equal_images_is_found() -> None:
    images = np.stack([examine(record).image.thumbnail for record in data_set([photo(0)] * 5 + [photo(1)]).records])
    assert {number for pair in similar_pairs(images) for number in pair[:2]} == {0, 1, 2, 3, 4}
