"""Scores of all classes as text."""

from collections.abc import Mapping, Sequence

from finetune.metrics.evaluator import Row


def class_table(rows: Sequence[Row], means: Mapping[str, float]) -> str:
    """Return rows as text, the worst class first, absent classes last, and the means below.

    Args:
        rows: `class`, `pixel_share`, and the scores of a class, the first of which sorts the rows.
        means: the mean of each score, and of `pixel_share` where that makes sense.
    """
    columns = [key for key in rows[0] if key not in ("class", "pixel_share")]
    ordered = sorted(rows, key=lambda row: (row[columns[0]] != row[columns[0]], row[columns[0]]))  # NaN != NaN
    width = max(5, *(len(str(row["class"])) for row in rows))
    lines = [f"{'class':<{width}}  {'pixels':>7}  " + "  ".join(f"{name:>9}" for name in columns)]
    lines += [_line(str(row["class"]), width, row, columns) for row in ordered]
    lines += [_line("mean", width, means, columns)]
    return "\n".join(lines)


def _line(name: str, width: int, scores: Mapping[str, str | float], columns: Sequence[str]) -> str:
    share = f"{float(scores['pixel_share']):7.2%}" if "pixel_share" in scores else " " * 7
    values = [float(scores[key]) for key in columns]
    cells = ("   absent" if value != value else f"{value:9.4f}" for value in values)
    return f"{name:<{width}}  {share}  " + "  ".join(cells)
