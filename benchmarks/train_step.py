"""Compare our training step with a plain PyTorch loop on the same model and batch, in turns, in one process.

Both do forward, loss, backward, gradient clipping, optimizer and schedule; ours runs in Lightning's Trainer with every
callback and hook of a run. Prints milliseconds per step, the additional memory of the steps (on Linux, to some
megabytes), and the ratio. With --frozen the backbone is frozen in both: by our tuning plan, and by hand.

    python benchmarks/train_step.py [--frozen] [--threads 2] [--steps 12] [--rounds 5] [--size 320] [--batch 4]
"""

import argparse
import copy
import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.callbacks import ApplyTuningPlan, Checkpoint, EarlyStopping, IoU, MetricsCSV, Progress
from finetune.losses import CEDice
from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from finetune.tuning.plan import Plan, Rule

FROZEN = Plan((Rule("backbone", train=False), Rule(".")))
Batch = dict[str, Tensor]


class Timer(pl.Callback):
    """Measures the time from the start of the first step to the end of the last."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self.wait()
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.wait()
        self.seconds = time.perf_counter() - self._start


def ours(model: Segmenter, batches: list[Batch], wait: Callable[[], None], frozen: bool) -> float:
    """Return the seconds of our task for the batches."""
    timer = Timer(wait)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [timer, ApplyTuningPlan(), IoU(), EarlyStopping(), Checkpoint(), MetricsCSV(), Progress()]
        trainer = pl.Trainer(
            max_epochs=1,
            logger=False,
            devices=1,
            callbacks=callbacks,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            default_root_dir=Path(folder),
        )
        task = SemanticTask(model, plan=FROZEN if frozen else None)
        trainer.fit(task, DataLoader(batches, batch_size=None))
    return timer.seconds


def plain(
    model: Segmenter, batches: list[Batch], wait: Callable[[], None], device: torch.device, frozen: bool
) -> float:
    """Return the seconds of a plain loop for the batches."""
    model = model.to(device).to(memory_format=torch.channels_last).train()
    if frozen:
        model.backbone.requires_grad_(False).eval()
    loss = CEDice()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, len(batches), 0.9)
    wait()
    start = time.perf_counter()
    for batch in batches:
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        value = loss(model(model.normalize(images)), masks)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    wait()
    return time.perf_counter() - start


def reset_peak() -> float:
    """Reset the peak memory of the process, and return its bytes in use."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak() -> float:
    """Return the peak memory since the last reset, bytes."""
    return resident("VmHWM")


def resident(field: str) -> float:
    """Return a field of the status of the process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 2), ("steps", 12), ("rounds", 5), ("size", 320), ("batch", 4), ("classes", 11)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--frozen", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    batches = [
        {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8),
            "mask": torch.randint(0, options.classes, (options.batch, options.size, options.size), dtype=torch.uint8),
        }
        for _ in range(options.steps)
    ]
    model = Segmenter(options.backbone, classes=options.classes, weights="none")
    frozen = options.frozen
    plain(copy.deepcopy(model), batches[:3], wait, device, frozen)  # warm up
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    grown: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(options.rounds):
        for name, run in (
            ("plain", lambda: plain(copy.deepcopy(model), batches, wait, device, frozen)),
            ("ours", lambda: ours(copy.deepcopy(model), batches, wait, frozen)),
        ):
            held = reset_peak()
            times[name].append(run())
            grown[name].append((peak() - held) / 1e6)
    for name, seconds in times.items():
        print(
            f"{name:6} {statistics.median(seconds) / options.steps * 1e3:8.1f} ms a step, "
            f"{statistics.median(grown[name]):6.0f} MB (medians of {options.rounds})"
        )
    ratios = [a / b for a, b in zip(times["ours"], times["plain"], strict=True)]
    print(f"ours / plain, pair by pair: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
