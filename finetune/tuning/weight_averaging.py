"""Weight averaging over a training, and batch-norm statistics for the averaged weights."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class WeightAverage:
    """A running average of a model's weights in float32 (float64 for weights in float64).

    A parameter is averaged from the first step in which it trains. Until then its average equals the parameter, so
    frozen parameters need neither memory nor computation.

    Args:
        model: model, already on its device and in its dtype.
        values: averages to continue from, by name.
        updates: number of updates in these averages.

    Attributes:
        values: average of each parameter that has trained, by name.
        updates: number of updates so far.
    """

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor] | None = None, updates: int = 0) -> None:
        # a shared parameter is averaged under each of its names, as in the model's state_dict
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self.values = {name: value.to(self._parameters[name].device) for name, value in (values or {}).items()}
        self.updates = updates

    def track_new_parameters(self) -> None:
        """Start to average every parameter that trains now, from its current value; call it before a step."""
        for name, parameter in self._parameters.items():
            if parameter.requires_grad and name not in self.values:
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                self.values[name] = parameter.detach().to(dtype, copy=True)

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Move the averages towards the weights: `average += weight * (parameter - average)`."""
        averages = list(self.values.values())
        latest = [self._parameters[name].to(average.dtype) for name, average in self.values.items()]
        torch._foreach_lerp_(averages, latest, weight)  # few kernels for all parameters on a GPU
        self.updates += 1


def exponential_weight(decay: float, updates: int) -> float:
    """Return the weight of the newest values in an exponential average with a warmup of the decay.

    After t updates it is 1 - min(decay, (1 + t) / (10 + t)), so the average soon forgets the initial weights.

    >>> exponential_weight(0.999, 0), round(exponential_weight(0.999, 90), 3), round(exponential_weight(0.999, 9000), 4)
    (0.9, 0.09, 0.001)
    """
    return 1 - min(decay, (1 + updates) / (10 + updates))


def equal_weight(updates: int) -> float:
    """Return the weight of the newest values in an arithmetic mean, given the number of updates so far.

    >>> [equal_weight(updates) for updates in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """
    return 1 / (updates + 1)


@torch.no_grad()
def swap_weights(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write values into the model's parameters and buffers of these names, in place and in the model's dtype.

    Returns:
        Copies of the previous values, by name.
    """
    state = model.state_dict(keep_vars=True)
    previous = {name: state[name].detach().clone() for name in values}
    for name, value in values.items():
        state[name].copy_(value)
    return previous


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers that have running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def statistics(norms: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """Return the running means, variances and batch counts of these layers, by their names in the model's state."""
    return {
        f"{name}.{key}": buffer for name, norm in norms.items() for key, buffer in norm.named_buffers(recurse=False)
    }


@contextmanager
def fresh_statistics(model: nn.Module, norms: Collection[_BatchNorm]) -> Iterator[None]:
    """Recompute the statistics of these batch norms from the batches that the model receives inside the context.

    Statistics are means over all batches, with equal weights. All other modules are in eval mode in the meantime,
    because dropout would change the variance that later layers see. A norm that sees no batch, such as one of an
    auxiliary head, keeps its statistics.

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, as in `torch.optim.swa_utils.update_bn`
    """
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None averages over all batches
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for norm, buffers in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:
                for buffer, value in zip(norm.buffers(), buffers, strict=True):
                    buffer.copy_(value)


def check_resumable(checkpoint: Mapping[str, Any], callbacks: Collection[str]) -> None:
    """Raise ValueError if a checkpoint holds averaged weights and their callback is missing.

    The `state_dict` of such a checkpoint holds the averaged weights; its entry `averaging` holds the trained weights
    and the state key of the callback that needs both to resume.

    Args:
        checkpoint: checkpoint to resume from.
        callbacks: state keys of the trainer's callbacks.
    """
    key = checkpoint.get("averaging", {}).get("callback")
    if key is not None and key not in callbacks:
        raise ValueError(
            f"the checkpoint was trained with the callback {key}: its state_dict holds averaged weights, and only "
            f"{key} can resume from it. Set average={key.lower()} as in the training that wrote it, or "
            f"start a new training from its weights."
        )
