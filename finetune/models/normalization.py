"""Mean and standard deviation that images are normalized with."""

from collections.abc import Sequence


def check_statistics(channels: int, **statistics: Sequence[float] | None) -> None:
    """Raise ValueError unless each statistic is None or has one number per channel, of intensities in 0..1.

    >>> check_statistics(3, mean=[123.7, 116.3, 103.5])
    Traceback (most recent call last):
    ValueError: backbone.mean=[123.7, 116.3, 103.5]: expected 3 numbers from 0 to 1, or null for the weights' own. \
Divide statistics of intensities up to 255 by 255.
    """
    for name, values in statistics.items():
        numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
        in_range = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n <= 1 for n in numbers)
        if values is None or (in_range and len(numbers) == channels and (name == "mean" or min(numbers) > 0)):
            continue
        raise ValueError(
            f"backbone.{name}={values}: expected {channels} numbers from 0 to 1{', above 0' if name == 'std' else ''}, "
            f"or null for the weights' own. Divide statistics of intensities up to 255 by 255."
        )
