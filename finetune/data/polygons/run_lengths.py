"""Masks that are stored as the lengths of runs of equal pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.images.decode import MAX_PIXELS
from finetune.data.polygons.annotation_files import AnnotationError, shown
from finetune.data.stencil import Stencil

Counts = npt.NDArray[np.int64]

LONGEST_COUNT = 7  # characters of a compressed length: 35 bits, as the largest TIFF files need


@dataclass(frozen=True, eq=False, slots=True)
class Bitmap:
    """A rectangle of pixels as lengths of runs: not covered, covered, not covered, ...

    Attributes:
        counts: lengths in pixels, of which the first may be 0; they add up to the rectangle.
        height: of the rectangle.
        width: of the rectangle.
        top: row of the image that its first row is.
        left: column of the image that its first column is.
        by_columns: whether the pixels go down the columns, instead of along the rows.
    """

    counts: npt.NDArray[np.int32]
    height: int
    width: int
    top: int = 0
    left: int = 0
    by_columns: bool = False

    def window(self, height: int, width: int) -> Stencil:
        """Return the covered pixels."""
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        covered = flat.reshape((self.height, self.width), order="F" if self.by_columns else "C")
        top, left = min(max(self.top, 0), height), min(max(self.left, 0), width)
        bottom, right = max(height - self.top, 0), max(width - self.left, 0)
        return Stencil(top, left, covered[max(-self.top, 0) : bottom, max(-self.left, 0) : right])


def bitmap(counts: Counts, height: int, width: int, top: int = 0, left: int = 0, by_columns: bool = False) -> Bitmap:
    """Return a bitmap whose lengths have been checked; the arguments are its attributes.

    Raises:
        AnnotationError: the rectangle is empty or too large, or the lengths do not add up to it.
    """
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise AnnotationError(f"its mask is {height:,}x{width:,} pixels; expected 1 to {MAX_PIXELS:,}.")
    if len(counts) and (lowest := int(counts.min())) < 0:
        raise AnnotationError(f"its RLE has the length {lowest}; expected 0 or more.")
    if (total := float(counts.sum(dtype=np.float64))) != height * width:
        raise AnnotationError(f"its RLE is for {total:,.0f} pixels; expected {height}x{width} = {height * width:,}.")
    return Bitmap(counts.astype(np.int32), height, width, top, left, by_columns)


def listed_counts(values: list[Any]) -> Counts:
    """Return lengths that are a list.

    Raises:
        AnnotationError: one is no whole number, or too large for any mask.
    """
    for value in values:
        if type(value) is not int or abs(value) > MAX_PIXELS:
            raise AnnotationError(f"its RLE has the length {shown(value)}; expected a number of pixels.")
    return np.array(values, dtype=np.int64)


def bitmap_of(covered: npt.NDArray[np.bool_], top: int = 0, left: int = 0) -> Bitmap:
    """Return pixels (h, w) as a bitmap."""
    turns = np.flatnonzero(np.diff(covered.ravel(), prepend=False))
    height, width = covered.shape
    return bitmap(np.diff(turns, prepend=0, append=covered.size), height, width, top, left)


def coco_counts(text: str) -> Counts:
    """Decode the lengths of a compressed RLE of COCO.

    Each character holds five bits, the lowest ones first, and a sixth bit if another one follows. From the fourth on, a
    length is stored as its difference from the one two places before.

    Raises:
        AnnotationError: it has other characters, or ends inside a length.

    Source: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c

    >>> coco_counts("052203").tolist()
    [0, 5, 2, 7, 2, 10]
    """
    if not all("0" <= letter <= "o" for letter in set(text)):
        raise AnnotationError(f"its RLE {shown(text)} has characters that no compressed RLE has.")
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes < 32)
    lengths = np.diff(ends, prepend=-1)
    if int(lengths.sum()) != len(codes) or (len(lengths) and int(lengths.max()) > LONGEST_COUNT):
        raise AnnotationError(f"its RLE {shown(text)} is cut off or damaged.")
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    places = 5 * (np.arange(len(codes)) - np.repeat(ends - lengths + 1, lengths))
    counts = np.add.reduceat((codes & 31) << places, ends - lengths + 1)
    counts -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the highest bit is the sign
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts


def coco_text(counts: Counts) -> str:
    """Encode lengths as a compressed RLE of COCO; see `coco_counts`.

    >>> coco_text(np.array([0, 5, 2, 7, 2, 10]))
    '052203'
    """
    differences, letters = counts.copy(), list[str]()
    differences[3:] -= counts[1:-2]
    for value in differences.tolist():
        is_open = True
        while is_open:
            bits, value = value & 31, value >> 5
            is_open = value != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * is_open))
    return "".join(letters)


def column_counts(stencil: Stencil, height: int, width: int) -> Counts:
    """Return the lengths of runs down the columns of an image, in memory that its size does not matter to."""
    rows = stencil.covered.shape[0] + 1  # one more, so that each column ends uncovered
    turns = np.flatnonzero(np.diff(np.pad(stencil.covered.T, ((0, 0), (0, 1))).ravel(), prepend=False))
    columns, lines = np.divmod(turns, rows)
    places, times = np.unique((stencil.left + columns) * height + stencil.top + lines, return_counts=True)
    # a run to the lower edge of the image goes on at the upper edge of the next column, if there is one
    turns = places[(times == 1) & (places < height * width)]
    counts: Counts = np.diff(turns, prepend=0, append=height * width)
    return counts


def covered_part(counts: Counts, height: int) -> Stencil:
    """Return the pixels of runs down the columns of an image, of which one at least is covered, without the rest."""
    ends = np.cumsum(counts)
    first, last = int(ends[0]) // height, (int(ends[len(ends) // 2 * 2 - 1]) - 1) // height + 1
    lengths = np.diff(ends.clip(first * height, last * height), prepend=first * height)
    covered = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(last - first, height).T
    rows = np.flatnonzero(covered.any(axis=1))
    return Stencil(int(rows[0]), first, covered[rows[0] : rows[-1] + 1].copy())


def label_studio_alpha(data: list[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode the pixels that a brush of Label Studio has touched.

    The bytes are a stream of bits: the number of values, the bits of a value, the bits of the four kinds of lengths;
    then blocks of equal or different values. The values are the bytes of an RGBA image.

    Args:
        data: bytes.
        height: of the image.
        width: of the image.

    Returns:
        bool (height, width): where the alpha channel is not 0.

    Raises:
        AnnotationError: the stream is damaged, or for another size.

    Source: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
    """
    stream = _Bits(data)
    total, bits = stream.take(32), stream.take(5) + 1
    sizes = [stream.take(4) + 1 for _ in range(4)]
    if not 0 < total == 4 * height * width <= 4 * MAX_PIXELS or bits != 8:
        raise AnnotationError(
            f"its RLE is for {total:,} values of {bits} bits; expected {4 * height * width:,} of 8 bits, RGBA for "
            f"{height}x{width} pixels."
        )
    values, start = np.zeros(total, dtype=np.uint8), 0
    while start < total:
        is_run, size = stream.take(1), sizes[stream.take(2)]
        end = start + stream.take(size) + 1
        if end > total:
            raise AnnotationError(f"its RLE is for more than the {height}x{width} pixels of the image.")
        if is_run:
            values[start:end] = stream.take(8)
        else:
            block = stream.take(8 * (end - start))
            values[start:end] = np.frombuffer(block.to_bytes(end - start, "big"), dtype=np.uint8)
        start = end
    alpha: npt.NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] != 0
    return alpha


class _Bits:
    """A stream of bits, highest first."""

    def __init__(self, data: list[int]) -> None:
        if not all(type(value) is int and 0 <= value < 256 for value in data):
            raise AnnotationError("its RLE has values that are no bytes; expected whole numbers from 0 to 255.")
        self.data, self.position = bytes(data), 0

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        end = self.position + count
        if end > 8 * len(self.data):
            raise AnnotationError(f"its RLE of {len(self.data):,} bytes is cut off.")
        chunk = int.from_bytes(self.data[self.position // 8 : (end + 7) // 8], "big")
        self.position = end
        return chunk >> -end % 8 & (1 << count) - 1
