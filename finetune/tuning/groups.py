"""Optimizer groups: fixed before the first step, each with its own learning rate and weight decay."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment


@dataclass(frozen=True)
class Group:
    """Parameters that share everything that an optimizer distinguishes.

    Attributes:
        name: rule, place and decay, such as `backbone:backbone[3]/decay`.
        label: the place alone: a layer group where the rule tells them apart, else a part of the model.
        assignment: the rule that holds for all of them.
        lr: peak learning rate.
        weight_decay: 0 for norms, biases, and what else should not decay.
        parameters: their full names.
    """

    name: str
    label: str
    assignment: Assignment
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]


def parameter_groups(
    places: Mapping[str, ParameterInfo],
    assigned: Mapping[str, Assignment],
    lr: float,
    weight_decay: float,
    no_weight_decay: Collection[str] = (),
) -> list[Group]:
    """One group for each rule, part of the model, layer group if the rule varies with depth, and decay or none.

    Frozen parameters are in a group too: without a gradient they cost no optimizer state, and unfreezing them later
    changes no group. Norms and biases do not decay.

    Args:
        places: of the parameters, by name.
        assigned: name -> the rule that takes it.
        lr: the optimizer's learning rate, before each rule's scale.
        weight_decay: for kernels and matrices whose rule has none of its own.
        no_weight_decay: names of further parameters that do not decay.

    Returns:
        Groups in the order of their first parameters.
    """
    members: dict[tuple[Assignment, str, bool], list[str]] = {}
    for name, place in places.items():
        assignment = assigned[name]
        # without a difference between layer groups, fewer and larger groups make the optimizer's step faster
        deep = assignment.rule.varies_with_depth
        decays = place.ndim > 1 and not name.endswith(".bias") and name not in no_weight_decay
        key = (assignment if deep else Assignment(assignment.rule), place.label if deep else place.part, decays)
        members.setdefault(key, []).append(name)
    labels = _labels(members, places)
    groups = []
    for (assignment, part, decays), names in members.items():
        decay = weight_decay if assignment.rule.weight_decay is None else assignment.rule.weight_decay
        label = labels[assignment, part]
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


def _labels(
    members: Mapping[tuple[Assignment, str, bool], Sequence[str]], places: Mapping[str, ParameterInfo]
) -> dict[tuple[Assignment, str], str]:
    """A label for each rule and place; with the layer groups or the rule where the place alone would not tell."""
    layers: dict[tuple[Assignment, str], set[int]] = {}
    for (assignment, part, _), names in members.items():
        layers.setdefault((assignment, part), set()).update(places[name].layer for name in names)
    count = next(iter(places.values())).layers if places else 0
    labels = {key: _span(key[1], found, count) for key, found in layers.items()}
    said = list(labels.values())
    return {key: label if said.count(label) == 1 else f"{label} ({key[0].rule.match})" for key, label in labels.items()}


def _span(part: str, layers: set[int], count: int) -> str:
    """The place with its layer groups, where it is a contiguous piece of the backbone.

    >>> _span("backbone", {2, 3}, 5), _span("backbone", {0, 1, 2}, 3), _span("backbone", {4}, 5), _span("head", {5}, 5)
    ('backbone[2:4]', 'backbone', 'backbone[4]', 'head')
    """
    first, stop = min(layers), max(layers) + 1
    if part != "backbone" or not count or len(layers) == count or len(layers) < stop - first:
        return part
    return f"{part}[{first}]" if stop == first + 1 else f"{part}[{first}:{stop}]"
