"""The layers of a backbone in order, from stem to top: the unit of partial unfreezing and layer-wise LR decay."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

# used by all blocks of a ViT, from the first on; timm's matcher does not know it and would put it last
SHARED_PREFIX = "shared_rel_pos."


def layer_groups(model: nn.Module, used: Collection[str], fine: bool = False) -> list[list[str]]:
    """Return the names of the used parameters in groups, in the order of the forward pass.

    The order is that of timm's `group_matcher`, or of the feature maps if the model has none. Groups without a kernel,
    such as a norm that timm counts as a layer of its own, join the previous group.

    Args:
        model: a full timm model.
        used: names of the parameters to order.
        fine: one group per block instead of one per stage; models without a `group_matcher` have stages only.

    Returns:
        Each used parameter exactly once.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in used}
    matcher = _matcher(model, fine)
    if matcher is None:
        groups = _by_feature_map(list(parameters), [str(entry["module"]) for entry in _feature_info(model)])
    else:
        numbered = group_with_matcher(iter(parameters.items()), matcher)
        shared = [name for name in parameters if name.startswith(SHARED_PREFIX)]
        groups = [[name for name in numbered[number] if name not in shared] for number in sorted(numbered)]
        groups[0] += shared
    return _merge_without_kernel(groups, parameters)


def _matcher(model: Any, fine: bool) -> Any:
    if not hasattr(model, "group_matcher"):
        return None
    try:
        return model.group_matcher(coarse=not fine)
    except AssertionError:  # families whose blocks are their stages refuse coarse=True
        return model.group_matcher(coarse=False)


def _by_feature_map(names: Sequence[str], modules: Sequence[str]) -> list[list[str]]:
    """Split the names, in order of registration, after the last parameter of each module that ends a feature map.

    >>> _by_feature_map(["conv.weight", "a.0.weight", "a.1.weight", "b.weight"], ["conv", "a.0", "b"])
    [['conv.weight'], ['a.0.weight'], ['a.1.weight', 'b.weight']]
    """
    ends = {max((i for i, name in enumerate(names) if name.startswith(f"{module}.")), default=-1) for module in modules}
    cuts = sorted({end + 1 for end in ends} | {0, len(names)})
    return [list(names[first:last]) for first, last in pairwise(cuts)]


def _merge_without_kernel(groups: Sequence[list[str]], parameters: Mapping[str, Tensor]) -> list[list[str]]:
    merged: list[list[str]] = []
    for group in groups:
        if merged and not any(parameters[name].ndim > 1 for name in group):
            merged[-1].extend(group)
        elif group:
            merged.append(group)
    return merged


def _feature_info(model: Any) -> list[dict[str, Any]]:
    info = model.feature_info
    return list(info.info if hasattr(info, "info") else info)
