"""Averages of weights over a training, and batch-norm statistics that suit them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class WeightAverage:
    """A running average of a model's weights, kept beside it in float32 (float64 for weights in float64).

    A parameter is averaged from the moment it first trains. Until then its average is the parameter itself, so for
    what stays frozen nothing is kept and nothing computed.

    Args:
        model: on its device, in its type.
        values: averages to go on with, by name.
        updates: how many of them there were.

    Attributes:
        values: name -> average.
        updates: how many there have been.
    """

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor] | None = None, updates: int = 0) -> None:
        # a shared parameter has its average under each of its names, as in the model's state
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self.values = {name: value.to(self._parameters[name].device) for name, value in (values or {}).items()}
        self.updates = updates

    def track_new_parameters(self) -> None:
        """Begin to average all that trains now; to be called before a step, with the values that it starts from."""
        for name, parameter in self._parameters.items():
            if parameter.requires_grad and name not in self.values:
                kept = torch.promote_types(parameter.dtype, torch.float32)
                self.values[name] = parameter.detach().to(kept, copy=True)

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Move the averages towards the weights: `average += weight * (parameter - average)`."""
        averages = list(self.values.values())
        latest = [self._parameters[name].to(average.dtype) for name, average in self.values.items()]
        torch._foreach_lerp_(averages, latest, weight)  # one kernel for all of them on a GPU
        self.updates += 1


def exponential_weight(decay: float, updates: int) -> float:
    """What the newest weights count in an exponential average whose memory grows with the training.

    It is 1 - min(decay, (1 + t) / (10 + t)) after t updates: the weights of the beginning are soon forgotten.

    >>> exponential_weight(0.999, 0), round(exponential_weight(0.999, 90), 3), round(exponential_weight(0.999, 9000), 4)
    (0.9, 0.09, 0.001)
    """
    return 1 - min(decay, (1 + updates) / (10 + updates))


def equal_weight(updates: int) -> float:
    """What the newest weights count in the plain mean of all, after so many updates.

    >>> [equal_weight(updates) for updates in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """
    return 1 / (updates + 1)


@torch.no_grad()
def swap_weights(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write values into the model's parameters and buffers of these names, in place and in the model's type.

    Returns:
        copies of what was there before, by name.
    """
    state = model.state_dict(keep_vars=True)
    before = {name: state[name].detach().clone() for name in values}
    for name, value in values.items():
        state[name].copy_(value)
    return before


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch-norm layers that have running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def statistics(norms: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """Running means, variances and counts of these layers, by their names in the model's state."""
    return {
        f"{name}.{key}": buffer for name, norm in norms.items() for key, buffer in norm.named_buffers(recurse=False)
    }


@contextmanager
def fresh_statistics(model: nn.Module, norms: Collection[_BatchNorm]) -> Iterator[None]:
    """Inside, these batch norms gather their statistics anew from what the model is given.

    They end as the means over all batches, each batch counting alike. All else is in eval mode meanwhile, because
    dropout would give the layers behind it another variance than they meet later.

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, as in `torch.optim.swa_utils.update_bn`
    """
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None is the mean of all
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def check_resumable(checkpoint: Mapping[str, Any], callbacks: Collection[str]) -> None:
    """Refuse to take averaged weights for those that train.

    A checkpoint with averages has the averaged weights in its `state_dict`, and under `averaging` the ones that train
    and the key of the callback that goes on with both.

    Args:
        checkpoint: about to be resumed.
        callbacks: state keys of the trainer's callbacks.

    Raises:
        ValueError: the callback is not among them.
    """
    key = checkpoint.get("averaging", {}).get("callback")
    if key is not None and key not in callbacks:
        raise ValueError(
            f"the checkpoint was trained with the callback {key}: its state_dict holds averaged weights, and only "
            f"{key} can go on from it. Set average={key.lower()} as in the training that wrote it, or "
            f"start a new training from its weights."
        )
