"""Compare training recipes at equal time: the same data sets, backbone and pretrained weights.

Every run has its own process and ends its training after `--seconds` of that process's CPU time. Runs that are in
OUTPUT/recipes.csv are not repeated, so the script may be interrupted, and called again with more seeds or recipes.

    python benchmarks/recipes.py OUTPUT --data FOLDER [--sets pets crop_weed] [--recipes ours plain] [--seeds 0 1]
        [--seconds 150] [--threads 1] [--overrides NAME="optimizer.lr=1e-3 augment=strong"]
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SETS = ("camvid", "chase_db1", "isbi_membrane", "aerial_roads", "crop_weed", "pets", "steel_defects", "synthetic")
PEERS = ("plain", "smp", "fastai", "torchgeo", "nnunet", "nnunet+mirror")
# Recipes of `finetune train`. The defaults of version 0.1 are written out, so that later defaults do not change them.
RECIPES: dict[str, str] = {
    "ours": "",
    "v0.1": "augment=light augment.crop=320 augment.scale=[0.5,2.0] augment.flip=0.5 augment.brightness=0.2 "
    "augment.contrast=0.2 augment.saturation=0.2 data.batch_size=4 head=unet "
    "head.decoder_channels=[256,128,64,32,16] head.sum_logits=false auxiliary=none tuning=discriminative "
    "tuning.stem_lr_scale=0.1 optimizer=adamw optimizer.lr=2e-3 optimizer.weight_decay=0.01 schedule=poly "
    "schedule.warmup=0.05 schedule.power=0.9 loss=ce_dice loss.class_weights=inverse_sqrt loss.dice_weight=1.0 "
    "loss.label_smoothing=0.0 average=none trainer.gradient_clip_val=1.0 callbacks.early_stopping.patience=10",
}
KEY = ("recipe", "set", "seed", "seconds", "threads", "precision")
MEASURED = ("test", "val", "cpu_seconds", "wall_seconds", "megabytes", "steps")


def run(job: dict[str, Any]) -> dict[str, str]:
    """Run one job in a process of its own, and return its row."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
    command = [sys.executable, __file__, "--one", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    measured = json.loads(done.stdout.splitlines()[-1])
    return {name: str(job[name]) for name in KEY} | {name: f"{measured[name]:.6g}" for name in MEASURED}


def one(job: dict[str, Any]) -> None:
    """Measure a job, and print its columns in one line."""
    from recipe_peers.one_run import measure  # torch stays out of the first process, whose memory the others inherit

    print("\n" + json.dumps(measure(job)))


def read(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of the table."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row.get(name) for name in (*KEY, *MEASURED))]


def append(path: Path, row: dict[str, str]) -> None:
    """Write a row at the end of the table, with one call, so that it is there as a whole or not at all."""
    header = "" if path.exists() else ",".join((*KEY, *MEASURED)) + "\n"
    with path.open("a", newline="") as file:
        file.write(header + ",".join(row[name] for name in (*KEY, *MEASURED)) + "\n")


def table(rows: list[dict[str, str]], column: str = "test") -> str:
    """Return the mean score of each recipe on each set, and how the recipes rank.

    The last four columns are of the sets that every recipe has been run on: mean over these sets, number of those that
    a recipe is first on, mean and largest distance from the best.
    """
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    sets = [name for name in SETS if any(row["set"] == name for row in rows)]
    means: dict[tuple[str, str], float] = {}
    for key in {(row["recipe"], row["set"]) for row in rows}:
        means[key] = statistics.mean(float(row[column]) for row in rows if (row["recipe"], row["set"]) == key)
    full = [name for name in sets if all((recipe, name) in means for recipe in recipes)]
    best = {name: max(means[recipe, name] for recipe in recipes) for name in full}
    lines = [
        f"| recipe | {' | '.join(sets)} | mean | first | behind the best | at most |",
        "|---" * (len(sets) + 5) + "|",
    ]
    for recipe in recipes:
        cells = [f"{means[recipe, name]:.3f}" if (recipe, name) in means else "" for name in sets]
        gaps = [best[name] - means[recipe, name] for name in full]
        mean = statistics.mean(means[recipe, name] for name in full) if full else float("nan")
        ranks = (
            f"{mean:.3f}",
            f"{gaps.count(0.0)} of {len(full)}",
            *(f"{f(gaps or [0.0]):.3f}" for f in (statistics.mean, max)),
        )
        lines.append(f"| `{recipe}` | {' | '.join((*cells, *ranks))} |")
    return "\n".join(lines)


def jobs(options: argparse.Namespace, recipes: dict[str, str]) -> list[dict[str, Any]]:
    """Return all jobs, seed by seed."""
    common = {name: getattr(options, name) for name in ("seconds", "threads", "precision", "fixed_length")}
    paths = {"data": str(options.data.resolve()), "output": str(options.output.resolve())}
    return [
        {"recipe": recipe, "set": name, "seed": seed, **common, **paths}
        | {"overrides": recipes[recipe].split() if recipe in recipes else None}
        for seed in options.seeds
        for name in options.sets
        for recipe in options.recipes
    ]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        return one(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--recipes", nargs="+", default=None, help="default: all, with those of --overrides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seconds", type=float, default=150.0, help="CPU time of each training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto", help="trainer.precision, of every recipe")
    parser.add_argument("--fixed-length", action="store_true", help="time a few steps of ours, and set no budget")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="NAME=OVERRIDES", help="further recipes of ours")
    options = parser.parse_args()
    recipes = RECIPES | dict(text.split("=", 1) for text in options.overrides)
    options.recipes = options.recipes or [*recipes, *PEERS]
    if unknown := set(options.recipes) - {*recipes, *PEERS}:
        parser.error(f"unknown recipes {sorted(unknown)}; there are {[*recipes, *PEERS]}")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "recipes.csv"
    for job in jobs(options, recipes):
        if not any(all(row[name] == str(job[name]) for name in KEY) for row in read(path)):
            append(path, run(job))
            print(*read(path)[-1].values(), flush=True)
    alike = [row for row in read(path) if all(row[name] == str(getattr(options, name)) for name in KEY[3:])]
    print(table(alike))


if __name__ == "__main__":
    main()
