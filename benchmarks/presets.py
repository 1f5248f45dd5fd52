"""The tuning presets side by side on a small budget: half-size CamVid, 8 epochs, EfficientNet-Lite0 with a U-Net.

Every run is a process of its own. Runs that are in the table already are not made again, so the script may be stopped
and started.

    python benchmarks/presets.py FOLDER OUTPUT [--seeds 0 1 2] [--presets full frozen ...] [--words ...]

Words are further settings of every run: with `--seeds 0 --words +trainer.limit_train_batches=10
+trainer.limit_val_batches=1` an epoch has ten steps, and the times are those of the presets and of little else.
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
COLUMNS = ("preset", "seed", "iou", "seconds", "megabytes")


def halve(source: Path, target: Path) -> Path:
    """A copy of the data at half its size."""
    for path in sorted(source.rglob("*.[jp][pn]g")):
        copy = target / path.relative_to(source).with_suffix(".png")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                way = Image.Resampling.NEAREST if "masks" in path.parts else Image.Resampling.BILINEAR
                image.resize((image.width // 2, image.height // 2), way).save(copy)
    return target


def run(preset: str, seed: int, data: Path, folder: Path, further: list[str]) -> dict[str, str]:
    """Train once, and say what it came to."""
    words = (f"tuning={preset}", f"seed={seed}", f"data.root={data}", f"output={folder}")
    command = [
        sys.executable,
        __file__,
        "--one",
        "experiment=camvid",
        "augment.crop=160",
        "trainer.max_epochs=8",
        *words,
        *further,
    ]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    with (folder / "metrics.csv").open() as file:
        seconds = statistics.median(float(row["seconds"]) for row in csv.DictReader(file))
    scores = json.loads((folder / "evaluation" / "test" / "scores.json").read_text())
    return {
        "preset": preset,
        "seed": str(seed),
        "iou": f"{scores['iou']:.4f}",
        "seconds": f"{seconds:.1f}",
        "megabytes": told,
    }


def one(words: list[str]) -> None:
    """What a process of its own does: train, and print the most memory it held, in megabytes."""
    import finetune

    finetune.train(*words)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)


def table(rows: list[dict[str, str]]) -> str:
    """Mean and spread of each preset."""
    lines = ["| preset | test IoU, mean (lowest to highest) | seeds | s an epoch | MB |", "|---|---|---|---|---|"]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == preset]
        iou = [float(row["iou"]) for row in own]
        seconds, memory = (statistics.median(float(row[key]) for row in own) for key in ("seconds", "megabytes"))
        spread = f"{statistics.mean(iou):.3f} ({min(iou):.3f} to {max(iou):.3f})"
        lines.append(f"| `{preset}` | {spread} | {len(own)} | {seconds:.0f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    if sys.argv[1:2] == ["--one"]:
        return one(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--words", nargs="+", default=[])
    options = parser.parse_args()
    data, path = halve(options.data, options.output / "half"), options.output / "presets.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for seed in options.seeds:
        for preset in options.presets:
            if any(row["preset"] == preset and row["seed"] == str(seed) for row in rows):
                continue
            rows.append(run(preset, seed, data, options.output / f"{preset}_{seed}", options.words))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            print(*rows[-1].values(), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
