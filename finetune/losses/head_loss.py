"""The loss of heads that compute their own terms."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import Tensor


class HeadLoss:
    """The sum of the terms that a head computes, each times a weight.

    Args:
        weights: of terms by name, such as `{"mask": 2}`; 1 for the others.
        ignore_index: label of the pixels to leave out, which the head has left out.
    """

    target_formats: ClassVar[tuple[str, ...]] = ("objects",)
    auxiliary_weight = 0.0

    def __init__(self, weights: Mapping[str, float] | None = None, ignore_index: int = 255) -> None:
        self.weights = dict(weights or {})
        if wrong := [name for name, weight in self.weights.items() if weight < 0]:
            raise ValueError(f"loss.weights.{wrong[0]}={self.weights[wrong[0]]}: expected a number of 0 or more.")

    def __call__(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of scalar terms.

        Raises:
            ValueError: a weight is for a term that the head does not have.
        """
        self.check_terms(terms)
        parts = [self.weights.get(name, 1.0) * term for name, term in terms.items()]
        return sum(parts[1:], parts[0])

    def check_terms(self, names: Iterable[str]) -> None:
        """Raise ValueError if a weight is for none of these terms."""
        if unknown := sorted(self.weights.keys() - set(names)):
            raise ValueError(f"loss.weights.{unknown[0]}: the head's terms are {', '.join(names)}. Name one of these.")
