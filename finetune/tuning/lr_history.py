"""Record of the learning rates of a training, thinned out as it grows."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from finetune.tuning.groups import Group

LIMIT = 1000  # samples; more would not be visible in a figure


class LRHistory:
    """The learning rates of all layer groups over a training, NaN while frozen.

    Groups that differ only in weight decay share a column.

    Args:
        groups: groups of the optimizer.

    Attributes:
        names: names of the columns.
        epochs: position of each sample, in epochs.
        rates: learning rates of each sample, one per column.
        boundaries: epochs at which the set of trainable parameters changed.
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
        """Record a sample, or skip it if the record is thinned out already.

        Args:
            epoch: position in the training, in fractional epochs.
            rates: learning rates of all optimizer groups.
            trainable: names of the parameters that train.
        """
        self._count += 1
        if (self._count - 1) % self._stride:
            return
        trains = [group.parameters[0] in trainable for group in self._groups]
        self.epochs.append(epoch)
        self.rates.append([rates[i] if train else math.nan for i, train in zip(self._columns, trains, strict=True)])
        if len(self.epochs) >= LIMIT:
            self.epochs, self.rates, self._stride = self.epochs[::2], self.rates[::2], self._stride * 2

    def state_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        samples = {"epochs": self.epochs, "rates": self.rates, "boundaries": self.boundaries}
        return {**samples, "stride": self._stride, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the record from a `state_dict`; ignore it if it has another number of columns."""
        if state["rates"] and len(state["rates"][0]) != len(self.names):
            return
        self.epochs, self.rates, self.boundaries = (list(state[key]) for key in ("epochs", "rates", "boundaries"))
        self._stride, self._count = state["stride"], state["count"]
