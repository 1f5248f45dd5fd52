"""Detection of plateaus of a score."""

import math
from typing import Any


class PlateauDetector:
    """A counter of the updates since a score last improved.

    Args:
        patience: number of consecutive updates without improvement that make a plateau.
        mode: `max` if a higher score is better, `min` if a lower one is.
        min_delta: a score is an improvement if it is better than the best one by more than this.

    Attributes:
        best: best score so far, None before the first.
        waited: updates without improvement since the best score or the last plateau.
        improved: whether the last update was an improvement.

    Raises:
        ValueError: `patience` is below 1, `min_delta` is negative, or `mode` is unknown.

    >>> detector = PlateauDetector(patience=2)
    >>> [detector.update(score) for score in (0.5, 0.4, 0.5, 0.3, 0.6, 0.6)]
    [False, False, True, False, False, False]
    """

    def __init__(self, patience: int, mode: str = "max", min_delta: float = 0.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience is {patience!r}, expected a whole number of validations, 1 or more.")
        if mode not in ("max", "min"):
            raise ValueError(f"mode is '{mode}'; choose 'max' if a higher score is better, 'min' if a lower one is.")
        if not min_delta >= 0:  # also rejects NaN
            raise ValueError(f"min_delta is {min_delta}, expected 0 or more.")
        self.patience = patience
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0
        self.improved = False

    def update(self, score: float) -> bool:
        """Take the next score and return whether it completes a plateau; the count then restarts from 0.

        The best score is kept after a plateau: later scores have to beat it. NaN is never an improvement.
        """
        score = float(score)  # a checkpoint must hold plain numbers, not tensors
        self.improved = self._is_better(score)
        if self.improved:
            self.best, self.waited = score, 0
            return False
        self.waited = (self.waited + 1) % self.patience
        return self.waited == 0

    def reset(self) -> None:
        """Forget everything, including the best score."""
        self.best, self.waited, self.improved = None, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the counters as plain data."""
        return {"best": self.best, "waited": self.waited, "improved": self.improved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a `state_dict`."""
        self.best, self.waited, self.improved = state["best"], state["waited"], state["improved"]

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best is None:
            return True
        gain = score - self.best if self.mode == "max" else self.best - score
        return gain > self.min_delta
