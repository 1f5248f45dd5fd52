"""Frozen means frozen: gradients off and the whole subtree in eval, so that no weight and no statistic moves."""

from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment


def apply_trainability(model: nn.Module, trainable: Collection[str], norms: Mapping[str, str] | None = None) -> bool:
    """Set `requires_grad` and the mode of every part of the model.

    A module whose parameters are all frozen goes to eval with everything below it: batch norm keeps its statistics,
    dropout and drop-path are off. All other modules train. Call it again whenever something may have
    called `train()` on the model.

    Args:
        model: a module with parameters.
        trainable: full names of the parameters that train.
        norms: full name of a norm's weight -> `eval`, to keep its statistics even while it trains, or `adapt`, to
            let them follow the data even while it is frozen.

    Returns:
        Whether a parameter was frozen or unfrozen by this call.
    """
    changed = False
    for name, parameter in model.named_parameters():
        trains = name in trainable
        changed |= parameter.requires_grad != trains
        parameter.requires_grad_(trains)
        if not trains:
            parameter.grad = None  # or the optimizer would go on with the last one
    _set_modes(model)
    if norms:
        _set_norms(model, norms)
    return changed


def check_norms(model: nn.Module, assigned: Mapping[str, Assignment]) -> None:
    """Raise a PlanError where a rule speaks of batch norms and takes none."""
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _NormBase)}
    said = {a.rule for a in assigned.values() if a.rule.norms != "train"}
    taken = {assigned[name].rule for name in norms & assigned.keys()}
    for rule in said - taken:
        raise PlanError(
            f"tuning rule '{rule.match}' has norms={rule.norms}, but takes no batch norm; other norms keep no "
            f"statistics. Set tuning.norms=train, or say it of a rule that takes one."
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
