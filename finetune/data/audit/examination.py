"""Read an image and its mask once, and keep what the checks need of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from torch import Tensor

from finetune.data.audit.alignment import edge_profile
from finetune.data.caching.decoding_settings import record_settings
from finetune.data.images.decode import FORMATS
from finetune.data.masks.components import find_components
from finetune.data.mistakes import Reading
from finetune.data.processes import each_result
from finetune.data.records import Record
from finetune.data.statistics import take_reading

SIDE = 32  # pixels of a thumbnail
SPECK = 4  # pixels of the largest speck or hole that is counted
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFacts:
    """An image in numbers.

    Attributes:
        digest: hash of its pixels.
        thumbnail: gray (SIDE, SIDE), uint8; the mean of the pixels below each.
        mean: brightness, 0 to 255.
        deviation: standard deviation of the brightness.
        low: brightness below which 1% of the pixels are.
        high: brightness above which 1% of the pixels are.
        saturation: mean difference of the strongest and the weakest color of the thumbnail, 0 to 255.
        mode: of the file, such as `RGB`, `L` or `P`; empty if there is none.
    """

    digest: bytes
    thumbnail: Pixels
    mean: float
    deviation: float
    low: float
    high: float
    saturation: float
    mode: str = ""


@dataclass(frozen=True)
class MaskFacts:
    """A mask in numbers.

    Attributes:
        digest: hash of its labels.
        border: labels of the pixels at the four edges of the image (256,); of the first class for several channels.
        specks: connected areas of up to `SPECK` pixels of another class than the first.
        holes: those of the first class.
        edges: see `edge_profile`; None if it says nothing.
    """

    digest: bytes
    border: npt.NDArray[np.int64]
    specks: int
    holes: int
    edges: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Examined:
    """The contents of one record; None for what cannot be read."""

    reading: Reading
    image: ImageFacts | None
    mask: MaskFacts | None


def examine_all(
    records: Sequence[Record], ignore_index: int = 255, channels: int = 3, processes: int | None = None
) -> Iterator[Examined]:
    """Return the contents of all records in their order; `processes` are those of `each_result`."""
    if any(record_settings(record, channels) is None for record in records):
        processes = 0  # classes of others may hold open files, in which forked processes would share their place
    measure = partial(examine, ignore_index=ignore_index, channels=channels)
    return map(_with_record, each_result(measure, records, processes), records)


def _with_record(examined: Examined, record: Record) -> Examined:
    examined.reading.record = record  # instead of a copy from another process
    return examined


def examine(record: Record, ignore_index: int = 255, channels: int = 3) -> Examined:
    """Decode the image, with this number of channels, and the mask of a record, and measure both."""
    reading, image, target = take_reading(record, channels)
    gray = None if image is None else to_gray(image.numpy())
    facts = None if image is None or gray is None else image_facts(image.numpy(), gray, _mode(record))
    return Examined(reading, facts, None if target is None else mask_facts(target, gray, ignore_index))


def to_gray(pixels: Pixels) -> Pixels:
    """Return the brightness (H, W), uint8, of an image (C, H, W), uint8; the mean of bands that are no RGB."""
    if len(pixels) != 3:
        mean: Pixels = pixels.mean(0).astype(np.uint8)
        return mean
    red, green, blue = pixels.astype(np.uint16)
    gray: Pixels = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)  # ITU-R BT.601
    return gray


def image_facts(pixels: Pixels, gray: Pixels, mode: str = "") -> ImageFacts:
    """Measure an image (C, H, W), uint8, with its brightness (H, W)."""
    counts = np.array(PILImage.fromarray(gray).histogram())
    levels, share = np.arange(256), counts / gray.size
    mean = float(levels @ share)
    below = counts.cumsum() / gray.size
    colors = np.stack([_thumbnail(channel) for channel in pixels]).astype(np.int16)
    return ImageFacts(
        digest=_digest(pixels),
        thumbnail=_thumbnail(gray),
        mean=mean,
        deviation=float(np.sqrt(((levels - mean) ** 2) @ share)),
        low=float(np.searchsorted(below, 0.01)),
        high=float(np.searchsorted(below, 0.99)),
        saturation=float((colors.max(0) - colors.min(0)).mean()),
        mode=mode,
    )


def mask_facts(target: Tensor, gray: Pixels | None, ignore_index: int) -> MaskFacts:
    """Measure a target (H, W) or (K, H, W), uint8, on the brightness (H, W) of its image, if that can be read."""
    channels = target.numpy() if target.dim() == 3 else target.numpy()[None]
    first = channels[0]
    border = np.concatenate([first[0], first[-1], first[1:-1, 0], first[1:-1, -1]])
    specks, holes = 0, 0
    for channel in channels:
        found = find_components(channel)
        small = found.labels[(found.areas <= SPECK) & (found.labels != ignore_index)]
        specks, holes = specks + int((small > 0).sum()), holes + int((small == 0).sum())
    fits = gray is not None and gray.shape == first.shape
    edges = edge_profile(gray, channels, ignore_index) if gray is not None and fits else None
    return MaskFacts(_digest(channels), np.bincount(border, minlength=256), specks, holes, edges)


def _thumbnail(channel: Pixels) -> Pixels:
    small = PILImage.fromarray(channel).resize((SIDE, SIDE), PILImage.Resampling.BOX)
    return np.asarray(small)


def _digest(pixels: Pixels) -> bytes:
    # half the time of blake2b; nobody gains by a collision here
    counted = hashlib.sha1(repr(pixels.shape).encode(), usedforsecurity=False)
    counted.update(np.ascontiguousarray(pixels).data)
    return counted.digest()


def _mode(record: Record) -> str:
    """Return how the file of an image holds its pixels."""
    try:
        with PILImage.open(record.image.paths[0], formats=FORMATS) as image:
            return image.mode
    # drawn, in a format that another library reads, or too large for Pillow and read as tiles
    except (OSError, IndexError, ValueError, PILImage.DecompressionBombError):
        return ""
