"""Tuning plan: an ordered list of rules over parameters; the first match wins and every parameter must match one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.io.messages import shortlist
from finetune.metrics.monitor import monitor_mode
from finetune.tuning.parameter_info import ParameterInfo, PlanError, Selector
from finetune.tuning.plateau_detector import PlateauDetector

# start or stop of a span: an epoch (int), a fraction of the training (0..1), "plateau" or "plateau:2" (the score
# has stopped improving for the first or second time), "never", or None for the end of the training
Milestone = int | float | str | None
NORMS = ("train", "eval", "adapt")


@dataclass(frozen=True)
class Rule:
    """How the parameters that match are trained.

    Attributes:
        match: selector of parameters, as in `Selector`.
        train: True for always, False for never, or a list of spans `[start, stop]`. A start or stop is an epoch (int),
            a fraction of the training (float), `plateau` (the monitored score has stopped improving; `plateau:2` for
            the second time), `never`, or None for the end. Outside its spans a parameter is frozen.
        stagger: the matched layer groups start one after the other, from the top down, over this many epochs (int) or
            this fraction of the training (float); with `plateau` each waits for one more plateau.
        lr_scale: factor of the optimizer's learning rate.
        layer_lr_decay: further factor of the learning rate from each layer group to the one below.
        lowest_lr_scale: factor of the learning rate of the lowest layer group; the factors of the groups between are
            spaced geometrically.
        weight_decay: weight decay instead of the optimizer's; None keeps the optimizer's. Norms and biases never decay.
        norms: mode of the matched batch norms. `train`: statistics are updated while the weights train. `eval`: the
            pretrained statistics are kept even while the weights train. `adapt`: statistics are updated even while the
            weights are frozen.
    """

    match: str
    train: bool | Sequence[Sequence[Milestone]] = True
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
            if value is not None and not (value > 0 if least == "more than 0" else value >= 0):  # also rejects NaN
                raise PlanError(f"tuning rule '{self.match}' has {name}={value}; it must be {least}.")
        if self.norms not in NORMS:
            raise PlanError(f"tuning rule '{self.match}' has norms={self.norms}; choose from {', '.join(NORMS)}.")
        if not (self.stagger == "plateau" or (isinstance(self.stagger, int | float) and self.stagger >= 0)):
            raise PlanError(
                f"tuning rule '{self.match}' has stagger={self.stagger}; expected epochs (3), a fraction of the "
                f"training (0.5) or 'plateau'."
            )
        if isinstance(self.train, bool):
            return
        spans = self.train if isinstance(self.train, list | tuple) else []
        if not spans or any(not isinstance(span, list | tuple) or len(span) != 2 for span in spans):
            raise PlanError(
                f"tuning rule '{self.match}' has train={self.train}; write true, false, or spans such as "
                f"[[0, 0.3], [0.8, null]]."
            )
        object.__setattr__(self, "train", tuple((start, stop) for start, stop in spans))  # lists are not hashable

    @property
    def spans(self) -> tuple[tuple[Milestone, Milestone], ...]:
        """Starts and stops of the spans in which the parameters train."""
        if isinstance(self.train, bool):
            return ((0, None),) if self.train else ()
        return tuple((start, stop) for start, stop in self.train)

    @property
    def never_trains(self) -> bool:
        """Whether the parameters are frozen for the whole training."""
        return all(start == "never" for start, _ in self.spans)

    @property
    def varies_with_depth(self) -> bool:
        """Whether the matched layer groups differ in their start or learning rate."""
        return self.stagger != 0 or self.layer_lr_decay != 1 or self.lowest_lr_scale != 1


@dataclass(frozen=True)
class Assignment:
    """A rule, and the position of one layer group among those that it matches.

    Attributes:
        rule: rule that matched the parameters of the layer group.
        rank: position of the layer group, 0 at the top.
        count: number of layer groups that the rule matches.
    """

    rule: Rule
    rank: int = 0
    count: int = 1

    @property
    def depth(self) -> float:
        """Relative depth: 0 for the topmost of the rule's layer groups, 1 for the lowest."""
        return self.rank / (self.count - 1) if self.count > 1 else 0.0

    @property
    def lr_scale(self) -> float:
        """Factor of the optimizer's learning rate."""
        by_depth: float = self.rule.layer_lr_decay**self.rank * self.rule.lowest_lr_scale**self.depth
        return self.rule.lr_scale * by_depth


@dataclass(frozen=True)
class PlateauCriterion:
    """The condition under which a score counts as having stopped improving.

    Attributes:
        monitor: name of a logged score.
        mode: `auto`, `max` or `min`; see `monitor_mode`.
        patience: number of validations without improvement that make a plateau.
        min_delta: smallest difference that counts as an improvement.
        restore_best: whether to continue after a plateau with the best weights since the previous one.
    """

    monitor: str = "val/iou"
    mode: str = "auto"
    patience: int = 3
    min_delta: float = 0.0
    restore_best: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "max", "min"):
            raise PlanError(f"tuning.plateau.mode={self.mode}: choose auto, max or min.")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise PlanError(f"tuning.plateau.patience={self.patience}: expected 1 validation or more.")
        if not (isinstance(self.min_delta, int | float) and self.min_delta >= 0):
            raise PlanError(f"tuning.plateau.min_delta={self.min_delta}: expected 0 or more.")

    def detector(self) -> PlateauDetector:
        """Return a new detector of such plateaus.

        Raises:
            ValueError: a direction that contradicts the score; see `monitor_mode`.
        """
        return PlateauDetector(self.patience, monitor_mode(self.monitor, self.mode), self.min_delta)


@dataclass(frozen=True)
class Plan:
    """An ordered list of rules that says what trains, when, and how fast.

    Attributes:
        rules: rules in order; the first that matches a parameter applies to it.
        layers: `stages` or `blocks`, the unit of the backbone's layer groups.
        warmup: warmup of layer groups that are unfrozen later, in optimizer steps, or as a fraction of all steps if
            below 1.
        restart_schedule: whether the learning-rate schedule restarts in each phase.
        phase_lr: factor of all learning rates in each phase; the last one also applies to all later phases.
        plateau: definition of `plateau` as a start or stop.
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
            raise PlanError(f"tuning.warmup={self.warmup}: expected 0 or more steps, or a fraction of all steps.")
        if not self.phase_lr or any(not factor > 0 for factor in self.phase_lr):
            raise PlanError(f"tuning.phase_lr={list(self.phase_lr)}: expected factors above 0, such as [1.0, 0.5].")

    def assign(self, infos: Mapping[str, ParameterInfo]) -> dict[str, Assignment]:
        """Return the rule of each parameter.

        Args:
            infos: description of each parameter, by name.

        Raises:
            PlanError: a parameter matches no rule, or a rule applies to no parameter.

        >>> from finetune.tuning.parameter_info import parameter_infos
        >>> from torch import zeros
        >>> infos = parameter_infos({"backbone.stem": zeros(1), "head.0": zeros(1)})
        >>> assigned = Plan((Rule("backbone", train=False), Rule("head"))).assign(infos)
        >>> {name: assignment.rule.train for name, assignment in assigned.items()}
        {'backbone.stem': False, 'head.0': True}
        """
        selectors = [Selector(rule.match) for rule in self.rules]
        first = {
            name: next((i for i, selector in enumerate(selectors) if selector.matches(name, info)), None)
            for name, info in infos.items()
        }
        matched = {name: index for name, index in first.items() if index is not None}
        self._check_coverage(infos, matched)
        layers = {
            index: sorted({infos[name].layer for name, other in matched.items() if other == index}, reverse=True)
            for index in set(matched.values())
        }
        return {
            name: Assignment(self.rules[index], layers[index].index(infos[name].layer), len(layers[index]))
            for name, index in matched.items()
        }

    def _check_coverage(self, parameters: Collection[str], matched: Mapping[str, int]) -> None:
        patterns = [rule.match for rule in self.rules]
        if uncovered := [name for name in parameters if name not in matched]:
            raise PlanError(
                f"no tuning rule matches {len(uncovered)} parameters ({shortlist(uncovered, 3)}). "
                f"The rules match {patterns}; end the list with '.', which matches everything else."
            )
        if unused := [pattern for index, pattern in enumerate(patterns) if index not in matched.values()]:
            parts = sorted({name.split(".")[0] for name in matched})
            raise PlanError(
                f"tuning rules {unused} match no parameter that an earlier rule has not matched already. "
                f"The model's parts are {parts}; correct the name or the order, or remove the rule."
            )
