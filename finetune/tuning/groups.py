"""Optimizer groups: fixed before the first step, each with its own learning rate and weight decay."""

from collections.abc import Mapping
from typing import Any

from torch.nn import Parameter

from finetune.tuning.plan import Rule


def parameter_groups(
    parameters: Mapping[str, Parameter], assigned: Mapping[str, Rule], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: one for each rule, part of the model, and decay or none.

    Frozen parameters are in a group too: without a gradient they cost no optimizer state, and thawing them later
    changes no group. Vectors (norms and biases) do not decay.

    Args:
        parameters: name -> parameter, of everything that a rule speaks of.
        assigned: name -> the rule that takes it.
        lr: the optimizer's learning rate, before each rule's scale.
        weight_decay: for kernels and matrices whose rule has none of its own.

    Returns:
        dicts with `params`, `lr`, `weight_decay` and `name`, in the order of the parameters.
    """
    groups: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        rule, part, decays = assigned[name], name.split(".")[0], parameter.ndim > 1
        decay = weight_decay if rule.weight_decay is None else rule.weight_decay
        group = groups.setdefault(
            (rule.match, part, decays),
            {
                "params": [],
                "lr": lr * rule.lr_scale,
                "weight_decay": decay if decays else 0.0,
                "name": f"{rule.match}:{part}/{'decay' if decays else 'no_decay'}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
