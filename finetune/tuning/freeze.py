"""Freezing: gradients off and the whole subtree in eval mode, so that no weight and no statistic changes."""

from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment


def apply_trainability(model: nn.Module, trainable: Collection[str], norms: Mapping[str, str] | None = None) -> bool:
    """Set `requires_grad` of every parameter and the mode of every module.

    A module whose parameters are all frozen is put into eval mode with all its submodules: batch norm keeps its
    statistics, dropout and drop-path are off. All other modules are put into train mode. Call this function again
    after any call of `model.train()`.

    Args:
        model: module with parameters.
        trainable: full names of the parameters that train.
        norms: mode of individual batch norms, by the full name of their weight: `eval` keeps the statistics even while
            the norm trains, `adapt` updates them even while it is frozen.

    Returns:
        Whether this call froze or unfroze a parameter.
    """
    changed = False
    for name, parameter in model.named_parameters():
        trains = name in trainable
        changed |= parameter.requires_grad != trains
        parameter.requires_grad_(trains)
        if not trains:
            parameter.grad = None  # or the optimizer would keep applying the last gradient
    _set_modes(model)
    if norms:
        _set_norms(model, norms)
    return changed


def check_norms(model: nn.Module, assigned: Mapping[str, Assignment]) -> None:
    """Raise PlanError if a rule sets `norms` but matches no batch norm."""
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _NormBase)}
    setting_norms = {a.rule for a in assigned.values() if a.rule.norms != "train"}
    matching_norms = {assigned[name].rule for name in norms & assigned.keys()}
    for rule in setting_norms - matching_norms:
        raise PlanError(
            f"tuning rule '{rule.match}' has norms={rule.norms}, but matches no batch norm, and other norms have no "
            f"statistics. Set tuning.norms=train, or set norms in a rule that matches a batch norm."
        )


def _set_modes(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    module.training = True
    for child in module.children():
        _set_modes(child)


def _set_norms(model: nn.Module, norms: Mapping[str, str]) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            mode = norms.get(f"{name}.weight", "train")
            if mode != "train":
                module.training = mode == "adapt"
