"""Tells when a score has stopped improving."""

import math
from typing import Any


class PlateauDetector:
    """Counts the updates since a score has last improved.

    Args:
        patience: updates in a row without improvement that make a plateau.
        mode: `max` if higher is better, `min` if lower.
        min_delta: a score improves if it is better than the best one by more than this.

    Attributes:
        best: the best score so far, None before the first.
        waited: updates without improvement since it, or since the last plateau.
        improved: whether the last update was an improvement.

    Raises:
        ValueError: a patience below 1, a negative `min_delta`, or an unknown mode.

    >>> detector = PlateauDetector(patience=2)
    >>> [detector.update(score) for score in (0.5, 0.4, 0.5, 0.3, 0.6, 0.6)]
    [False, False, True, False, False, False]
    """

    def __init__(self, patience: int, mode: str = "max", min_delta: float = 0.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience is {patience!r}, expected a whole number of validations, 1 or more.")
        if mode not in ("max", "min"):
            raise ValueError(f"mode is '{mode}'; choose 'max' if a higher score is better, 'min' if a lower one is.")
        if not min_delta >= 0:  # NaN is refused too
            raise ValueError(f"min_delta is {min_delta}, expected 0 or more.")
        self.patience = patience
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0
        self.improved = False

    def update(self, score: float) -> bool:
        """Whether the score has now not improved for `patience` updates; if so, it starts to count anew.

        The best score is kept after a plateau: what comes next has to beat it. NaN is no improvement.
        """
        score = float(score)  # a tensor would not be plain in a checkpoint
        self.improved = self._is_better(score)
        if self.improved:
            self.best, self.waited = score, 0
            return False
        self.waited = (self.waited + 1) % self.patience
        return self.waited == 0

    def reset(self) -> None:
        """Forget everything, the best score too."""
        self.best, self.waited, self.improved = None, 0, False

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, as plain data."""
        return {"best": self.best, "waited": self.waited, "improved": self.improved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.best, self.waited, self.improved = state["best"], state["waited"], state["improved"]

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best is None:
            return True
        gain = score - self.best if self.mode == "max" else self.best - score
        return gain > self.min_delta
