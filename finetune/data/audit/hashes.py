"""Find similar images among many by hashes of 64 bits, and verify them by their thumbnails.

A bit says whether the brightness rises from one place of a 9 x 8 grid to the next, so resizing, compression and
brightness change few bits. Two hashes of 4 bands of 16 bits that differ in up to 7 bits have a band that differs in at
most one: only images that share a band, or nearly, are compared.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ROWS, COLUMNS = 8, 8  # of bits; the grid has one column more
BANDS = 4
BUCKETS = 1 << 16
MOST_BITS = 7  # that differ; with 8, all four bands may differ in two bits
CHUNK = 1 << 20  # pairs that are compared at a time

Hashes = npt.NDArray[np.uint64]
Thumbnails = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]

# how an image may be turned -> the thumbnails (N, S, S), turned
TURNS: dict[str, Callable[[Thumbnails], Thumbnails]] = {
    "": lambda images: images,
    "mirrored": lambda images: images[:, :, ::-1],
    "upside down": lambda images: images[:, ::-1],
    "turned by 180 degrees": lambda images: images[:, ::-1, ::-1],
    "turned by 90 degrees": lambda images: np.rot90(images, axes=(1, 2)),
}


class Pair(NamedTuple):
    """Two similar images, and how the first is turned to be like the second."""

    first: int
    second: int
    turn: str


def similar_pairs(thumbnails: Thumbnails, bits: int = 6) -> list[Pair]:
    """Return the pairs of images that show the same, also if one is turned.

    Images of equal hashes are compared with the first of them only, so of many like each other few pairs are listed.

    Args:
        thumbnails: gray (N, S, S), uint8.
        bits: of two hashes that may differ, at most `MOST_BITS`.
    """
    plain, found = hash_images(thumbnails), {}
    _, groups, group_of = np.unique(plain, return_index=True, return_inverse=True)
    same = np.stack([groups[group_of], np.arange(len(plain))])
    for first, second in _verified(thumbnails, thumbnails, same[:, same[0] != same[1]]):
        found[first, second] = ""
    for turn, turned in TURNS.items():
        images = turned(thumbnails[groups])
        both = np.concatenate(list(close_pairs(hash_images(images), plain[groups], bits)), axis=1)
        for first, second in _verified(images, thumbnails[groups], both):
            pair = (int(groups[first]), int(groups[second]))
            found.setdefault((min(pair), max(pair)), turn)
    return [Pair(first, second, turn) for (first, second), turn in sorted(found.items())]


def hash_images(thumbnails: Thumbnails) -> Hashes:
    """Return a hash (N,) of each thumbnail (N, S, S)."""
    side = thumbnails.shape[-1]
    rows, columns = _means(side, ROWS), _means(side, COLUMNS + 1)
    hashes = [np.zeros(0, dtype=np.uint64)]
    for start in range(0, len(thumbnails), 4096):
        grid = rows @ thumbnails[start : start + 4096].astype(np.float32) @ columns.T
        rises = (grid[:, :, 1:] > grid[:, :, :-1] + 1e-3).reshape(len(grid), -1)  # flat areas rise nowhere
        hashes.append(np.packbits(rises, axis=1).view(np.uint64)[:, 0])
    return np.concatenate(hashes)


def _means(side: int, parts: int) -> npt.NDArray[np.float32]:
    """Return the weights (parts, side) of the means over equal parts of a row of pixels.

    >>> _means(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    edges = np.linspace(0, side, parts + 1)
    pixels = np.arange(side)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (inside.clip(0) * parts / side).astype(np.float32)


def close_pairs(queries: Hashes, hashes: Hashes, bits: int) -> Iterator[Indices]:
    """Yield the positions (2, M) of a query and of a hash at another position that differ in few bits.

    A pair may come several times; none is missed.

    Args:
        queries: (N,).
        hashes: (N,).
        bits: that may differ, at most `MOST_BITS`.
    """
    if bits > MOST_BITS:
        raise ValueError(f"bits={bits}: expected at most {MOST_BITS}, up to which no pair is missed.")
    yield np.zeros((2, 0), dtype=np.intp)
    ours, theirs = (values.view(np.uint16).reshape(-1, BANDS) for values in (queries, hashes))
    for band in range(BANDS):
        order = np.argsort(theirs[:, band], kind="stable")
        starts = np.searchsorted(theirs[order, band], np.arange(BUCKETS + 1))
        for flipped in (0, *(1 << bit for bit in range(16) if bits >= BANDS)):
            keys = (ours[:, band] ^ np.uint16(flipped)).astype(np.intp)
            for first, second in _members(order, starts, keys):
                chosen = first != second
                first, second = first[chosen], second[chosen]
                close = count_bits(queries[first] ^ hashes[second]) <= bits
                yield np.stack([first[close], second[close]])


def _members(order: Indices, starts: Indices, keys: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield each position of a key with each position in the bucket of this key, some at a time."""
    counts = starts[keys + 1] - starts[keys]
    totals = counts.cumsum()
    begin = 0
    while begin < len(keys):
        done = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, done + CHUNK, side="right")))
        number = counts[begin:end]
        first = np.repeat(np.arange(begin, end), number)
        within = np.arange(len(first)) - np.repeat(number.cumsum() - number, number)
        yield first, order[np.repeat(starts[keys[begin:end]], number) + within]
        begin = end


def count_bits(values: Hashes) -> npt.NDArray[np.uint8]:
    """Return the number of ones in each value.

    >>> count_bits(np.array([0, 5, 2**64 - 1], dtype=np.uint64)).tolist()
    [0, 2, 64]
    """
    table = _ones()
    parts = values.view(np.uint16).reshape(-1, BANDS)
    counts: npt.NDArray[np.uint8] = table[parts[:, 0]] + table[parts[:, 1]] + table[parts[:, 2]] + table[parts[:, 3]]
    return counts


@cache
def _ones() -> npt.NDArray[np.uint8]:
    """Return the number of ones in each number of 16 bits."""
    bits = np.unpackbits(np.arange(BUCKETS, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
    counts: npt.NDArray[np.uint8] = bits.sum(1, np.uint8)
    return counts


def _verified(images: Thumbnails, others: Thumbnails, pairs: Indices) -> Iterator[tuple[int, int]]:
    """Yield the pairs (2, M) whose thumbnails are nearly equal, each once."""
    keys = np.unique(pairs[0] * len(others) + pairs[1])
    for start in range(0, len(keys), 4096):
        first, second = np.divmod(keys[start : start + 4096], len(others))
        one, other = images[first].astype(np.float32), others[second].astype(np.float32)
        difference = np.abs(one - other).mean(axis=(1, 2))
        # of two foggy images, a small difference is as large as a clear one of others
        contrast = np.minimum(one.std(axis=(1, 2)), other.std(axis=(1, 2)))
        near = difference <= 1 + 0.08 * contrast
        yield from zip(first[near].tolist(), second[near].tolist(), strict=True)
