"""What trains: one ordered list of rules over parameters; the first match wins and nothing is left uncovered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.tuning.parameter_info import ParameterInfo, PlanError, Selector

# an epoch (int), a share of training (float in 0..1), "plateau" or "plateau:2" (the score has stopped improving for the
# first or second time), "never", or None for the end of training
Moment = int | float | str | None
NORMS = ("train", "eval", "adapt")


@dataclass(frozen=True)
class Rule:
    """What happens to the parameters that a rule takes.

    Attributes:
        match: words for parameters, as in `Selector`.
        train: True and False for always and never, or spans `[start, stop]` of moments: an epoch (int), a share of
            training (float), `plateau` (the monitored score has stopped improving; `plateau:2` the second time),
            `never`, or None for the end. What does not train keeps its weights, buffers and modes.
        stagger: the layer groups that the rule takes start one after the other, from the top down, over this many
            epochs (int) or this share of training (float); with `plateau` each waits for one more plateau.
        lr_scale: multiplies the optimizer's learning rate.
        layer_lr_decay: multiplies the rate once more for each layer group further down.
        lowest_lr_scale: share of the rate that the lowest layer group gets; those between get geometric steps.
        weight_decay: replaces the optimizer's; None keeps it. Norms and biases never decay.
        norms: what batch norms do that the rule takes. `train`: train and rest with the weights around them. `eval`:
            keep the pretrained statistics even while the weights train. `adapt`: statistics follow the data even
            while the weights are frozen.
    """

    match: str
    train: bool | Sequence[Sequence[Moment]] = True
    stagger: int | float | str = 0
    lr_scale: float = 1.0
    layer_lr_decay: float = 1.0
    lowest_lr_scale: float = 1.0
    weight_decay: float | None = None
    norms: str = "train"

    def __post_init__(self) -> None:
        Selector(self.match)
        for name in ("lr_scale", "layer_lr_decay", "lowest_lr_scale", "weight_decay"):
            value = getattr(self, name)
            least = "more than 0" if name in ("layer_lr_decay", "lowest_lr_scale") else "0 or more"
            if value is not None and not isinstance(value, int | float):
                raise PlanError(f"tuning rule '{self.match}' has {name}={value}; it must be a number.")
            if value is not None and not (value > 0 if least == "more than 0" else value >= 0):  # NaN is refused too
                raise PlanError(f"tuning rule '{self.match}' has {name}={value}; it must be {least}.")
        if self.norms not in NORMS:
            raise PlanError(f"tuning rule '{self.match}' has norms={self.norms}; choose from {', '.join(NORMS)}.")
        if not (self.stagger == "plateau" or (isinstance(self.stagger, int | float) and self.stagger >= 0)):
            raise PlanError(
                f"tuning rule '{self.match}' has stagger={self.stagger}; it takes epochs (3), a fraction (0.5) "
                f"or 'plateau'."
            )
        if isinstance(self.train, bool):
            return
        spans = self.train if isinstance(self.train, list | tuple) else []
        if not spans or any(not isinstance(span, list | tuple) or len(span) != 2 for span in spans):
            raise PlanError(
                f"tuning rule '{self.match}' has train={self.train}; write true, false, or spans such as "
                f"[[0, 0.3], [0.8, null]]."
            )
        object.__setattr__(self, "train", tuple((start, stop) for start, stop in spans))  # lists have no hash

    @property
    def spans(self) -> tuple[tuple[Moment, Moment], ...]:
        """When it trains, from moment to moment."""
        if isinstance(self.train, bool):
            return ((0, None),) if self.train else ()
        return tuple((start, stop) for start, stop in self.train)

    @property
    def never_trains(self) -> bool:
        """Whether nothing that the rule takes ever trains."""
        return all(start == "never" for start, _ in self.spans)

    @property
    def varies_with_depth(self) -> bool:
        """Whether the layer groups that the rule takes differ in when they start or how fast they learn."""
        return self.stagger != 0 or self.layer_lr_decay != 1 or self.lowest_lr_scale != 1


@dataclass(frozen=True)
class Assignment:
    """A rule and the place that one of its layer groups has in it.

    Attributes:
        rule: that took the parameter.
        rank: of the layer group among those that the rule took, from 0 at the top.
        count: how many layer groups the rule took.
    """

    rule: Rule
    rank: int = 0
    count: int = 1

    @property
    def depth(self) -> float:
        """0 for the topmost of the rule's layer groups, 1 for the lowest."""
        return self.rank / (self.count - 1) if self.count > 1 else 0.0

    @property
    def lr_scale(self) -> float:
        """Multiplies the optimizer's learning rate."""
        fall: float = self.rule.layer_lr_decay**self.rank * self.rule.lowest_lr_scale**self.depth
        return self.rule.lr_scale * fall


@dataclass(frozen=True)
class PlateauCriterion:
    """When the plan takes a score to have stopped improving.

    Attributes:
        monitor: a logged score.
        mode: `max` or `min`.
        patience: validations without improvement.
        min_delta: what counts as improvement.
        restore_best: go on from the best weights since the last plateau, and not from the latest ones.
    """

    monitor: str = "val/iou"
    mode: str = "max"
    patience: int = 3
    min_delta: float = 0.0
    restore_best: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise PlanError(f"tuning.plateau.mode={self.mode}: choose 'max' or 'min'.")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise PlanError(f"tuning.plateau.patience={self.patience}: expected 1 validation or more.")
        if not (isinstance(self.min_delta, int | float) and self.min_delta >= 0):
            raise PlanError(f"tuning.plateau.min_delta={self.min_delta}: expected 0 or more.")


@dataclass(frozen=True)
class Plan:
    """An ordered list of rules: what trains, when, and how fast.

    Attributes:
        rules: the first that matches a parameter takes it.
        layers: `stages` or `blocks`, the layer groups that slices and depth count in.
        warmup: of layer groups that begin to train later: optimizer steps, or a share of all steps when below 1.
        restart_schedule: the learning-rate schedule begins anew whenever what trains changes.
        phase_lr: factor of all learning rates in each phase; the last one holds for all that follow.
        plateau: what the moment `plateau` means.
    """

    rules: tuple[Rule, ...] = (Rule("."),)
    layers: str = "stages"
    warmup: float = 0
    restart_schedule: bool = False
    phase_lr: tuple[float, ...] = (1.0,)
    plateau: PlateauCriterion = field(default_factory=PlateauCriterion)

    def __post_init__(self) -> None:
        if self.layers not in ("stages", "blocks"):
            raise PlanError(f"tuning.layers={self.layers}: choose 'stages' or 'blocks'.")
        numbers = (self.warmup, *self.phase_lr)
        if not all(isinstance(number, int | float) for number in numbers):
            raise PlanError(f"tuning.warmup={self.warmup}, tuning.phase_lr={list(self.phase_lr)}: expected numbers.")
        if not self.warmup >= 0:
            raise PlanError(f"tuning.warmup={self.warmup}: expected 0 or more steps, or a share of all below 1.")
        if not self.phase_lr or any(not factor > 0 for factor in self.phase_lr):
            raise PlanError(f"tuning.phase_lr={list(self.phase_lr)}: expected factors above 0, such as [1.0, 0.5].")

    def assign(self, places: Mapping[str, ParameterInfo]) -> dict[str, Assignment]:
        """The rule that takes each parameter.

        Args:
            places: of the parameters, by name.

        Raises:
            PlanError: a parameter that no rule takes, or a rule that takes none.

        >>> from finetune.tuning.parameter_info import parameter_infos
        >>> from torch import zeros
        >>> places = parameter_infos({"backbone.stem": zeros(1), "head.0": zeros(1)})
        >>> assigned = Plan((Rule("backbone", train=False), Rule("head"))).assign(places)
        >>> {name: assignment.rule.train for name, assignment in assigned.items()}
        {'backbone.stem': False, 'head.0': True}
        """
        selectors = [Selector(rule.match) for rule in self.rules]
        first = {
            name: next((i for i, selector in enumerate(selectors) if selector.takes(name, place)), None)
            for name, place in places.items()
        }
        taken = {name: index for name, index in first.items() if index is not None}
        self._check_cover(first, taken)
        layers = {
            index: sorted({places[name].layer for name, taker in taken.items() if taker == index}, reverse=True)
            for index in set(taken.values())
        }
        return {
            name: Assignment(self.rules[index], layers[index].index(places[name].layer), len(layers[index]))
            for name, index in taken.items()
        }

    def _check_cover(self, parameters: Mapping[str, int | None], taken: Mapping[str, int]) -> None:
        matches = [rule.match for rule in self.rules]
        if uncovered := [name for name in parameters if name not in taken]:
            raise PlanError(
                f"no tuning rule covers {len(uncovered)} parameters ({', '.join(uncovered[:3])}, ...). "
                f"The rules match {matches}; end the list with one that matches '.', which takes the rest."
            )
        if idle := [match for index, match in enumerate(matches) if index not in taken.values()]:
            parts = sorted({name.split(".")[0] for name in taken})
            raise PlanError(
                f"tuning rules {idle} take no parameter that an earlier rule has left. "
                f"The model's parts are {parts}; correct the name or the order, or remove the rule."
            )
