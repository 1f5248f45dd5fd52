"""What a set of image files has in common: the channels and the value range that suit all of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from finetune.data.caching.facts import Fact, read_each
from finetune.data.caching.file_cache import FileCache
from finetune.data.files import ImageFile
from finetune.data.images.decode import DECODING
from finetune.data.images.formats import has_windows, read_header, read_pixels, read_window
from finetune.data.images.pixels import Header, Pixels, fits
from finetune.data.images.value_range import RangeFinder, ValueRange, depth, value_pairs
from finetune.data.records import DataError, Image, Record
from finetune.data.window import grid
from finetune.io.messages import shortlist

LOOKED_AT = 100  # images of which the transparency is looked at
AT_ONCE = 8  # images that are decoded at the same time
PART = (4096, 4096)  # height and width of what is decoded of larger images at once, if they can be read in parts
Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class RangedImage(Protocol):
    """An image that may have more than 8 bit."""

    def with_value_range(self, value_range: ValueRange | None) -> Image:
        """Return the image with the values that become black and white; without any, it must have 8 bit."""


def read_headers(records: Iterable[Record]) -> dict[Path, Header]:
    """Return path -> header of the images that are files; those that cannot be read are left out."""
    paths = [record.image.path for record in records if isinstance(record.image, ImageFile)]
    headers = zip(paths, _in_threads(_header, paths), strict=True)
    return {path: header for path, header in headers if header is not None}


def find_channels(headers: Mapping[Path, Header]) -> tuple[int, list[str]]:
    """Return the number of channels of images, and what to say about it.

    Gray images have 1, and 3 next to color; all others have their bands without alpha. Without any image it is 3.

    Raises:
        DataError: other numbers of bands are mixed.
    """
    counts = Counter(header.colors for header in headers.values())
    if len(counts) <= 1:
        channels = next(iter(counts), 3)
        kind = "are gray" if channels == 1 else f"have {channels} bands"
        return channels, [f"the images {kind}: backbone.in_channels={channels}"] if channels != 3 else []
    if set(counts) == {1, 3}:
        return 3, [
            f"{counts[1]:,} gray and {counts[3]:,} color images: backbone.in_channels=3, which repeats the gray ones"
        ]
    first = {header.colors: path for path, header in reversed(list(headers.items()))}
    named = (f"{n:,} with {colors} (such as '{first[colors]}')" for colors, n in sorted(counts.items()))
    raise DataError(
        f"the training images have different numbers of bands: {shortlist(named)}. Use images with the same bands."
    )


def dropped_alpha(headers: Mapping[Path, Header], channels: int) -> list[str]:
    """Return what to say about transparency that the channels leave no room for; nothing if all images are opaque."""
    kept = 4 if channels in (1, 3) else channels + 1
    paths = [path for path, header in headers.items() if header.alpha]
    if not paths or channels in (2, 4) or not any(_is_transparent(path, headers[path]) for path in paths[:LOOKED_AT]):
        return []
    return [
        f"{len(paths):,} images, such as '{paths[0]}', have transparency, which is left out. "
        f"backbone.in_channels={kept} takes it as a channel."
    ]


def find_value_range(
    headers: Mapping[Path, Header], channels: int, cache: FileCache | None = None
) -> tuple[ValueRange | None, list[str]]:
    """Return the range of the images with more than 8 bit, and what to say about it; None if there are none.

    Images that do not fit the channels, or cannot be decoded, are left out.

    Args:
        headers: of the images.
        channels: that a model takes.
        cache: of the range; None decodes all images.
    """
    deep = {p: h for p, h in headers.items() if h.is_deep and fits(h.colors, h.alpha, channels)}
    if not deep:
        return None, []
    colors = max(header.colors for header in deep.values())
    paths = tuple(path for path, header in deep.items() if header.colors == colors or colors == 3)

    def read(paths: tuple[Path, ...]) -> ValueRange | None:
        return _range_of(paths, headers, colors)

    (found,) = read_each([paths], _range_fact(colors), read, cache)
    return found, [] if found is None else _range_lines(found, deep, len(headers))


def _range_fact(colors: int) -> Fact[tuple[Path, ...], ValueRange | None]:
    """Return how the range of images with a number of bands is kept."""
    return Fact(
        f"value range 1, decoding {DECODING}",
        lambda paths: paths,
        lambda paths: str(colors),
        lambda found: found,
        lambda paths, plain: _checked_range(plain, colors),
        is_of_many=True,
    )


def _checked_range(plain: Any, colors: int) -> ValueRange:
    if len(value_pairs(plain)) not in (1, colors):
        raise ValueError("other bands")
    value_range: ValueRange = plain
    return value_range


def _range_of(paths: Sequence[Path], headers: Mapping[Path, Header], colors: int) -> ValueRange | None:
    """Return the range of image files with a number of bands; None if none can be decoded."""
    finder = RangeFinder(colors)
    large = {path for path in paths if _is_large(headers[path]) and has_windows(path)}
    small = [path for path in paths if path not in large]
    for start in range(0, len(small), AT_ONCE):
        for pixels in _in_threads(_pixels, small[start : start + AT_ONCE]):
            if pixels is not None:
                finder.add(pixels)
    for path in large:
        for pixels in _parts(path, headers[path]):
            finder.add(pixels)
    return finder.found()


def check_has_effect(value_range: ValueRange, headers: Mapping[Path, Header]) -> None:
    """Raise a DataError if a range is given for images of 8 bit only."""
    if headers and not any(header.is_deep for header in headers.values()):
        raise DataError(
            f"data.value_range={value_range} has no effect: all training images have 8 bit, and are taken as they "
            f"are. Leave it out."
        )


def with_value_range(records: Iterable[Record], value_range: ValueRange | None) -> list[Record]:
    """Return the records with images that are read with a value range, if there is one and they can have it."""
    if value_range is None:
        return list(records)
    return [
        replace(record, image=image.with_value_range(value_range))
        if isinstance(image := record.image, RangedImage)
        else record
        for record in records
    ]


def _range_lines(found: ValueRange, deep: Mapping[Path, Header], images: int) -> list[str]:
    depths = shortlist(sorted({depth(header.dtype) for header in deep.values()}))
    pairs = value_pairs(found)
    setting = f"data.value_range={_compact(found)}"
    one = f"those from {pairs[0][0]:,} to {pairs[0][1]:,} become black to white"
    text = one if len(pairs) == 1 else f"each of the {len(pairs)} bands has a range that becomes black to white"
    lines = [f"the images hold {depths} values; {text}: {setting}"]
    if len(deep) < images:
        lines.append(f"{images - len(deep):,} of {images:,} training images have 8 bit and are taken as they are")
    return lines


def _compact(value: object) -> str:
    return str(value).replace(" ", "")


def _header(path: Path) -> Header | None:
    try:
        return read_header(path, any_size=True)
    except DataError:  # it is reported with all others when everything is read
        return None


def _pixels(path: Path) -> Pixels | None:
    try:
        return read_pixels(path)
    except DataError:
        return None


def _is_large(header: Header) -> bool:
    return header.height * header.width > PART[0] * PART[1]


def _parts(path: Path, header: Header) -> Iterator[Pixels]:
    """Yield the pixels of a file in parts; none from where it cannot be decoded."""
    try:
        for part in grid(header.upright_size, PART):
            yield read_window(path, part)
    except DataError:
        return


def _is_transparent(path: Path, header: Header) -> bool:
    if _is_large(header) and has_windows(path):
        return any(not pixels.is_opaque for pixels in _parts(path, header))
    pixels = _pixels(path)
    return pixels is not None and not pixels.is_opaque


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
