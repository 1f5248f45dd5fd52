"""Readers of a timm model: its feature maps, optionally with prefix tokens or max-pooling indices."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

# returns maps by their index among the model's intermediate features, and a list of further tensors
Reader = Callable[[Any, Tensor, Sequence[int]], tuple[dict[int, Tensor], list[Tensor]]]


def read_maps(model: Any, images: Tensor, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Return the feature maps (B, C, h, w), and no further tensors."""
    maps = model.forward_intermediates(
        images, indices=list(indices), norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return dict(zip(indices, maps, strict=True)), []


def read_tokens(model: Any, images: Tensor, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Return the feature maps (B, C, h, w), and the class and register tokens (B, tokens, C) of each."""
    pairs = model.forward_intermediates(
        images,
        indices=list(indices),
        return_prefix_tokens=True,
        norm=False,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return {index: pair[0] for index, pair in zip(indices, pairs, strict=True)}, [pair[1] for pair in pairs]


def read_pools(model: Any, images: Tensor, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Return the feature maps (B, C, h, w) of a VGG, and the int64 indices of each max-pooling, fine to coarse."""
    x, maps, pooling_indices = images, {}, []
    map_of_layer = {layer: index for index, layer in enumerate(model.feature_ends)}
    for number, layer in enumerate(model.features):
        if isinstance(layer, nn.MaxPool2d):
            x, maxima = F.max_pool2d_with_indices(x, [2, 2], [2, 2])
            pooling_indices.append(maxima)
        else:
            x = layer(x)
        if map_of_layer.get(number) in indices:
            maps[map_of_layer[number]] = x
    return maps, pooling_indices


def num_prefix_tokens(model: Any) -> int:
    """Return the number of class and register tokens; 0 if the model has none or does not return them."""
    returns_tokens = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    return int(getattr(model, "num_prefix_tokens", 0)) if returns_tokens else 0


def pooled_channels(model: Any) -> tuple[int, ...]:
    """Return the channels of the maps that a VGG pools, fine to coarse; none for others, whose poolings overlap."""
    if not hasattr(model, "feature_ends"):
        return ()
    return tuple(int(model.feature_info[i]["num_chs"]) for i in range(len(model.feature_ends) - 1))
