"""How the feature maps of a timm model are read, and what some heads want besides."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

# maps by their index among the model's intermediate features, and what comes with them
Reader = Callable[[Any, Tensor, Sequence[int]], tuple[dict[int, Tensor], list[Tensor]]]


def read_maps(model: Any, images: Tensor, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Maps (B, C, h, w), and nothing else."""
    maps = model.forward_intermediates(
        images, indices=list(indices), norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return dict(zip(indices, maps, strict=True)), []


def read_tokens(model: Any, images: Tensor, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Maps (B, C, h, w), and the class and register tokens (B, tokens, C) that go with each."""
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
    """Maps (B, C, h, w) of a VGG, and the indices of the maxima in each of its poolings, int64, fine to coarse."""
    x, maps, pools = images, {}, []
    ends = {end: index for index, end in enumerate(model.feature_ends)}
    for place, layer in enumerate(model.features):
        if isinstance(layer, nn.MaxPool2d):
            x, found = F.max_pool2d_with_indices(x, [2, 2], [2, 2])
            pools.append(found)
        else:
            x = layer(x)
        if ends.get(place) in indices:
            maps[ends[place]] = x
    return maps, pools


def token_count(model: Any) -> int:
    """Class and register tokens beside the maps; 0 where the model has none or does not hand them out."""
    handed_out = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    return int(getattr(model, "num_prefix_tokens", 0)) if handed_out else 0


def pooled_channels(model: Any) -> tuple[int, ...]:
    """Channels of the maps that a VGG pools, fine to coarse; none for other models, whose poolings overlap."""
    if not hasattr(model, "feature_ends"):
        return ()
    return tuple(int(model.feature_info[i]["num_chs"]) for i in range(len(model.feature_ends) - 1))
