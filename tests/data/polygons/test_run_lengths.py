import numpy as np
import pytest

from finetune.data.polygons.annotation_files import AnnotationError
from finetune.data.polygons.run_lengths import (
    bitmap,
    bitmap_of,
    coco_counts,
    coco_text,
    column_counts,
    covered_part,
    label_studio_alpha,
    listed_counts,
)
from finetune.data.stencil import Stencil


def runs(flat):
    """Lengths of equal values in a flat array, which start with those of False."""
    lengths, current = [0], False
    for value in flat:
        if value != current:
            lengths.append(0)
            current = value
        lengths[-1] += 1
    return lengths


def compressed(counts):
    """Write lengths as COCO does: differences to two before, five bits a character, lowest first, sign-extended."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def packed(values, sizes=(3, 4, 8, 16), chunk=300):
    """Write bytes as Label Studio does: a header, then runs of equal bytes, and blocks of single ones."""
    bits = [f"{len(values):032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]

    def put(is_run, part):
        slot = next(index for index, size in enumerate(sizes) if len(part) <= 2**size)
        bits.append(f"{is_run:b}{slot:02b}{len(part) - 1:0{sizes[slot]}b}")
        bits.extend(f"{value:08b}" for value in (part[:1] if is_run else part))

    position = 0
    while position < len(values):
        end = position + 1
        while end < len(values) and values[end] == values[position] and end - position < chunk:
            end += 1
        if end - position < 3:
            end = min(position + 3, len(values))
            put(False, values[position:end])
        else:
            put(True, values[position:end])
        position = end
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[start : start + 8], 2) for start in range(0, len(stream), 8)]


def masks(count, seed, height=7, width=9):
    rng = np.random.default_rng(seed)
    return [rng.random((height, width)) < rng.random() for _ in range(count)]


def covered(shape, height, width):
    top, left, inside = shape.window(height, width)
    canvas = np.zeros((height, width), dtype=bool)
    canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return canvas


def test_columns_come_first_in_a_mask_of_coco_by_hand():
    shape = bitmap(listed_counts([1, 2, 2, 1]), 2, 3, by_columns=True)
    assert covered(shape, 2, 3).tolist() == [[False, True, False], [True, False, True]]


def test_rows_come_first_otherwise_by_hand():
    shape = bitmap(listed_counts([0, 2, 3, 1]), 2, 3)
    assert covered(shape, 2, 3).tolist() == [[True, True, False], [False, False, True]]


def test_a_compressed_length_by_hand():
    # 40 = 8 + 1 * 32: low bits 8 with the mark of more, then 1; -3 as a difference is 5 bits 11101 with the sign
    assert coco_counts(chr(48 + 8 + 32) + "1").tolist() == [40]
    assert coco_counts("095" + chr(48 + 29)).tolist() == [0, 9, 5, 6]


def test_a_run_as_long_as_the_largest_image_is_read_as_it_was_written():
    counts = np.array([899_999_000, 5, 899_995])
    assert coco_counts(coco_text(counts)).tolist() == counts.tolist()


def test_compressed_lengths_are_read_as_they_were_written():
    for mask in [*masks(60, seed=0), *masks(5, seed=1, height=60, width=90), *masks(1, seed=2, height=1, width=40_000)]:
        counts = runs(mask.ravel(order="F"))
        assert coco_counts(compressed(counts)).tolist() == counts
        shape = bitmap(coco_counts(compressed(counts)), *mask.shape, by_columns=True)
        assert (covered(shape, *mask.shape) == mask).all()


def test_pixels_become_a_bitmap_and_come_back():
    for mask in masks(60, seed=3):
        assert bitmap_of(mask).counts.tolist() == runs(mask.ravel())
        assert (covered(bitmap_of(mask), *mask.shape) == mask).all()


@pytest.mark.parametrize(("top", "left"), [(2, 3), (-4, 0), (0, -5), (-3, -3), (9, 2), (2, 30), (-20, 0)])
def test_a_bitmap_is_placed_in_the_image_and_cut_off_at_its_border(top, left):
    mask = masks(1, seed=4)[0]
    expected = np.zeros((10, 12), dtype=bool)
    for row in range(7):
        for column in range(9):
            if 0 <= row + top < 10 and 0 <= column + left < 12:
                expected[row + top, column + left] = mask[row, column]
    assert (covered(bitmap_of(mask, top, left), 10, 12) == expected).all()


@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (2, 9, 9, 16), (1, 5, 12, 16)])
def test_the_brush_of_label_studio_is_read_as_it_was_written(sizes):
    rng = np.random.default_rng(5)
    for mask in [*masks(20, seed=6), np.ones((40, 50), dtype=bool), np.zeros((3, 5), dtype=bool)]:
        colors = np.concatenate([rng.integers(0, 256, (*mask.shape, 3)), 200 * mask[..., None]], axis=2)  # RGB, alpha
        assert (label_studio_alpha(packed(colors.ravel().tolist(), sizes), *mask.shape) == mask).all()


def test_the_brush_of_label_studio_by_hand():
    # 4 values of 8 bits, all lengths of 1 bit; a run (1) of kind 0 (00) with 2 values (1), which are 7 (00000111);
    # a block (0) of kind 0 (00) with 2 values (1), which are 0 and 255
    bits = f"{4:032b}" + "00111" + "0000" * 4 + "1001" + "00000111" + "0001" + "00000000" + "11111111"
    data = [int(bits.ljust(96, "0")[start : start + 8], 2) for start in range(0, 96, 8)]
    assert label_studio_alpha(data, 1, 1).tolist() == [[True]]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: bitmap(listed_counts([3, -1, 4]), 2, 3), "its RLE has the length -1; expected 0 or more"),
        (lambda: bitmap(listed_counts([3, 2]), 2, 3), "its RLE is for 5 pixels; expected 2x3 = 6"),
        (lambda: bitmap(listed_counts([]), 2, 3), "its RLE is for 0 pixels; expected 2x3 = 6"),
        (lambda: bitmap(listed_counts([0]), 0, 3), "its mask is 0x3 pixels"),
        (lambda: bitmap(listed_counts([10]), 10**6, 10**6), "its mask is 1,000,000x1,000,000 pixels; expected 1 to"),
        (lambda: listed_counts([3, "3"]), "its RLE has the length '3'; expected a number of pixels"),
        (lambda: listed_counts([3, 2.0]), "its RLE has the length 2.0"),
        (lambda: listed_counts([True]), "its RLE has the length True"),
        (lambda: listed_counts([10**400]), "its RLE has the length 1000"),
        (lambda: coco_counts("05 2"), "its RLE '05 2' has characters that no compressed RLE has"),
        (lambda: coco_counts("05é"), "has characters that"),
        (lambda: coco_counts("05p"), "has characters that"),
        (lambda: coco_counts("05X"), "its RLE '05X' is cut off or damaged"),
        (lambda: coco_counts("o" * 8 + "1"), "is cut off or damaged"),
        (lambda: label_studio_alpha([0, 0], 1, 1), "its RLE of 2 bytes is cut off"),
        (lambda: label_studio_alpha(packed([0] * 8), 1, 3), "its RLE is for 8 values of 8 bits; expected 12 of 8 bits"),
        (lambda: label_studio_alpha(packed([0] * 8)[:-1], 1, 2), "is cut off"),
        (lambda: label_studio_alpha([256], 1, 2), "its RLE has values that are no bytes"),
        (lambda: label_studio_alpha(["1"], 1, 2), "its RLE has values that are no bytes"),
        (lambda: label_studio_alpha([255] * 12, 1, 2), "its RLE is for 4,294,967,295 values of 32 bits"),
    ],
)
def test_lengths_that_cannot_be_are_refused(build, text):
    with pytest.raises(AnnotationError) as error:
        build()
    assert text in str(error.value)


def test_a_run_beyond_the_end_is_refused():
    bits = f"{4:032b}" + "00111" + "0111" * 4 + "100" + f"{200:08b}" + "00000001"
    data = [int(bits.ljust(96, "0")[start : start + 8], 2) for start in range(0, 96, 8)]
    with pytest.raises(AnnotationError, match="is for more than the 1x1 pixels"):
        label_studio_alpha(data, 1, 1)


def random_stencil(random: np.random.Generator, height: int, width: int) -> tuple[Stencil, np.ndarray]:
    """Return the covered part of a random mask that is full in some columns, and the mask."""
    mask = random.random((height, width)) < random.choice([0.1, 0.9])
    mask[:, random.random(width) < 0.4] = True
    mask[:, random.random(width) < 0.4] = False
    mask[random.integers(height), random.integers(width)] = True
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    covered = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Stencil(int(rows[0]), int(columns[0]), covered), mask


@pytest.mark.parametrize("seed", range(20))
def test_masks_that_are_encoded_are_those_that_are_decoded(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 12, 2).tolist()
    stencil, mask = random_stencil(random, height, width)
    counts = column_counts(stencil, height, width)
    assert (counts[1:] > 0).all()  # no empty runs but the first
    assert coco_text(counts) == compressed(counts.tolist())
    assert (covered(bitmap(counts, height, width, by_columns=True), height, width) == mask).all()
    again = covered_part(coco_counts(coco_text(counts)), height)
    assert again[:2] == stencil[:2]
    assert (again.covered == stencil.covered).all()


def test_masks_are_encoded_as_pycocotools_does() -> None:
    pycocotools = pytest.importorskip("pycocotools.mask")
    for seed in range(5):
        stencil, mask = random_stencil(np.random.default_rng(seed), 40, 300)
        expected = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert coco_text(column_counts(stencil, 40, 300)) == expected


def test_a_small_object_of_a_huge_image_takes_little_memory() -> None:
    stencil = Stencil(50_000, 70_000, np.ones((2, 3), dtype=bool))
    counts = column_counts(stencil, 100_000, 100_000)  # 10 gigapixels
    assert counts.sum() == 10**10
    assert len(counts) == 7
    assert covered_part(counts, 100_000)[:2] == (50_000, 70_000)
