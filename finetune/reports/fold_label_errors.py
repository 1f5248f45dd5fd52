"""The wrong labels that the runs of a cross-validation found, each in images that it was not trained on."""

from collections.abc import Collection, Sequence
from pathlib import Path

from finetune.config.overrides import typed
from finetune.data.splitting.split_file import read_training_images
from finetune.io.messages import shortlist
from finetune.reports.evaluation import read_table
from finetune.reports.label_errors import INTRODUCTION, PICTURES, TABLE, caption
from finetune.reports.page import page, photo

PAGE = "label_errors_of_folds.html"
COLUMNS = ("image", "label_contradicted", "label_quality", "iou")


def join_label_errors(runs: Sequence[Path], split: str = "val") -> list[dict[str, str]]:
    """Return a row for each image of the latest evaluations that looked for wrong labels, the most doubtful first.

    A row has `COLUMNS` of `images.csv`, and the folder of the evaluation.

    Args:
        runs: folders.
        split: that was evaluated.

    Raises:
        ValueError: a run has no such evaluation or was trained on its images, or two runs have an image in common.
    """
    joined: dict[str, dict[str, str]] = {}
    for folder in (_evaluation(run, split) for run in runs):
        table = read_table(folder / "images.csv")
        rows = [{**{key: row[key] for key in COLUMNS}, "evaluation": str(folder)} for row in table]
        names = {row["image"] for row in rows}
        if trained := names & read_training_images(folder.parents[1] / "splits.csv", split):
            raise ValueError(f"'{folder}' has images that the run was trained on: {shortlist(sorted(trained), 3)}.")
        if common := sorted(names & joined.keys()):
            raise ValueError(
                f"'{folder}' and '{joined[common[0]]['evaluation']}' both have {shortlist(common, 3)}. Expected runs "
                f"of different folds: finetune train -m data.folds=3 data.fold=0,1,2"
            )
        joined |= {row["image"]: row for row in rows}
    return sorted(joined.values(), key=lambda row: (-int(row["label_contradicted"]), float(row["label_quality"] or 1)))


def label_errors_page(rows: Sequence[dict[str, str]], count: int) -> str:
    """Return the page of joined rows, with pictures of the first ones that have areas to show."""
    folders = dict.fromkeys(row["evaluation"] for row in rows)
    wanted = {row["image"] for row in rows[:count]}
    figures = {name: figure for folder in folders for name, figure in _figures(Path(folder), wanted).items()}
    shown = [figures[row["image"]] for row in rows[:count] if row["image"] in figures]
    title = f"<h1>Labels that the models contradict, in {len(shown):,} of {len(rows):,} images</h1>"
    return page("Label errors", [title, INTRODUCTION, *shown])


def _evaluation(run: Path, split: str) -> Path:
    """Return the latest evaluation on a split that looked for wrong labels."""
    tables = sorted(run.glob(f"evaluation/{split}*/images.csv"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = next((path.parent for path in tables if "label_contradicted" in next(iter(read_table(path)), {})), None)
    if found is None:
        raise ValueError(
            f"no evaluation has looked for wrong labels there: finetune evaluate {typed('run', run)} split={split} "
            f"label_errors=50"
        )
    return found


def _figures(folder: Path, wanted: Collection[str]) -> dict[str, str]:
    """Return the pictures of the wanted images of an evaluation, in HTML."""
    areas: dict[str, list[dict[str, str]]] = {}
    for row in read_table(folder / TABLE):
        areas.setdefault(row["image"], []).append(row)
    places = {name: folder / PICTURES.format(place) for place, name in enumerate(areas)}
    return {name: photo(places[name], caption(own)) for name, own in areas.items() if name in wanted}
