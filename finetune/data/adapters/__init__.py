"""Transforms of other libraries; albumentations is imported only when its transform is built."""

from finetune.data.adapters.albumentations import AlbumentationsTransform
from finetune.data.adapters.torchvision import TorchvisionTransform

__all__ = ["AlbumentationsTransform", "TorchvisionTransform"]
