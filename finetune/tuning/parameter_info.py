"""Where a parameter is in the model, and the words by which a tuning rule speaks of it."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

PARTS = ("backbone", "neck", "decoder", "head", "auxiliary")
_WORDS = re.compile(rf"(?P<part>{'|'.join(PARTS)})?(?P<slice>\[.*\])?(?P<dot>\.)?(?P<vectors>norms_and_biases)?")
_SLICE = re.compile(r"\[(?P<first>-?\d+)?(?P<range>:)?(?P<last>-?\d+)?\]")


class PlanError(ValueError):
    """A tuning plan that does not fit the model or the training; the message says what, and the fix."""


@dataclass(frozen=True)
class ParameterInfo:
    """Where a parameter is.

    Attributes:
        part: the first word of its name, such as `backbone`.
        layer: its layer group, from 0 at the stem; parts other than the backbone count as one group above the last.
        layers: how many layer groups the backbone has.
        ndim: its dimensions; norms and biases have one at most.
        size: its elements.
    """

    part: str
    layer: int
    layers: int
    ndim: int
    size: int

    @property
    def label(self) -> str:
        """Such as `backbone[3]` or `head`."""
        return f"{self.part}[{self.layer}]" if self.layer < self.layers else self.part


def parameter_infos(
    parameters: Mapping[str, Tensor], groups: Sequence[Collection[str]] = ()
) -> dict[str, ParameterInfo]:
    """The place of each parameter.

    Args:
        parameters: by their full names.
        groups: the backbone's layer groups from stem to top, as full names.

    Raises:
        PlanError: a parameter of the backbone that is in no group although there are groups.
    """
    layer = {name: index for index, group in enumerate(groups) for name in group}
    lost = [name for name in parameters if groups and name.startswith("backbone.") and name not in layer]
    if lost:
        raise PlanError(
            f"{len(lost)} parameters of the backbone are in none of its layer groups: {', '.join(lost[:3])}."
        )
    return {
        name: ParameterInfo(name.split(".")[0], layer.get(name, len(groups)), len(groups), p.ndim, p.numel())
        for name, p in parameters.items()
    }


@dataclass(frozen=True)
class Selector:
    """Which parameters a rule speaks of.

    Attributes:
        text: a part of the model (`head`), a slice of the backbone's layer groups (`backbone[-2:]`, the last two),
            either with `.norms_and_biases` behind it, `norms_and_biases` of the whole model, or a regular expression
            that is searched in the parameter's full name.

    >>> place = ParameterInfo("backbone", layer=3, layers=4, ndim=4, size=9)
    >>> Selector("backbone[-1]").takes("backbone.model.layer4.weight", place)
    True
    """

    text: str

    def __post_init__(self) -> None:
        if self._words() is not None:
            self.layers(None)
            return
        try:
            re.compile(self.text)
        except re.error as error:
            raise PlanError(f"tuning rule '{self.text}' is no regular expression: {error}.") from error

    def takes(self, name: str, place: ParameterInfo) -> bool:
        """Whether the parameter of this name, at this place, is meant."""
        words = self._words()
        if words is None:
            return re.search(self.text, name) is not None
        in_part = words["part"] in (None, place.part)
        in_slice = words["slice"] is None or place.layer in self.layers(place.layers)
        return in_part and in_slice and (words["vectors"] is None or place.ndim <= 1)

    def layers(self, count: int | None) -> range:
        """The layer groups out of `count` that the slice names; None only checks the words.

        Raises:
            PlanError: words that are no slice, or a slice of more groups than there are.
        """
        words = self._words()
        if words is None or words["slice"] is None:
            return range(count or 0)
        parsed = _SLICE.fullmatch(words["slice"])
        if words["part"] != "backbone" or parsed is None or words["slice"] == "[]":
            raise PlanError(
                f"tuning rule '{self.text}' is no slice of layer groups. Write backbone[-2:] for the last two, "
                f"backbone[:3] for the first three, backbone[0] for the stem; other parts have no layer groups."
            )
        bounds = [int(parsed[key]) for key in ("first", "last") if parsed[key] is not None]
        if count is None:
            return range(0)
        if any(not -count <= bound <= count for bound in bounds):
            raise PlanError(
                f"tuning rule '{self.text}' speaks of more layer groups than the backbone has: {count}. "
                f"Choose bounds from -{count} to {count}, or tuning.layers=blocks for more groups."
            )
        if parsed["range"]:
            return range(count)[slice(*(int(parsed[key]) if parsed[key] else None for key in ("first", "last")))]
        return range(count)[bounds[0] : bounds[0] + 1 or None]

    def _words(self) -> re.Match[str] | None:
        """The text taken apart, or None for a regular expression."""
        words = _WORDS.fullmatch(self.text)
        if words is None or not (words["part"] or words["vectors"]):
            return None
        return None if bool(words["dot"]) != bool(words["part"] and words["vectors"]) else words
