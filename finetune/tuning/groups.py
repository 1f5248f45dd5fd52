"""Optimizer groups: fixed before the first step, each with its own learning rate and weight decay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from finetune.tuning.layout import Place
from finetune.tuning.plan import Assignment


@dataclass(frozen=True)
class Group:
    """Parameters that share everything that an optimizer distinguishes.

    Attributes:
        name: rule, place and decay, such as `backbone:backbone[3]/decay`.
        label: the place alone: a layer group where the rule tells them apart, else a part of the model.
        assignment: the rule that holds for all of them.
        lr: peak learning rate.
        weight_decay: 0 for norms and biases.
        parameters: their full names.
    """

    name: str
    label: str
    assignment: Assignment
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]


def parameter_groups(
    places: Mapping[str, Place], assigned: Mapping[str, Assignment], lr: float, weight_decay: float
) -> list[Group]:
    """One group for each rule, part of the model, layer group if the rule varies with depth, and decay or none.

    Frozen parameters are in a group too: without a gradient they cost no optimizer state, and thawing them later
    changes no group. Vectors (norms and biases) do not decay.

    Args:
        places: of the parameters, by name.
        assigned: name -> the rule that takes it.
        lr: the optimizer's learning rate, before each rule's scale.
        weight_decay: for kernels and matrices whose rule has none of its own.

    Returns:
        Groups in the order of their first parameters.
    """
    members: dict[tuple[Assignment, str, bool], list[str]] = {}
    for name, place in places.items():
        assignment = assigned[name]
        # without a difference between layer groups, fewer and larger groups make the optimizer's step faster
        deep = assignment.rule.varies_with_depth
        key = (assignment if deep else Assignment(assignment.rule), place.label if deep else place.part, place.ndim > 1)
        members.setdefault(key, []).append(name)
    groups = []
    for (assignment, label, decays), names in members.items():
        decay = weight_decay if assignment.rule.weight_decay is None else assignment.rule.weight_decay
        name = f"{assignment.rule.match}:{label}/{'decay' if decays else 'no_decay'}"
        rate = lr * assignment.lr_scale
        groups.append(Group(name, label, assignment, rate, decay if decays else 0.0, tuple(names)))
    return groups


def optimizer_groups(groups: Sequence[Group], parameters: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """The groups as a torch optimizer takes them: dicts with `params`, `lr`, `weight_decay` and `name`."""
    return [
        {
            "params": [parameters[name] for name in group.parameters],
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
    ]
