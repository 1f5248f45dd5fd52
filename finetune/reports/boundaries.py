"""Files with the boundary, surface and object scores of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.metrics.image_boundaries import DISTANCES, class_scores, mean_scores
from finetune.metrics.measurement import Sums
from finetune.reports.evaluation import write_rows, write_scores


def write_boundaries(folder: Path, sums: Sums, classes: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Write `boundaries.json`, `boundaries.csv` and `distances.csv`, and return the means over the classes.

    Args:
        folder: of the evaluation.
        sums: of `ImageBoundaries`, of all ranks.
        classes: names of the classes.
        names: of the images of the data set.
    """
    scores = class_scores(sums)
    means = mean_scores(scores)
    write_scores(folder / "boundaries.json", means)
    columns = {name: values.tolist() for name, values in scores.items()}
    rows = [{"class": name, **{key: column[k] for key, column in columns.items()}} for k, name in enumerate(classes)]
    write_rows(folder / "boundaries.csv", rows)
    distances = sums["distances"]
    compared = sorted((sums["contoured"] == 2).nonzero().tolist(), key=lambda at: -float(distances[*at, 1]))  # by HD95
    if compared:
        named = [dict(zip(DISTANCES, distances[n, k].tolist(), strict=True)) for n, k in compared]
        rows = [{"image": names[n], "class": classes[k]} | each for (n, k), each in zip(compared, named, strict=True)]
        write_rows(folder / "distances.csv", rows)
    return means


def boundary_text(means: Mapping[str, float]) -> str:
    """Return the means of the most usual scores in words."""
    pairs = means["compared"] + means["one_sided"]
    return (
        f"boundary IoU {means['boundary_iou']:.4f}, boundary F1 within 2 pixels {means['boundary_f1_2px']:.4f}, "
        f"{means['detected']:.1%} of the objects detected, HD95 {means['hd95_px']:.1f} pixels (means over the classes; "
        f"{means['one_sided']:,} of {pairs:,} boundaries are only true or only predicted, and have no distance)"
    )
