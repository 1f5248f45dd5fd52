"""Which feature maps of a backbone are read, and which level of a pyramid each stands for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

STRIDES = (2, 4, 8, 16, 32)
COARSEST = STRIDES[-1]
OUTPUT_STRIDES = (8, 16, 32)  # that a user may ask a backbone for
FLAT = (4, 8, 16, 32)  # what four maps of one stride are made into


@dataclass(frozen=True)
class Level:
    """A level of a pyramid and the feature map that stands for it.

    Attributes:
        stride: of the level, one of `STRIDES`.
        index: of the map among the backbone's intermediate features.
        channels: of the map.
        given: stride of the map; what the backbone says, about right where it is irregular.
        grid: stride that the map gets in the pyramid: the level's, or a finer one for a head that is made for a dilated
            backbone.
    """

    stride: int
    index: int
    channels: int
    given: int
    grid: int


def feature_levels(
    info: Sequence[Mapping[str, Any]], output_stride: int = COARSEST, dilated: bool = True
) -> list[Level]:
    """The maps that make a pyramid, fine to coarse.

    The deepest map of each stride stands for the nearest power of two. Where all or nearly all maps have one stride,
    as in a plain ViT, four of them in equal steps of depth stand for strides 4 to 32, the shallowest for the finest;
    none becomes coarser than the output stride, as none would in a dilated backbone.
    Where a backbone goes beyond stride 32, its coarsest map stands for 32 and all others move with it, unless there are
    four finer ones already.

    Args:
        info: timm's `feature_info`: `num_chs` and `reduction` of each map, and the `module` that it comes out of.
        output_stride: that the head is made for; 32 for most.
        dilated: whether the backbone is, so that its last maps have this stride all.

    >>> info = [{"num_chs": 8, "reduction": stride} for stride in (16, 32, 64)]
    >>> [level.stride for level in feature_levels(info)]
    [8, 16, 32]
    """
    given = [int(entry["reduction"]) for entry in info]
    undilated = _undilated(given, output_stride) if dilated else given
    if flat := len(set(undilated)) < 3:
        order = _by_depth(info)
        chosen = [order[place] for place in _in_equal_steps(len(info))]
        maps = dict(zip(FLAT[-len(chosen) :], chosen, strict=True))
    else:
        maps = {level: i for i, stride in enumerate(undilated) if (level := _level(stride, undilated)) in STRIDES}
    grids = {level: given[i] if given[i] < undilated[i] else level for level, i in maps.items()}
    if flat:
        grids = {level: min(level, output_stride) for level in maps}
    return [Level(level, i, int(info[i]["num_chs"]), given[i], grids[level]) for level, i in maps.items()]


def complete(levels: Sequence[Level], output_stride: int = COARSEST) -> list[Level]:
    """The levels with those of stride 4 to 32 that are missing: the nearest map stands for them, too.

    Args:
        levels: fine to coarse.
        output_stride: that the head is made for; a map of it or a coarser one is not shrunk for a missing level.

    >>> [(level.stride, level.given) for level in complete([Level(8, 0, 64, 8, 8), Level(16, 1, 64, 16, 16)])]
    [(4, 8), (8, 8), (16, 16), (32, 16)]
    """
    found = {level.stride: level for level in levels}
    for stride in FLAT:
        nearest = min(levels, key=lambda level: (abs(math.log2(level.stride / stride)), -level.stride))
        found.setdefault(stride, replace(nearest, stride=stride, grid=min(stride, max(output_stride, nearest.grid))))
    return [found[stride] for stride in STRIDES if stride in found]


def _undilated(strides: Sequence[int], output_stride: int) -> list[int]:
    """The strides that the maps had without dilation: those behind the first of the coarsest stride double again."""
    undilated = list(strides)
    for index in range(1, len(strides)):
        if output_stride < COARSEST and strides[index] == strides[index - 1] == max(strides) == output_stride:
            undilated[index] = min(2 * undilated[index - 1], COARSEST)
    return undilated


def _by_depth(info: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the maps, shallow to deep: those that come out of one module, such as two branches, side by side.

    >>> _by_depth([{"module": name} for name in ("blocks.0", "blocks.1", "blocks.0", "blocks.1")])
    [0, 2, 1, 3]
    """
    modules = [entry.get("module", place) for place, entry in enumerate(info)]
    return sorted(range(len(info)), key=lambda place: modules.index(modules[place]))


def _in_equal_steps(count: int) -> list[int]:
    """Four of so many maps, the last among them; all where there are fewer.

    >>> _in_equal_steps(12), _in_equal_steps(2)
    ([2, 5, 8, 11], [0, 1])
    """
    steps = min(4, count)
    return [count * step // steps - 1 for step in range(1, steps + 1)]


def _level(stride: int, strides: Sequence[int]) -> int:
    """The level of a stride among all of them; 0 for one beside the pyramid."""
    power = {s: round(math.log2(s)) for s in strides}
    beyond = max(power.values()) - round(math.log2(COARSEST))
    if beyond > 0 and len({p for p in power.values() if 2 <= p <= 5}) < len(FLAT):
        return 1 << max(power[stride] - beyond, 0)
    return 1 << power[stride]
