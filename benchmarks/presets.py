"""Compare the tuning presets on a small budget: half-size images, EfficientNet-Lite0 with a U-Net.

Every run has its own process. Runs that are in the table are not repeated, so the script may be interrupted.

    python benchmarks/presets.py camvid OUTPUT --data FOLDER [--seeds 0 1 2] [--presets full ...] [--overrides ...]

`--overrides` are further overrides of every run. With `--seeds 0 --overrides +trainer.limit_train_batches=10
+trainer.limit_val_batches=1` an epoch has ten steps, and its time is mostly that of the training steps.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from PIL import Image

PRESETS = (
    *("full", "frozen", "head_then_full", "partial", "gradual", "discriminative"),
    *("layer_decay", "norm_only", "lora"),
)
DATASETS = {  # at half their size, except the synthetic one
    "camvid": ("experiment=camvid", "augment.crop=160", "trainer.max_epochs=8"),
    "chase_db1": (
        "data.classes=[background,vessel]",
        "data.mask_suffix=_1stHO",
        "augment.crop=256",
        "trainer.max_epochs=20",
    ),
    "isbi_membrane": (
        "data.classes=[membrane,cell]",
        "data.mask_values=[0,255]",
        "augment.crop=192",
        "trainer.max_epochs=20",
    ),
    "synthetic": ("experiment=quickstart",),
}
COLUMNS = ("preset", "seed", "iou", "seconds", "megabytes")


def halve(source: Path, target: Path) -> Path:
    """Copy the data at half its size, and return the copy."""
    for path in sorted(source.rglob("*.[jp][pn]g")):
        copy = target / path.relative_to(source).with_suffix(".png")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                resample = Image.Resampling.NEAREST if "masks" in path.parts else Image.Resampling.BILINEAR
                image.resize((image.width // 2, image.height // 2), resample).save(copy)
    return target


def run(preset: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, str]:
    """Train once and return a row of the table."""
    varied = (f"tuning={preset}", f"seed={seed}", f"output={folder}")
    command = [sys.executable, __file__, "--one", *overrides, *varied]
    megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    with (folder / "metrics.csv").open() as file:
        seconds = statistics.median(float(row["seconds"]) for row in csv.DictReader(file))
    scores = json.loads((folder / "evaluation" / "test" / "scores.json").read_text())
    return {
        "preset": preset,
        "seed": str(seed),
        "iou": f"{scores['iou']:.4f}",
        "seconds": f"{seconds:.1f}",
        "megabytes": megabytes,
    }


def one(overrides: list[str]) -> None:
    """Train, and print the peak memory of this process in megabytes."""
    import finetune

    finetune.train(*overrides)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)


def table(rows: list[dict[str, str]]) -> str:
    """Return a table with the mean and the spread of each preset."""
    lines = ["| preset | test IoU, mean (lowest to highest) | seeds | s an epoch | MB |", "|---|---|---|---|---|"]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        runs = [row for row in rows if row["preset"] == preset]
        iou = [float(row["iou"]) for row in runs]
        seconds, memory = (statistics.median(float(row[key]) for row in runs) for key in ("seconds", "megabytes"))
        spread = f"{statistics.mean(iou):.3f} ({min(iou):.3f} to {max(iou):.3f})"
        lines.append(f"| `{preset}` | {spread} | {len(runs)} | {seconds:.0f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        return one(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the dataset, unless it is synthetic")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--overrides", nargs="+", default=[])
    options = parser.parse_args()
    if (options.data is None) != (options.dataset == "synthetic"):
        parser.error(f"{options.dataset}: --data is the folder of the dataset; only the synthetic dataset has none")
    overrides, output = [*DATASETS[options.dataset], *options.overrides], options.output / options.dataset
    path = output / "presets.csv"
    if options.data:
        overrides.append(f"data.root={halve(options.data, output / 'half')}")
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for seed in options.seeds:
        for preset in options.presets:
            if any(row["preset"] == preset and row["seed"] == str(seed) for row in rows):
                continue
            rows.append(run(preset, seed, output / f"{preset}_{seed}", overrides))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            print(*rows[-1].values(), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
