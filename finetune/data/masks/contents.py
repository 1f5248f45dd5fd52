"""What a mask file holds, before anything is known of its classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.data.masks.reading import gray_values, has_mask_windows, mask_colors, mask_size, open_mask
from finetune.data.window import Window, grid

MOST_VALUES = 1024  # that are counted one by one; a photograph has more
JPEG_NOISE = 8  # by which JPEG makes neighbors of one value differ, in each channel
PART = (4096, 4096)  # height and width of what is counted at once, if the file can be read in parts
Kind = Literal["gray", "palette", "color"]


@dataclass(frozen=True)
class MaskContents:
    """The values of one mask.

    Attributes:
        size: height and width.
        kind: whether values are gray values, palette indices or 24-bit colors.
        pixels: pixels of each value; at most the `MOST_VALUES` most frequent ones.
        interior: pixels of each value whose four neighbors have the same value; blends at borders have none.
        palette: 24-bit color of each palette index in use.
        lossy: whether the file was compressed as a photograph, which changes values.
        nearly_interior: pixels of each value whose four neighbors have about the same value, of lossy files.
    """

    size: tuple[int, int]
    kind: Kind
    pixels: Mapping[int, int]
    interior: Mapping[int, int]
    palette: Mapping[int, int]
    lossy: bool = False
    nearly_interior: Mapping[int, int] = field(default_factory=dict)

    @property
    def by_color(self) -> dict[int, int]:
        """Return the color of each value."""
        if self.kind == "palette":
            return dict(self.palette)
        return {value: value if self.kind == "color" else value * 0x010101 for value in self.pixels}


@runtime_checkable
class EncodedMask(Protocol):
    """A target whose values stand for classes in a way that is to be worked out."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the mask; empty if it is in none."""

    @property
    def description(self) -> str:
        """Text for messages."""

    def contents(self) -> MaskContents:
        """Return the values of the mask."""


def read_contents(path: Path, any_size: bool = False) -> MaskContents:
    """Decode a mask and count its values.

    Args:
        path: the file.
        any_size: whether the mask may be larger than what is decoded at once, if it can be read in parts.

    Raises:
        DataError: the file cannot be decoded, or is too large.
    """
    if not any_size or not has_mask_windows(path):
        return pixel_contents(open_mask(path))
    size = mask_size(path)
    if size[0] <= PART[0] and size[1] <= PART[1]:
        return pixel_contents(open_mask(path))
    return _joined([_part_contents(path, part, size) for part in grid(size, PART)], size)


def pixel_contents(pixels: Image.Image | npt.NDArray[np.integer]) -> MaskContents:
    """Return the contents of a mask in memory."""
    if isinstance(pixels, Image.Image):
        return _image_contents(pixels)
    height, width = pixels.shape
    return MaskContents((height, width), "gray", count(pixels), count(interior(pixels)), {})


def _part_contents(path: Path, part: Window, size: tuple[int, int]) -> MaskContents:
    """Return the contents of a part of a mask; pixels at its edges have neighbors beyond it."""
    outer = part.grown(1, size)
    pixels, inner = open_mask(path, outer), part.within(outer)
    cut = pixels.crop(inner.box) if isinstance(pixels, Image.Image) else pixels[inner.rows, inner.columns]
    return replace(pixel_contents(cut), interior=pixel_contents(pixels).interior)


def _joined(parts: Sequence[MaskContents], size: tuple[int, int]) -> MaskContents:
    """Return the contents of a mask from those of the parts that cover it."""
    is_color = any(part.kind == "color" for part in parts)
    pixels, interior, palette = Counter[int](), Counter[int](), dict[int, int]()
    for part in parts:
        scale = 0x010101 if is_color and part.kind == "gray" else 1  # a part of a color mask may be gray
        pixels.update({scale * value: count for value, count in part.pixels.items()})
        interior.update({scale * value: count for value, count in part.interior.items()})
        palette.update(part.palette)
    most, most_interior = (dict(counts.most_common(MOST_VALUES)) for counts in (pixels, interior))
    return MaskContents(size, "color" if is_color else parts[0].kind, most, most_interior, palette)


def _image_contents(image: Image.Image) -> MaskContents:
    lossy = image.format == "JPEG"
    gray = gray_values(image)
    pixels = mask_colors(image) if gray is None else gray
    counts = count(pixels)
    palette: dict[int, int] = {}
    if image.mode in ("P", "PA"):
        colors = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3).tolist()
        palette = {index: _packed(colors[index]) if index < len(colors) else 0 for index in counts}
    kind: Kind = "color" if gray is None else "palette" if palette else "gray"
    nearly = count(interior(pixels, JPEG_NOISE)) if lossy else {}
    return MaskContents((image.height, image.width), kind, counts, count(interior(pixels)), palette, lossy, nearly)


def _packed(color: list[int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def interior(values: npt.NDArray[np.integer], tolerance: int = 0) -> npt.NDArray[np.integer]:
    """Return the values (N,) of the pixels whose four neighbors have the same value, row by row.

    Args:
        values: numbers or 24-bit colors (H, W).
        tolerance: by which neighbors may differ, in each of three channels of 8 bit.

    >>> interior(np.array([[1, 1, 1, 2], [1, 1, 1, 2], [1, 1, 1, 2]])).tolist()
    [1]
    """
    center = values[1:-1, 1:-1]
    neighbors = (values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:])
    same = np.ones(center.shape, dtype=bool)
    for neighbor in neighbors:
        same &= _differ_by(center, neighbor) <= tolerance if tolerance else center == neighbor
    inside: npt.NDArray[np.integer] = center[same]
    return inside


def _differ_by(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    channels = [np.abs((one >> shift & 255).astype(np.int64) - (other >> shift & 255)) for shift in (0, 8, 16)]
    largest: npt.NDArray[np.int64] = np.maximum.reduce(channels)
    return largest


def count(values: npt.NDArray[np.integer]) -> dict[int, int]:
    """Return the number of times that each value occurs, most frequent first, at most `MOST_VALUES` of them.

    >>> count(np.array([[7, 7, 7], [0, 7, 0]]))
    {7: 4, 0: 2}
    """
    if not values.size:
        return {}
    # masks have long runs of one value: counting the runs instead of the pixels is ten times as fast
    of_runs, lengths = run_lengths(values)
    distinct, which = (np.arange(256), of_runs) if values.dtype == np.uint8 else np.unique(of_runs, return_inverse=True)
    totals = np.bincount(which, weights=lengths).astype(np.int64)
    distinct, totals = distinct[: len(totals)][totals > 0], totals[totals > 0]
    order = np.argsort(-totals, kind="stable")[:MOST_VALUES]
    return dict(zip(distinct[order].tolist(), totals[order].tolist(), strict=True))


def run_lengths(values: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.intp]]:
    """Return the value and the length of each run of equal values, row by row; there is at least one value.

    >>> run_lengths(np.array([[7, 7, 7], [0, 7, 0]]))
    (array([7, 0, 7, 0]), array([3, 1, 1, 1]))
    """
    flat = values.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return flat[starts], np.diff(starts, append=flat.size)
