r"""Low-rank adapters (LoRA) on the linear and convolution layers of any network.

An adapter is a parametrization of a layer's weight: the layer keeps its class and its computation (padding, groups,
weight standardization), and its weight becomes the pretrained weight plus a low-rank update. The tuning plan decides
which parameters train; `ADAPTER` matches the adapters:

    rules: [{match: 'parametrizations\.weight\.0\.'}, {match: backbone, train: false}, {match: .}]

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetune.io.messages import shortlist

ADAPTER = r"parametrizations\.weight\.0\."  # matches the full name of every tensor of an adapter
Layer = nn.Linear | nn.Conv2d


class LowRank(nn.Module):
    """A parametrization that adds `scale * up @ down` to a weight; `up` starts at zero, so the update does too.

    The weight (out, in / groups, height, width) is treated as a matrix (out, height * width * in / groups). Each output
    channel thus has its own mix of `rank` kernels that all groups share. A depthwise layer learns `rank` kernels for
    all its channels; one adapter per group would be larger than the group.

    Args:
        weight: weight of the layer, for shape, dtype and device.
        rank: number of kernels to mix.
        alpha: the scale is alpha / rank, so that layers of a smaller rank change as fast as the others.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))  # part of the state dict: the adapter needs it

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, in the shape, dtype and memory format of the given one."""
        # not in the dtype of autocast, or a merge without autocast would compute a different weight
        with torch.autocast(weight.device.type, enabled=False):
            update = (self.up * self.scale) @ self.down
        # channels last, as in training: neither the addition nor its gradient needs a copy
        kernels = update.view(weight.shape[0], *weight.shape[2:], weight.shape[1])
        return weight + kernels.movedim(-1, 1)


def add_lora(model: nn.Module, rank: int = 8, alpha: float = 16.0, targets: str | None = None) -> list[str]:
    """Add an adapter to every linear and 2-D convolution layer; the outputs stay the same until it is trained.

    The rank of a layer is lowered until the adapter has fewer parameters than the layer. Layers for which rank 1 is too
    large (one output, or one value per output) get no adapter, nor do layers that a `Backbone` or `Segmenter` does not
    use, such as the classifier. Nothing is frozen. Save adapted models by their `state_dict`: torch cannot pickle them.

    Args:
        model: all or part of a network, such as the backbone of a `Segmenter`.
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        targets: regular expression to search in the layers' names; None for all layers.

    Returns:
        Names of the adapted layers, within `model`.

    Raises:
        ValueError: if rank is not a positive integer, alpha is not positive, targets is not a regular expression or
            matches no layer, or the weight of a layer is parametrized already.

    >>> add_lora(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)), targets="^0$")
    ['0']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank}: expected a whole number of 1 or more; 4 to 16 are common.")
    if not 0 < alpha < math.inf:  # NaN is refused too
        raise ValueError(f"alpha={alpha}: expected a positive number; twice the rank is common.")
    layers = _choose(_adaptable(model), targets)
    for layer in layers.values():
        adapter = LowRank(layer.weight, min(rank, _largest_rank(layer.weight)), alpha)
        parametrize.register_parametrization(layer, "weight", adapter)
    return list(layers)


def _adaptable(model: nn.Module) -> dict[str, Layer]:
    """Return, by name, the layers that are used and larger than an adapter of rank 1."""
    find_unused: Callable[[], set[str]] = getattr(model, "unused_parameters", set)
    unused = find_unused()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Layer) and _largest_rank(module.weight) and f"{name}.weight" not in unused
    }


def _largest_rank(weight: Tensor) -> int:
    """Return the largest rank at which an adapter has fewer parameters than the weight; 0 if there is none.

    >>> _largest_rank(torch.empty(128, 4, 3, 3)), _largest_rank(torch.empty(32, 1, 3, 3))
    (28, 7)
    >>> _largest_rank(torch.empty(1, 512)), _largest_rank(torch.empty(64, 1, 1, 1))
    (0, 0)
    """
    rows, columns = weight.shape[0], weight[0].numel()
    return (rows * columns - 1) // (rows + columns)


def _choose(layers: dict[str, Layer], targets: str | None) -> dict[str, Layer]:
    try:
        chosen = {name: layer for name, layer in layers.items() if targets is None or re.search(targets, name)}
    except re.error as error:
        raise ValueError(f"targets='{targets}' is not a regular expression: {error}.") from error
    if not chosen:
        raise ValueError(
            f"targets={targets!r} matches none of the {len(layers)} layers that can have an adapter "
            f"({shortlist(layers, 4)}). Correct it, or omit it to adapt all of them."
        )
    if parametrized := [name for name, layer in chosen.items() if parametrize.is_parametrized(layer)]:
        raise ValueError(
            f"{len(parametrized)} layers have a parametrized weight already ({shortlist(parametrized, 4)}). Merge "
            f"their adapters with merge_lora first, or choose targets that exclude these layers."
        )
    return chosen


def merge_lora(model: nn.Module) -> None:
    """Merge the adapters into the weights; layers and parameter names are then as before `add_lora`.

    The outputs stay bit-identical, on the device and at the matmul precision of the adapted model. Merged weights are
    new parameters: an optimizer created before does not update them.

    Raises:
        ValueError: if no layer of the model has an adapter.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapters to merge. Call add_lora first; merge_lora removes all.")
    for layer in layers:
        _merge(layer)


def adapted_layers(model: nn.Module) -> list[Any]:
    """Return the layers that have adapters."""
    names = [name for name, module in model.named_modules() if isinstance(module, LowRank)]
    return [model.get_submodule(name.removesuffix("parametrizations.weight.0").rstrip(".")) for name in names]


@torch.no_grad()
def _merge(layer: Any) -> None:
    # torch's remove_parametrizations would delete `weight` from the class, which deep copies of the layer share
    weight, requires_grad = layer.weight, layer.parametrizations.weight.original.requires_grad
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    others = dict(layer._parameters)
    layer._parameters.clear()
    layer.weight = nn.Parameter(weight, requires_grad)  # first again: optimizers number parameters by their order
    layer._parameters.update(others)
