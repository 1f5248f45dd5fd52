"""Last lines of a training: its scores, where to look, what to type next."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from finetune.config.overrides import typed
from finetune.metrics.evaluator import headline
from finetune.metrics.overlaps import ImageResults
from finetune.reports.evaluation import interval_text


def fast_dev_run_lines(trainer: pl.Trainer) -> list[str]:
    """Return the last line of a training with `fast_dev_run`; none for any other training."""
    count = trainer.fast_dev_run  # type: ignore[attr-defined]  # missing in the class
    batches = "one batch was" if count == 1 else f"{count} batches were"
    line = f"trainer.fast_dev_run={str(count).lower()}: {batches} trained on, validated and tested; no files were kept"
    return [line] if count else []


def closing_lines(
    config: Mapping[str, Any], folder: Path, scores: Mapping[str, float], best: float, images: ImageResults | None
) -> list[str]:
    """Return the last lines of a training: its scores, where to look, what to type next."""
    split = next(iter(scores)).split("/")[0]
    first, *others = headline({name.partition("/")[2]: value for name, value in scores.items()})
    limits = interval_text(images) if first == "iou" else ""
    shown = [f"{split}/{first} {scores[f'{split}/{first}']:.4f}{limits}"]
    shown += [f"{name.replace('_', ' ')} {scores[f'{split}/{name}']:.4f}" for name in others]
    best_line = f"best validation score {best:.4f}; with those weights"
    validated = "no validation score; with the last weights" if math.isnan(best) else best_line
    previews = sorted((folder / "plots" / "preview").glob("*.png"))
    figures = [
        *previews[-1:],
        *(folder / "plots" / name for name in ("iou.png", "mask_ap.png")),
        *(folder / "evaluation" / split / name for name in ("confusion.png", "examples.png")),
    ]
    return [
        "",
        f"{validated} {', '.join(shown)}",
        f"run folder   {folder}",
        f"report       {folder / 'report.html'}",
        *(f"figure       {path}" for path in figures if path.is_file()),
        "",
        "next:",
        f"  finetune predict {typed('run', folder)} input=PHOTOS output={'objects' if first == 'mask_ap' else 'masks'}",
        f"  finetune evaluate {typed('run', folder)} data.root=OTHER_FOLDER"
        if config["data"].get("root")
        else "  finetune train data.root=FOLDER   # your images and masks",
    ]
