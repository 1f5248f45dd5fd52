"""Compare the time of predictions from files to files with that of the model alone, in turns.

The images are drawn and written as JPEG; the model alone gets them read, one at a time, up to its class indices. Prints
seconds of wall time and of CPU time, and the ratios.

    python benchmarks/predicting.py [--count 500] [--height 180] [--width 240] [--rounds 2] [--threads 1]
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from finetune.inference import Predictor
from finetune.inference.saving import find_names, save_predictions
from finetune.models import Segmenter
from finetune.models.ensemble import mean_logits


def seconds(step: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def draw(folder: Path, count: int, height: int, width: int) -> None:
    """Write noise that is smooth enough for JPEG."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg")


def main() -> None:
    """Print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("count", 500), ("height", 180), ("width", 240), ("rounds", 2), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    predictor = Predictor(Segmenter(classes=11, weights="none"), "cpu")
    with TemporaryDirectory() as temporary:
        source, output = Path(temporary) / "in", Path(temporary) / "out"
        draw(source, given.count, given.height, given.width)
        images = [predictor.read(path)[None] for path in sorted(source.iterdir())]

        @torch.inference_mode()
        def alone() -> None:
            for image in images:
                mean_logits(predictor.models, image).argmax(1)

        def whole() -> None:
            shutil.rmtree(output, ignore_errors=True)
            save_predictions(predictor, find_names(predictor, source), output)

        for _ in range(given.rounds):
            (wall, cpu), (all_wall, all_cpu) = seconds(alone), seconds(whole)
            print(
                f"the model alone {wall:.1f} s, {cpu:.1f} s of CPU; predict {all_wall:.1f} s, {all_cpu:.1f} s of CPU: "
                f"{all_wall / wall:.3f} and {all_cpu / cpu:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
