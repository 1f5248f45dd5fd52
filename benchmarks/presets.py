"""The tuning presets side by side on a small budget: half-size pictures, EfficientNet-Lite0 with a U-Net.

Every run is a process of its own. Runs that are in the table already are not made again, so the script may be stopped
and started.

    python benchmarks/presets.py camvid OUTPUT --data FOLDER [--seeds 0 1 2] [--presets full frozen ...] [--words ...]

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
PICTURES = {  # at half their size, but for the drawn ones
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
    """A copy of the data at half its size."""
    for path in sorted(source.rglob("*.[jp][pn]g")):
        copy = target / path.relative_to(source).with_suffix(".png")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                way = Image.Resampling.NEAREST if "masks" in path.parts else Image.Resampling.BILINEAR
                image.resize((image.width // 2, image.height // 2), way).save(copy)
    return target


def run(preset: str, seed: int, folder: Path, words: list[str]) -> dict[str, str]:
    """Train once, and say what it came to."""
    own = (f"tuning={preset}", f"seed={seed}", f"output={folder}")
    command = [sys.executable, __file__, "--one", *words, *own]
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
    parser.add_argument("pictures", choices=PICTURES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, help="where the pictures lie, unless they are drawn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--words", nargs="+", default=[])
    options = parser.parse_args()
    if (options.data is None) != (options.pictures == "synthetic"):
        parser.error(f"{options.pictures}: --data says where the pictures lie, and only drawn ones lie nowhere")
    words, output = [*PICTURES[options.pictures], *options.words], options.output / options.pictures
    path = output / "presets.csv"
    if options.data:
        words.append(f"data.root={halve(options.data, output / 'half')}")
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for seed in options.seeds:
        for preset in options.presets:
            if any(row["preset"] == preset and row["seed"] == str(seed) for row in rows):
                continue
            rows.append(run(preset, seed, output / f"{preset}_{seed}", words))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            print(*rows[-1].values(), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
