"""Transforms of other libraries; each library is imported only when its transform is built."""

from finetune.data.adapters.albumentations import AlbumentationsTransform

__all__ = ["AlbumentationsTransform"]
