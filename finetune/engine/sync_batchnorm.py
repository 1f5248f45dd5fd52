"""Batch norms that see the images of all devices, for backbones of timm."""

from lightning.pytorch.plugins import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(LayerSync):
    """What `trainer.sync_batchnorm=true` does here: batch statistics are those of the batch of all GPUs.

    Lightning's own asks torch, which makes plain norms of all: timm's that have an activation in them would lose it.
    """

    def __init__(self) -> None:
        self._own: dict[str, _BatchNorm] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Put synchronized norms in the place of the model's own, with the same tensors."""
        named = model.named_modules(remove_duplicate=False)
        self._own = {name: module for name, module in named if isinstance(module, _BatchNorm)}
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the model's own norms back, with the tensors that the synchronized ones have."""
        for name, norm in self._own.items():
            synchronized, (parent, _, child) = model.get_submodule(name), name.rpartition(".")
            norm._parameters.update(synchronized._parameters)
            norm._buffers.update(synchronized._buffers)
            norm.training = synchronized.training
            model.get_submodule(parent).add_module(child, norm)
        self._own = {}
        return model
