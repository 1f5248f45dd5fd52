"""Measure predictions in windows: the memory for an image of any size, and the time over whole images.

python benchmarks/large_images.py memory --side 20000    # peak of the process, tiny model
python benchmarks/large_images.py time --side 2048       # default model, in turns, one thread
"""

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
import torch
from PIL import Image

from finetune.inference import Predictor
from finetune.inference.saving import find_names, save_predictions
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow

TILE = 512  # pixels of the blocks of the TIFF
TINY = ("test_resnet.r160_in1k", "fpn", {"pyramid_channels": 32, "segmentation_channels": 64})
DEFAULT = ("tf_efficientnet_lite0", "unet", {})


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "time"])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["tiny", "default"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    window = SlidingWindow(options.window, options.overlap)
    tiny = (options.model or {"memory": "tiny", "time": "default"}[options.what]) == "tiny"
    backbone, head, head_options = TINY if tiny else DEFAULT
    model = Segmenter(backbone, head, options.classes, weights="none", head_options=head_options)
    (memory if options.what == "memory" else compare)(model, window, options)


def memory(model: Segmenter, window: SlidingWindow, options: argparse.Namespace) -> None:
    """Print the peak of the process for a TIFF of noise."""
    before = peak()
    with TemporaryDirectory() as folder:
        path, predictor = Path(folder) / "large.tif", Predictor(model, "cpu", window=window)
        shape = (options.side, options.side, 3)
        tifffile.imwrite(path, tiles(options.side), shape=shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb")
        written, start = peak(), time.perf_counter()
        (mask,) = save_predictions(predictor, find_names(predictor, path), Path(folder) / "out", ["overlays"])
        seconds = time.perf_counter() - start
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(mask) as image:
            print(f"mask of {image.size}, {mask.stat().st_size:,} bytes; image of {path.stat().st_size:,} bytes")
    print(f"{seconds:.0f} s; peak {peak():,.0f} MiB, {before:,.0f} before the prediction, {written:,.0f} with the TIFF")


def tiles(side: int) -> Iterator[np.ndarray]:
    """Yield the tiles of a large image, row by row: one tile of noise in many shades."""
    noise = (
        np.random.default_rng(0).integers(0, 256, (TILE // 8, TILE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    )
    for number in range((-(-side // TILE)) ** 2):
        yield noise // (1 + number % 5)


def peak() -> float:
    """Return the most memory that the process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(model: Segmenter, window: SlidingWindow, options: argparse.Namespace) -> None:
    """Print the time of windows and of the whole image, in turns."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, options.side, options.side), dtype=np.uint8))
    whole, divided = Predictor(model, "cpu"), Predictor(model, "cpu", window=window)
    ratios = []
    for _ in range(options.rounds):
        seconds = [cpu_seconds(predictor, image) for predictor in (whole, divided)]
        ratios.append(seconds[1] / seconds[0])
        print(f"whole {seconds[0]:.2f} s, windows {seconds[1]:.2f} s of CPU time: {ratios[-1]:.3f}")
    rows, columns = window.spans((options.side, options.side))
    print(f"{len(rows) * len(columns)} windows; median {np.median(ratios):.3f}")


def cpu_seconds(predictor: Predictor, image: torch.Tensor) -> float:
    """Return the CPU time of one prediction."""
    start = time.process_time()
    predictor.predict_image(image)
    return time.process_time() - start


if __name__ == "__main__":
    main()
