"""Frozen means frozen: gradients off and the whole subtree in eval, so that no weight and no statistic moves."""

from collections.abc import Collection

from torch import nn


def apply_trainability(model: nn.Module, trainable: Collection[str]) -> None:
    """Set `requires_grad` and the mode of every part of the model.

    A module whose parameters are all frozen goes to eval with everything below it: batch norm keeps its statistics,
    dropout and drop-path are off. All other modules train. Call it again whenever something may have
    called `train()` on the model.

    Args:
        model: a module with parameters.
        trainable: full names of the parameters that train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    _set_modes(model)


def _set_modes(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    module.training = True
    for child in module.children():
        _set_modes(child)
