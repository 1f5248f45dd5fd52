"""Position of each parameter in the model, and the selectors by which tuning rules match parameters."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from finetune.io.messages import shortlist

PARTS = ("backbone", "neck", "fpn", "decoder", "head", "auxiliary")
_SELECTOR = re.compile(rf"(?P<part>{'|'.join(PARTS)})?(?P<slice>\[.*\])?(?P<dot>\.)?(?P<vectors>norms_and_biases)?")
_SLICE = re.compile(r"\[(?P<first>-?\d+)?(?P<range>:)?(?P<last>-?\d+)?\]")


class PlanError(ValueError):
    """A tuning plan that does not fit the model or the training."""


@dataclass(frozen=True)
class ParameterInfo:
    """Position and size of a parameter.

    Attributes:
        part: first component of its name, such as `backbone`.
        layer: index of its layer group, 0 at the stem; all parts other than the backbone form one group above the last.
        layers: number of layer groups of the backbone.
        ndim: number of dimensions; norms and biases have at most one.
        size: number of elements.
    """

    part: str
    layer: int
    layers: int
    ndim: int
    size: int

    @property
    def label(self) -> str:
        """Name of its layer group or part, such as `backbone[3]` or `head`."""
        return f"{self.part}[{self.layer}]" if self.layer < self.layers else self.part


def parameter_infos(
    parameters: Mapping[str, Tensor], groups: Sequence[Collection[str]] = ()
) -> dict[str, ParameterInfo]:
    """Return the position and size of each parameter, by name.

    Args:
        parameters: parameters by their full names.
        groups: full names of the parameters of each layer group of the backbone, from the stem to the top.

    Raises:
        PlanError: there are layer groups, but a parameter of the backbone is in none of them.
    """
    layer = {name: index for index, group in enumerate(groups) for name in group}
    missing = [name for name in parameters if groups and name.startswith("backbone.") and name not in layer]
    if missing:
        raise PlanError(
            f"{len(missing)} parameters of the backbone are in none of its layer groups: {shortlist(missing, 3)}."
        )
    return {
        name: ParameterInfo(name.split(".")[0], layer.get(name, len(groups)), len(groups), p.ndim, p.numel())
        for name, p in parameters.items()
    }


@dataclass(frozen=True)
class Selector:
    """The parameters that a rule matches.

    Attributes:
        text: a part of the model (`head`) or a slice of the backbone's layer groups (`backbone[-2:]` for the last
            two), either of them optionally followed by `.norms_and_biases`; `norms_and_biases` for those of the whole
            model; or a regular expression that is searched for in the full name of the parameter.

    >>> info = ParameterInfo("backbone", layer=3, layers=4, ndim=4, size=9)
    >>> Selector("backbone[-1]").matches("backbone.model.layer4.weight", info)
    True
    """

    text: str

    def __post_init__(self) -> None:
        if self._parse() is not None:
            self.layers(None)
            return
        try:
            re.compile(self.text)
        except re.error as error:
            raise PlanError(f"tuning rule '{self.text}' is not a valid regular expression: {error}.") from error

    def matches(self, name: str, info: ParameterInfo) -> bool:
        """Return whether the selector matches a parameter."""
        fields = self._parse()
        if fields is None:
            return re.search(self.text, name) is not None
        in_part = fields["part"] in (None, info.part)
        in_slice = fields["slice"] is None or info.layer in self.layers(info.layers)
        return in_part and in_slice and (fields["vectors"] is None or info.ndim <= 1)

    def layers(self, count: int | None) -> range:
        """Return the indices of the layer groups, out of `count`, that the slice selects.

        Args:
            count: number of layer groups; None only checks the syntax.

        Raises:
            PlanError: the text has no valid slice, or the slice exceeds the number of layer groups.
        """
        fields = self._parse()
        if fields is None or fields["slice"] is None:
            return range(count or 0)
        parsed = _SLICE.fullmatch(fields["slice"])
        if fields["part"] != "backbone" or parsed is None or fields["slice"] == "[]":
            raise PlanError(
                f"tuning rule '{self.text}' is not a valid slice of layer groups. Write backbone[-2:] for the last "
                f"two, backbone[:3] for the first three, backbone[0] for the stem; other parts have no layer groups."
            )
        bounds = [int(parsed[key]) for key in ("first", "last") if parsed[key] is not None]
        if count is None:
            return range(0)
        highest = count if parsed["range"] else count - 1
        if any(not -count <= bound <= highest for bound in bounds):
            raise PlanError(
                f"tuning rule '{self.text}' selects more layer groups than the backbone has: {count}. "
                f"Choose {'bounds' if parsed['range'] else 'one'} from -{count} to {highest}, or set "
                f"tuning.layers=blocks for more groups."
            )
        if parsed["range"]:
            return range(count)[slice(*(int(parsed[key]) if parsed[key] else None for key in ("first", "last")))]
        return range(count)[bounds[0] : bounds[0] + 1 or None]

    def _parse(self) -> re.Match[str] | None:
        """Return the components of the text, or None if it is a regular expression."""
        fields = _SELECTOR.fullmatch(self.text)
        if fields is None or not (fields["part"] or fields["vectors"]):
            return None
        return None if bool(fields["dot"]) != bool(fields["part"] and fields["vectors"]) else fields
