"""Batch norm over the images of all devices, for timm backbones."""

from lightning.pytorch.plugins import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(LayerSync):
    """The plugin behind `trainer.sync_batchnorm=true`: batch statistics over the batches of all GPUs.

    Lightning's own plugin calls torch, which replaces every norm by a plain one. The norms of timm that contain an
    activation would lose it.
    """

    def __init__(self) -> None:
        self._own: dict[str, _BatchNorm] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the norms by synchronized ones that share their tensors."""
        named = model.named_modules(remove_duplicate=False)
        self._own = {name: module for name, module in named if isinstance(module, _BatchNorm)}
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the original norms back, with the tensors of the synchronized ones."""
        for name, norm in self._own.items():
            synchronized, (parent, _, child) = model.get_submodule(name), name.rpartition(".")
            norm._parameters.update(synchronized._parameters)
            norm._buffers.update(synchronized._buffers)
            norm.training = synchronized.training
            model.get_submodule(parent).add_module(child, norm)
        self._own = {}
        return model
