"""Values that are far from the others."""

from collections.abc import Mapping

import numpy as np

FEWEST = 20  # values, of which the usual spread is known
FAR = 6.0  # robust standard deviations: about one in 500 million values of a normal distribution


def outliers(values: Mapping[int, float], least: float) -> dict[int, float]:
    """Return the values that are far from the median, measured by the median distance from it.

    Args:
        values: by position.
        least: smallest distance that counts, however alike the others are.

    Returns:
        Position -> distance in robust standard deviations, with its sign; nothing for few values.

    Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers: the modified z-score.
    """
    if len(values) < FEWEST:
        return {}
    numbers = np.array(list(values.values()), dtype=np.float64)
    distance = numbers - np.median(numbers)
    spread = max(float(np.median(np.abs(distance))) / 0.6745, 1e-9)
    scores = distance / spread
    far = (np.abs(scores) > FAR) & (np.abs(distance) >= least)
    return {index: float(score) for index, score, is_far in zip(values, scores, far, strict=True) if is_far}
