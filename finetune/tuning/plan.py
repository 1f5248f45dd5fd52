"""What trains: one ordered list of rules over parameter names; the first match wins and nothing is left uncovered."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PARTS = ("backbone", "neck", "decoder", "head")


class PlanError(ValueError):
    """A tuning plan that does not fit the model; the message says which rule or parameter, and the fix."""


@dataclass(frozen=True)
class Rule:
    """What happens to the parameters that a rule takes.

    Attributes:
        match: a part of the model (`backbone`, `neck`, `decoder`, `head`), or a regular expression that is
            searched in the parameter's full name.
        trains: False keeps them, and the buffers and modes of their modules, as they are.
        lr_scale: multiplies the optimizer's learning rate.
        weight_decay: replaces the optimizer's; None keeps it. Norms and biases never decay.
    """

    match: str
    trains: bool = True
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not self.lr_scale >= 0:  # NaN is refused too
            raise PlanError(f"tuning rule '{self.match}' has lr_scale={self.lr_scale}; it must be 0 or more.")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise PlanError(f"tuning rule '{self.match}' has weight_decay={self.weight_decay}; it must be 0 or more.")
        try:
            re.compile(self.match)
        except re.error as error:
            raise PlanError(f"tuning rule '{self.match}' is no regular expression: {error}.") from error

    def takes(self, parameter: str) -> bool:
        """Whether the rule matches this parameter's name.

        >>> Rule("head").takes("head.0.weight"), Rule("head").takes("backbone.model.head.weight")
        (True, False)
        """
        if self.match in PARTS:
            return parameter.startswith(f"{self.match}.")
        return re.search(self.match, parameter) is not None


@dataclass(frozen=True)
class Plan:
    """An ordered list of rules: what trains, and how fast."""

    rules: tuple[Rule, ...] = (Rule("."),)

    def assign(self, parameters: Iterable[str]) -> dict[str, Rule]:
        """The rule that takes each parameter.

        Raises:
            PlanError: a parameter that no rule takes, or a rule that takes none.

        >>> plan = Plan((Rule("backbone", trains=False), Rule("head")))
        >>> {name: rule.trains for name, rule in plan.assign(["backbone.stem", "head.0"]).items()}
        {'backbone.stem': False, 'head.0': True}
        """
        first = {name: next((rule for rule in self.rules if rule.takes(name)), None) for name in parameters}
        taken = {name: rule for name, rule in first.items() if rule is not None}
        matches = [rule.match for rule in self.rules]
        if uncovered := [name for name in first if name not in taken]:
            raise PlanError(
                f"no tuning rule covers {len(uncovered)} parameters ({', '.join(uncovered[:3])}, ...). "
                f"The rules match {matches}; end the list with one that matches '.', which takes the rest."
            )
        if idle := [rule.match for rule in self.rules if all(rule is not taker for taker in taken.values())]:
            parts = sorted({name.split(".")[0] for name in taken})
            raise PlanError(
                f"tuning rules {idle} take no parameter that an earlier rule has left. "
                f"The model's parts are {parts}; correct the name or the order, or remove the rule."
            )
        return taken


def describe(assigned: Mapping[str, Rule], sizes: Mapping[str, int]) -> list[str]:
    """One line for each rule, of what it took and what becomes of it, and one for the whole.

    Args:
        assigned: parameter name -> rule.
        sizes: parameter name -> number of elements.
    """
    lines = []
    for rule in dict.fromkeys(assigned.values()):
        taken = [sizes[name] for name, taker in assigned.items() if taker is rule]
        action = f"train at {rule.lr_scale:g} x lr" if rule.trains else "frozen"
        lines.append(f"tuning rule '{rule.match}': {sum(taken):,} parameters in {len(taken)} tensors, {action}")
    training = sum(sizes[name] for name, rule in assigned.items() if rule.trains)
    return [*lines, f"{training / 1e6:.2f}M of {sum(sizes.values()) / 1e6:.2f}M parameters train"]
