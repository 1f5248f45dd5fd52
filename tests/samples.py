"""Tiny data sets, and the overrides of a training that takes half a second."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from PIL import Image

from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.cli import main
from finetune.config.compose import load_config

MODEL = (
    "backbone=timm",
    "backbone.name=test_resnet.r160_in1k",
    "backbone.weights=none",
    "head=fpn",
    "head.pyramid_channels=64",
    "head.segmentation_channels=64",
)
TINY = (*MODEL, "augment.crop=32", "data.batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu")
SYNTHETIC = (*TINY, "data=synthetic", "data.count=8", "data.size=32")
COMMAND = str(Path(sys.executable).with_name("finetune"))


def decided(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config of a training, with a value for each setting that data would decide."""
    return with_placeholders_for_recipe(load_config(overrides, "train"))


def draw_folder(
    root: Path,
    names: Sequence[str] = tuple(f"photo_{i:02d}" for i in range(12)),
    values: Sequence[int] = (0, 1, 2),
    size: tuple[int, int] = (32, 40),
    seed: int = 0,
) -> Path:
    """Write `root/images/NAME.png` and `root/masks/NAME.png`: a bright stripe for each label, and noise everywhere.

    Args:
        root: folder to write to; created if missing.
        names: file names of the images, without `.png`; `train/a` writes one into a subfolder.
        values: labels in the masks, left to right in stripes; each mask has all of them.
        size: height and width, pixels.
        seed: seed of the noise.
    """
    random = np.random.default_rng(seed)
    height, width = size
    stripes = np.array(values, dtype=np.uint8)[np.arange(width) * len(values) // width]
    for name in names:
        mask = np.broadcast_to(np.roll(stripes, random.integers(width)), size)
        level = np.searchsorted(sorted(values), mask) * (200 // len(values))
        image = level[..., None] + random.integers(0, 55, (height, width, 3))
        save(root / "images" / f"{name}.png", image.astype(np.uint8))
        save(root / "masks" / f"{name}.png", mask)
    return root


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels (H, W) or (H, W, 3), uint8, as an image; create its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def on_folder(root: Path) -> tuple[str, ...]:
    """Return the overrides of a tiny training on a folder of `draw_folder` with its three classes."""
    return (*TINY, f"data.root={root}", "data.classes=[ground,wall,sky]")


def exit_code(*arguments: str) -> int:
    """Run `finetune ARGUMENTS` in this process and return its exit code."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    try:
        main(arguments)
    except SystemExit as error:
        return 0 if error.code is None else int(error.code)
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR", None)
        os.environ.update({} if full_error is None else {"HYDRA_FULL_ERROR": full_error})
    return 0


def shell(*arguments: str, cwd: Path, timeout: float = 180, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own and wait for it."""
    return subprocess.run(
        arguments, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True, timeout=timeout
    )


def clean_environment(**additional: str) -> dict[str, str]:
    """Return the environment without the variables that a training in this process has set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "HYDRA_", "COMP_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": path, **additional}


def listing(folder: Path) -> dict[str, int]:
    """Return everything below a folder: path -> time of the last change in nanoseconds, 0 for folders."""
    return {
        str(path.relative_to(folder)): 0 if path.is_dir() else path.stat().st_mtime_ns for path in folder.rglob("*")
    }


class Breaks(pl.Callback):
    """A user's callback that fails in the first epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError("the disk is full")
