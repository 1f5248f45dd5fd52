"""The choice of a backbone's feature maps, and the pyramid level that each one fills."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

STRIDES = (2, 4, 8, 16, 32)
COARSEST = STRIDES[-1]
OUTPUT_STRIDES = (8, 16, 32)  # that a user may set
REQUIRED_STRIDES = (4, 8, 16, 32)  # every pyramid has these levels


@dataclass(frozen=True)
class Level:
    """A pyramid level and the feature map that fills it.

    Attributes:
        stride: stride of the level, one of `STRIDES`.
        index: index of the map among the backbone's intermediate features.
        channels: channels of the map.
        native_stride: stride of the map as the backbone declares it; approximate if the map is irregular.
        target_stride: stride of the map in the pyramid: the level's, or a finer one for a head made for a dilated
            backbone.
    """

    stride: int
    index: int
    channels: int
    native_stride: int
    target_stride: int


def feature_levels(
    info: Sequence[Mapping[str, Any]], output_stride: int = COARSEST, dilated: bool = True
) -> list[Level]:
    """Return the maps that form a pyramid, fine to coarse.

    The deepest map of each stride fills the level of the nearest power of two. If there are fewer than three different
    strides, as in a plain ViT, four maps in equal steps of depth fill the levels 4 to 32, the shallowest the finest;
    none becomes coarser than the output stride, as in a dilated backbone.
    If a backbone goes beyond stride 32, its coarsest map fills level 32 and the others move with it, unless four finer
    levels are filled already.

    Args:
        info: timm's `feature_info`: `num_chs` and `reduction` of each map, and the `module` that returns it.
        output_stride: output stride that the head is made for; 32 for most.
        dilated: whether the backbone is dilated, so that several of its last maps have this stride.

    >>> info = [{"num_chs": 8, "reduction": stride} for stride in (16, 32, 64)]
    >>> [level.stride for level in feature_levels(info)]
    [8, 16, 32]
    """
    native = [int(entry["reduction"]) for entry in info]
    undilated = _undilated(native, output_stride) if dilated else native
    if is_flat := len(set(undilated)) < 3:
        order = _by_depth(info)
        chosen = [order[step] for step in _in_equal_steps(len(info))]
        maps = dict(zip(REQUIRED_STRIDES[-len(chosen) :], chosen, strict=True))
    else:
        maps = {level: i for i, stride in enumerate(undilated) if (level := _level(stride, undilated)) in STRIDES}
    targets = {level: native[i] if native[i] < undilated[i] else level for level, i in maps.items()}
    if is_flat:
        targets = {level: min(level, output_stride) for level in maps}
    return [Level(level, i, int(info[i]["num_chs"]), native[i], targets[level]) for level, i in maps.items()]


def fill_missing_levels(levels: Sequence[Level], output_stride: int = COARSEST) -> list[Level]:
    """Return the levels, with those of stride 4 to 32 that are missing filled by the nearest map.

    Args:
        levels: existing levels, fine to coarse.
        output_stride: output stride that the head is made for; a map of this stride or a coarser one is not shrunk to
            fill a missing level.

    >>> levels = fill_missing_levels([Level(8, 0, 64, 8, 8), Level(16, 1, 64, 16, 16)])
    >>> [(level.stride, level.native_stride) for level in levels]
    [(4, 8), (8, 8), (16, 16), (32, 16)]
    """
    filled = {level.stride: level for level in levels}
    for stride in REQUIRED_STRIDES:
        nearest = min(levels, key=lambda level: (abs(math.log2(level.stride / stride)), -level.stride))
        target = min(stride, max(output_stride, nearest.target_stride))
        filled.setdefault(stride, replace(nearest, stride=stride, target_stride=target))
    return [filled[stride] for stride in STRIDES if stride in filled]


def _undilated(strides: Sequence[int], output_stride: int) -> list[int]:
    """Return the strides that the maps had without dilation: after the first coarsest map, they double again."""
    undilated = list(strides)
    for index in range(1, len(strides)):
        if output_stride < COARSEST and strides[index] == strides[index - 1] == max(strides) == output_stride:
            undilated[index] = min(2 * undilated[index - 1], COARSEST)
    return undilated


def _by_depth(info: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the maps, shallow to deep; maps of one module, such as two branches, are adjacent.

    >>> _by_depth([{"module": name} for name in ("blocks.0", "blocks.1", "blocks.0", "blocks.1")])
    [0, 2, 1, 3]
    """
    modules = [entry.get("module", index) for index, entry in enumerate(info)]
    return sorted(range(len(info)), key=lambda index: modules.index(modules[index]))


def _in_equal_steps(count: int) -> list[int]:
    """Return the indices of four out of `count` maps, including the last; all if there are fewer.

    >>> _in_equal_steps(12), _in_equal_steps(2)
    ([2, 5, 8, 11], [0, 1])
    """
    steps = min(4, count)
    return [count * step // steps - 1 for step in range(1, steps + 1)]


def _level(stride: int, strides: Sequence[int]) -> int:
    """Return the level of a stride among all strides; a value outside of `STRIDES` if it is not in the pyramid."""
    power = {s: round(math.log2(s)) for s in strides}
    beyond = max(power.values()) - round(math.log2(COARSEST))
    if beyond > 0 and len({p for p in power.values() if 2 <= p <= 5}) < len(REQUIRED_STRIDES):
        return 1 << max(power[stride] - beyond, 0)
    return 1 << power[stride]
