r"""Low-rank adapters (LoRA) on the linear and convolution layers of any network.

An adapter is a parametrization of a layer's weight: the layer stays of its own kind, computes its own way (padded,
grouped, with its weight standardised), and reads a weight that is the pretrained one plus a low-rank update. Which
parameters train is for the tuning plan to say; `ADAPTER` tells the adapters from the rest:

    rules: [{match: 'parametrizations\.weight\.0\.'}, {match: backbone, train: false}, {match: .}]

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetune.io.messages import shortlist

if TYPE_CHECKING:
    pass  # which imports this file

ADAPTER = r"parametrizations\.weight\.0\."  # found in the full name of every tensor of an adapter
Layer = nn.Linear | nn.Conv2d


class LowRank(nn.Module):
    """A weight plus `scale * up @ down`, to be registered as a parametrization; zero at first, as `up` is.

    The weight (out, in / groups, height, width) is read as the matrix (out, height * width * in / groups), so the
    update is a mix, of its own for each output channel, of `rank` kernels that all groups share. A depthwise layer
    thus learns `rank` kernels for all its channels, where an adapter for each group would outgrow the group.

    Args:
        weight: of the layer; gives shape, type and device.
        rank: kernels to mix.
        alpha: the scale is alpha / rank, so that layers with a smaller rank change as fast as the others.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))  # saved: the adapter means nothing without it

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, in shape, type and memory format of the given one."""
        # not in the type of an autocast, or a merge outside of it would come to another weight
        with torch.autocast(weight.device.type, enabled=False):
            update = (self.up * self.scale) @ self.down
        # channels last, as models are trained: no copy is needed to add it, nor for its gradient
        kernels = update.view(weight.shape[0], *weight.shape[2:], weight.shape[1])
        return weight + kernels.movedim(-1, 1)


def add_lora(model: nn.Module, rank: int = 8, alpha: float = 16.0, targets: str | None = None) -> list[str]:
    """Put an adapter on every linear and 2-D convolution layer, which changes no output yet.

    The rank of a layer is lowered until the adapter has fewer parameters than the layer; layers where even rank 1
    has not (one output, or one value for each) are left alone. So are those that a `Backbone` or `Segmenter` does not
    use, such as the classifier. Nothing is frozen here. Adapted models are kept by their `state_dict`; torch does not
    pickle them whole.

    Args:
        model: all or part of a network, such as the backbone of a `Segmenter`.
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        targets: regular expression that is searched in the layers' names; None takes all.

    Returns:
        Names of the adapted layers, within `model`.

    Raises:
        ValueError: a rank that is no positive integer, an alpha that is not positive, targets that are no regular
            expression or match no layer, or a layer whose weight is parametrized already.

    >>> add_lora(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)), targets="^0$")
    ['0']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank}: expected a whole number of 1 or more; 4 to 16 are usual.")
    if not 0 < alpha < math.inf:  # NaN is refused too
        raise ValueError(f"alpha={alpha}: the scale of the update is a positive number; twice the rank is usual.")
    layers = _choose(_adaptable(model), targets)
    for layer in layers.values():
        adapter = LowRank(layer.weight, min(rank, _largest_rank(layer.weight)), alpha)
        parametrize.register_parametrization(layer, "weight", adapter)
    return list(layers)


def _adaptable(model: nn.Module) -> dict[str, Layer]:
    """Name -> layer on which an adapter would do something and be smaller than the layer."""
    find_unused: Callable[[], set[str]] = getattr(model, "unused_parameters", set)
    unused = find_unused()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Layer) and _largest_rank(module.weight) and f"{name}.weight" not in unused
    }


def _largest_rank(weight: Tensor) -> int:
    """The largest rank at which an adapter has fewer parameters than the weight; 0 where none has.

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
        raise ValueError(f"targets='{targets}' is no regular expression: {error}.") from error
    if not chosen:
        raise ValueError(
            f"targets={targets!r} matches none of the {len(layers)} layers that can have an adapter "
            f"({shortlist(layers, 4)}). Correct it, or leave it out to adapt them all."
        )
    if taken := [name for name, layer in chosen.items() if parametrize.is_parametrized(layer)]:
        raise ValueError(
            f"{len(taken)} layers have a parametrized weight already ({shortlist(taken, 4)}). Fold adapters in with "
            f"merge_lora first, or choose targets that leave these layers out."
        )
    return chosen


def merge_lora(model: nn.Module) -> None:
    """Fold the adapters in, which leaves plain layers with the names and the order they had before `add_lora`.

    The outputs stay the same to the last bit, on the device and at the matmul precision of the adapted model. Merged
    weights are new parameters, which an optimizer made before does not know.

    Raises:
        ValueError: no layer of the model has an adapter.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapters to merge; add_lora puts them on, and one merge takes all off.")
    for layer in layers:
        _merge(layer)


def adapted_layers(model: nn.Module) -> list[Any]:
    """Return the layers that have adapters."""
    names = [name for name, module in model.named_modules() if isinstance(module, LowRank)]
    return [model.get_submodule(name.removesuffix("parametrizations.weight.0").rstrip(".")) for name in names]


@torch.no_grad()
def _merge(layer: Any) -> None:
    # torch's remove_parametrizations would take `weight` off the class, which deep copies of the layer share
    weight, trains = layer.weight, layer.parametrizations.weight.original.requires_grad
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    others = dict(layer._parameters)
    layer._parameters.clear()
    layer.weight = nn.Parameter(weight, trains)  # first, as it was: optimizers count parameters by their order
    layer._parameters.update(others)
