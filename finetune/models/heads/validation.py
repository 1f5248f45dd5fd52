"""Checks of head options, before anything is built from them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
NORMS = ("batchnorm", "instancenorm", "identity")
SCSE_REDUCTION = 16  # factor by which smp's scse attention reduces the channels

Norm = str | Mapping[str, Any]


def check_counts(group: str = "head", /, **options: int | Sequence[int]) -> None:
    """Raise ValueError unless all numbers are positive integers.

    >>> check_counts(layers=0)
    Traceback (most recent call last):
    ValueError: head.layers=0: expected a whole number of 1 or more.
    """
    for name, value in options.items():
        for number in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{group}.{name}={value}: expected a whole number of 1 or more.")


def check_most(most: int, **options: int) -> None:
    """Raise ValueError if a number is above the limit.

    >>> check_most(1000, max_detections=2000)
    Traceback (most recent call last):
    ValueError: head.max_detections=2000: expected 1,000 or less.
    """
    for name, value in options.items():
        if value > most:
            raise ValueError(f"head.{name}={value}: expected {most:,} or less.")


def check_length(length: int, **options: Sequence[int]) -> None:
    """Raise ValueError unless each list has `length` positive integers."""
    for name, values in options.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != length:
            raise ValueError(f"head.{name}={values}: expected a list of {length} whole numbers.")
        check_counts(**{name: values})


def check_positive(length: int | None, **options: Sequence[float]) -> None:
    """Raise ValueError unless each option is a list of numbers above 0, of a length if one is given.

    >>> check_positive(2, anchor_sizes=[16, 0])
    Traceback (most recent call last):
    ValueError: head.anchor_sizes=[16, 0]: expected a list of 2 numbers above 0.
    """
    for name, values in options.items():
        is_list = isinstance(values, Sequence) and all(isinstance(n, int | float) and 0 < n < math.inf for n in values)
        if not is_list or not len(values) or length not in (None, len(values)):
            raise ValueError(f"head.{name}={values}: expected a list of {length or 'some'} numbers above 0.")


def check_flags(**options: bool) -> None:
    """Raise ValueError unless all options are True or False."""
    for name, value in options.items():
        check_choice(name, value, (True, False))


def check_fraction(group: str = "head", /, **options: float) -> None:
    """Raise ValueError unless all numbers are between 0 and 1.

    >>> check_fraction(dropout=20)
    Traceback (most recent call last):
    ValueError: head.dropout=20: expected a number from 0 to 1.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{group}.{name}={value}: expected a number from 0 to 1.")


def check_choice(name: str, value: Any, choices: Iterable[Any], group: str = "head") -> None:
    """Raise ValueError unless an option has one of the known values.

    >>> check_choice("interpolation", "cubic", ["nearest", "bicubic"])
    Traceback (most recent call last):
    ValueError: head.interpolation=cubic: expected nearest or bicubic.
    """
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
        names = ["null" if choice is None else str(choice) for choice in choices]
        raise ValueError(f"{group}.{name}={value}: expected {' or '.join(names)}.")


def check_interpolation(value: str) -> None:
    """Raise ValueError unless it is an interpolation mode of torch for images."""
    check_choice("interpolation", value, INTERPOLATIONS)


def check_norm(norm: Norm, choices: Sequence[str] = NORMS) -> None:
    """Raise ValueError unless it is a norm for maps: a name, or a mapping of `type` and its arguments.

    Two norms of smp are excluded: its layer norm normalizes over the columns of a map instead of its channels, and its
    in-place norm needs another package.
    """
    name = norm.get("type") if isinstance(norm, Mapping) else norm
    check_choice("norm.type" if isinstance(norm, Mapping) else "norm", name, choices)


def check_depth(decoder_channels: Sequence[int], levels: int, fewest: int | None = None) -> None:
    """Raise ValueError unless there is one number of channels per level, or from `fewest` to that many."""
    expected = f"{levels}" if fewest is None else f"{fewest} to {levels}"
    if isinstance(decoder_channels, str) or not isinstance(decoder_channels, Sequence):
        raise ValueError(f"head.decoder_channels={decoder_channels}: expected a list of {expected} whole numbers.")
    if not (fewest or levels) <= len(decoder_channels) <= levels:
        raise ValueError(
            f"head.decoder_channels has {len(decoder_channels)} entries; this backbone's {levels} levels need "
            f"{expected}."
        )
    check_counts(decoder_channels=decoder_channels)


def check_attention(attention_type: str | None, channels: Iterable[int]) -> None:
    """Raise ValueError unless the attention is known and all maps that it weights have enough channels."""
    check_choice("attention_type", attention_type, (None, "scse"))
    if attention_type == "scse" and (narrowest := min(channels)) < SCSE_REDUCTION:
        raise ValueError(
            f"head.attention_type=scse divides channels by {SCSE_REDUCTION}, but one of its maps has {narrowest}. "
            f"Set head.attention_type=null, more head.decoder_channels, or a wider backbone."
        )
