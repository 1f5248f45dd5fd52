"""Optimizer groups: fixed before the first step, each with its own learning rate and weight decay."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate and weight decay.

    Attributes:
        name: rule, label and decay, such as `backbone:backbone[3]/decay`.
        label: a layer group if the rule treats layer groups differently, otherwise a part of the model.
        assignment: assignment shared by the parameters.
        lr: peak learning rate.
        weight_decay: 0 for norms, biases and other parameters that must not decay.
        parameters: full names of the parameters.
    """

    name: str
    label: str
    assignment: Assignment
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]


def parameter_groups(
    infos: Mapping[str, ParameterInfo],
    assigned: Mapping[str, Assignment],
    lr: float,
    weight_decay: float,
    no_weight_decay: Collection[str] = (),
) -> list[Group]:
    """Group the parameters by rule, part of the model, layer group (if the rule varies with depth), and decay.

    Frozen parameters are grouped too: without a gradient they need no optimizer state, and the groups do not change
    when they are unfrozen. Norms and biases do not decay.

    Args:
        infos: description of each parameter, by name.
        assigned: rule of each parameter, by name.
        lr: learning rate of the optimizer, before the scales of the rules.
        weight_decay: weight decay of kernels and matrices whose rule sets none.
        no_weight_decay: names of further parameters that do not decay.

    Returns:
        Groups in the order of their first parameters.
    """
    members: dict[tuple[Assignment, str, bool], list[str]] = {}
    for name, info in infos.items():
        assignment = assigned[name]
        # if layer groups do not differ, fewer and larger groups make the optimizer step faster
        by_layer = assignment.rule.varies_with_depth
        decays = info.ndim > 1 and not name.endswith(".bias") and name not in no_weight_decay
        key = (assignment if by_layer else Assignment(assignment.rule), info.label if by_layer else info.part, decays)
        members.setdefault(key, []).append(name)
    labels = _labels(members, infos)
    groups = []
    for (assignment, part, decays), names in members.items():
        decay = weight_decay if assignment.rule.weight_decay is None else assignment.rule.weight_decay
        label = labels[assignment, part]
        name = f"{assignment.rule.match}:{label}/{'decay' if decays else 'no_decay'}"
        rate = lr * assignment.lr_scale
        groups.append(Group(name, label, assignment, rate, decay if decays else 0.0, tuple(names)))
    return groups


def optimizer_groups(groups: Sequence[Group], parameters: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Return the groups as a torch optimizer expects them: dicts with `params`, `lr`, `weight_decay` and `name`."""
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
    members: Mapping[tuple[Assignment, str, bool], Sequence[str]], infos: Mapping[str, ParameterInfo]
) -> dict[tuple[Assignment, str], str]:
    """Return a label for each assignment and part: the part, with layer groups or the rule if others have it too."""
    layers: dict[tuple[Assignment, str], set[int]] = {}
    for (assignment, part, _), names in members.items():
        layers.setdefault((assignment, part), set()).update(infos[name].layer for name in names)
    count = next(iter(infos.values())).layers if infos else 0
    labels = {key: _layer_range(key[1], indices, count) for key, indices in layers.items()}
    counts = Counter(labels.values())
    return {key: label if counts[label] == 1 else f"{label} ({key[0].rule.match})" for key, label in labels.items()}


def _layer_range(part: str, layers: set[int], count: int) -> str:
    """Return the part, with its layer groups if they are a contiguous piece of the backbone.

    >>> _layer_range("backbone", {2, 3}, 5), _layer_range("backbone", {4}, 5)
    ('backbone[2:4]', 'backbone[4]')
    >>> _layer_range("backbone", {0, 1, 2}, 3), _layer_range("head", {5}, 5)
    ('backbone', 'head')
    """
    first, stop = min(layers), max(layers) + 1
    if part != "backbone" or not count or len(layers) == count or len(layers) < stop - first:
        return part
    return f"{part}[{first}]" if stop == first + 1 else f"{part}[{first}:{stop}]"
