"""What each optimizer group's learning rate was over a training, thinned out as it grows."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from finetune.tuning.groups import Group

LIMIT = 1000  # samples that a picture can show


class LRHistory:
    """Learning rates of all layer groups, NaN while frozen.

    Groups that differ only in weight decay share a column.

    Args:
        groups: of the optimizer.

    Attributes:
        names: of the columns.
        epochs: when each sample was taken, in epochs.
        rates: of each sample, one a column.
        boundaries: epochs at which what trains changed.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        first = {(group.assignment, group.label): index for index, group in reversed(list(enumerate(groups)))}
        self._columns = sorted(first.values())
        self._groups = [groups[index] for index in self._columns]
        self.names = [group.label for group in self._groups]
        self.epochs: list[float] = []
        self.rates: list[list[float]] = []
        self.boundaries: list[float] = []
        self._stride, self._count = 1, 0

    def add(self, epoch: float, rates: Sequence[float], trainable: Collection[str]) -> None:
        """Take a sample, unless it is one too many for the picture.

        Args:
            epoch: position in training, with its fraction.
            rates: of all optimizer groups.
            trainable: names of the parameters that train.
        """
        self._count += 1
        if (self._count - 1) % self._stride:
            return
        trains = [group.parameters[0] in trainable for group in self._groups]
        self.epochs.append(epoch)
        self.rates.append([rates[i] if on else math.nan for i, on in zip(self._columns, trains, strict=True)])
        if len(self.epochs) >= LIMIT:
            self.epochs, self.rates, self._stride = self.epochs[::2], self.rates[::2], self._stride * 2

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        samples = {"epochs": self.epochs, "rates": self.rates, "boundaries": self.boundaries}
        return {**samples, "stride": self._stride, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; one of other groups is left aside."""
        if state["rates"] and len(state["rates"][0]) != len(self.names):
            return
        self.epochs, self.rates, self.boundaries = (list(state[key]) for key in ("epochs", "rates", "boundaries"))
        self._stride, self._count = state["stride"], state["count"]
