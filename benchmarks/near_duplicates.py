"""Measure the search for similar images among many.

    python benchmarks/near_duplicates.py [--images 100000] [--copies 1000]

The thumbnails are smooth random fields: neighboring bits of their hashes depend on each other as those of photographs
do, so buckets are as uneven. Some are copies with noise, of which a part is turned. Prints the seconds of each step and
how many of the copies are found. One process; hashes and pairs are computed by one thread.
"""

import argparse
from time import perf_counter

import numpy as np
import numpy.typing as npt

from finetune.data.audit.hashes import TURNS, hash_images, similar_pairs

SIDE = 32


def smooth_fields(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random thumbnails (N, 32, 32), uint8: mixtures of waves, of which long ones are the strongest."""
    random = np.random.default_rng(seed)
    waves = np.stack([np.cos(np.pi * k * (np.arange(SIDE) + 0.5) / SIDE) for k in range(12)])
    strength = 1 / (1 + np.add.outer(np.arange(12) ** 2, np.arange(12) ** 2)) ** 0.75
    strength[0, 0] = 0
    images = np.empty((count, SIDE, SIDE), dtype=np.uint8)
    for start in range(0, count, 4096):
        mixed = random.normal(size=(min(4096, count - start), 12, 12)) * strength
        field = waves.T @ mixed @ waves
        images[start : start + 4096] = (128 + 45 * field / field.std(axis=(1, 2), keepdims=True)).clip(0, 255)
    return images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of the search for similar images.")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=1000, help="of them, a copy with noise of another image")
    options = parser.parse_args()
    images = smooth_fields(options.images)
    random = np.random.default_rng(1)
    turns = list(TURNS.values())
    for copy in range(options.copies):
        turned = turns[copy % len(turns)](images[-copy - 1 : -copy or None])[0].astype(np.int16)
        images[copy] = (turned + random.normal(0, 2, turned.shape)).clip(0, 255)
    begin = perf_counter()
    hashes = hash_images(images)
    hashed = perf_counter()
    pairs = similar_pairs(images)
    done = perf_counter()
    bands = hashes.view(np.uint16).reshape(-1, 4)
    largest = max(int(np.bincount(bands[:, band]).max()) for band in range(4))
    expected = {(copy, options.images - copy - 1) for copy in range(options.copies)}
    found = expected & {(pair.first, pair.second) for pair in pairs}
    print(f"{options.images:,} images, {options.copies:,} copies; the largest of 4 x 65,536 buckets has {largest:,}")
    print(f"hashes   {hashed - begin:6.1f} s")
    print(f"pairs    {done - hashed:6.1f} s")
    print(f"found    {len(found):,} of {options.copies:,} copies, and {len(pairs) - len(found):,} other pairs")


if __name__ == "__main__":
    main()
