"""Scores of every class as rows and as text."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from finetune.metrics.confusion import dice, iou, mean, pixel_accuracy, precision, recall

COLUMNS = ("iou", "dice", "precision", "recall")


def class_rows(matrix: Tensor, names: Sequence[str]) -> list[dict[str, str | float]]:
    """One row a class: its name, its share of the true pixels, and its scores; NaN where the class is absent.

    Args:
        matrix: counts (K, K), int64; rows are the truth.
        names: of the K classes.
    """
    share = matrix.sum(dim=1).double() / matrix.sum().clamp(min=1)
    columns = {"pixel_share": share, "iou": iou(matrix), "dice": dice(matrix)}
    columns |= {"precision": precision(matrix), "recall": recall(matrix)}
    return [{"class": name, **{key: float(v[i]) for key, v in columns.items()}} for i, name in enumerate(names)]


def class_table(matrix: Tensor, names: Sequence[str]) -> str:
    """The rows as text, worst class first, absent ones last, and the means below."""
    rows = class_rows(matrix, names)
    rows.sort(key=lambda row: (row["iou"] != row["iou"], row["iou"]))  # NaN differs from itself
    width = max(5, *(len(name) for name in names))
    lines = [f"{'class':<{width}}  {'pixels':>7}  " + "  ".join(f"{name:>9}" for name in COLUMNS)]
    lines += [_line(str(row["class"]), width, row) for row in rows]
    averaged = {"iou": iou, "dice": dice, "precision": precision, "recall": recall}
    means = {"pixel_share": 1.0} | {key: float(mean(score(matrix))) for key, score in averaged.items()}
    lines += [_line("mean", width, means)]
    lines += [f"pixel accuracy {float(pixel_accuracy(matrix)):.4f}"]
    return "\n".join(lines)


def _line(name: str, width: int, row: Mapping[str, str | float]) -> str:
    values = [float(row[key]) for key in COLUMNS]
    cells = ("   absent" if value != value else f"{value:9.4f}" for value in values)
    return f"{name:<{width}}  {float(row['pixel_share']):7.2%}  " + "  ".join(cells)
