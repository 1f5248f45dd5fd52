"""The direction in which a monitored score improves."""

import re
from typing import Literal

Direction = Literal["max", "min"]
HIGHER_IS_BETTER = (
    *("iou", "dice", "precision", "recall", "f1", "accuracy", "pixel_accuracy"),
    *("frequency_weighted_iou", "kappa", "pq", "sq", "rq"),
)
PRECISION_OF_OBJECTS = re.compile("(mask|box)_a[pr]([0-9]+|_small|_medium|_large)?")


def monitor_mode(monitor: str, mode: str = "auto", setting: str = "mode") -> Direction:
    """Return `max` if a higher value of the monitored score is better, `min` if a lower one is.

    Args:
        monitor: name of a logged value, such as `val/loss` or `val/iou/road`.
        mode: `max`, `min`, or `auto` for the direction that the score's name implies.
        setting: name of the mode in messages.

    Raises:
        ValueError: a mode that contradicts the score, or `auto` for a score whose direction is not known.

    >>> monitor_mode("val/loss"), monitor_mode("val/iou/road"), monitor_mode("val/distance", "min")
    ('min', 'max', 'min')
    """
    if mode not in ("auto", "max", "min"):
        raise ValueError(f"{setting}={mode}: choose auto, max (a higher {monitor} is better) or min.")
    natural = _natural_mode(monitor)
    if mode == "auto" and natural is None:
        raise ValueError(f"is a higher {monitor} better? Set {setting}=max if it is, or {setting}=min.")
    if natural is not None and mode not in ("auto", natural):
        better = "higher" if mode == "max" else "lower"
        raise ValueError(f"{setting}={mode}: a {better} {monitor} is not better. Set {setting}={natural}, or auto.")
    return natural or ("max" if mode == "max" else "min")


def _natural_mode(monitor: str) -> Direction | None:
    score = monitor.split("/")[1] if "/" in monitor else monitor.partition("_")[2]
    if "loss" in score or score == "count_error":
        return "min"
    is_higher_better = score in HIGHER_IS_BETTER or PRECISION_OF_OBJECTS.fullmatch(score)
    return "max" if is_higher_better else None
