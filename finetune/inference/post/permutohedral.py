"""Sums over all pairs of positions with the weights of a Gaussian, in time linear in the number of positions."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

AT_ONCE = 2**18  # positions whose corners are computed at a time, which bounds the memory


class PermutohedralLattice:
    """A Gaussian filter over positions of any few dimensions, up to a constant factor.

    Values are distributed to the corners of the simplex around each position, blurred along the directions of
    the lattice, and collected again. Corners are known by a hash only. It is linear, so a neighbor's hash is that of
    the corner plus a constant; it has 64 bits, so the probability of a mistake among a million corners is below 1e-6.

    Args:
        positions: (N, d), float32, in units of the Gaussian's standard deviation.

    Source: Adams, Baek and Davis 2010, https://doi.org/10.1111/j.1467-8659.2009.01645.x
    """

    def __init__(self, positions: Tensor) -> None:
        corners = positions.shape[1] + 1
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(-(2**62), 2**62, (corners,), generator=generator).to(positions.device)
        parts = [_simplices(part, factors) for part in torch.split(positions, AT_ONCE)]
        hashes = torch.unique(torch.cat([own for own, _, _ in parts]))
        self._parts = [(torch.searchsorted(hashes, own).int()[index], weights) for own, index, weights in parts]
        steps = factors.sum() - corners * factors
        self._neighbors = [(_find(hashes, hashes + step), _find(hashes, hashes - step)) for step in steps]
        self._count = len(hashes) + 1  # the last one stands for all that are missing, and stays 0

    def filter(self, values: Tensor) -> Tensor:
        """Return the weighted sums (N, K) of values (N, K), float32; each position counts for itself, too."""
        blurred = values.new_zeros(self._count, values.shape[1])
        for (corners, weights), part in zip(self._parts, torch.split(values, AT_ONCE), strict=True):
            for corner, weight in zip(corners.unbind(1), weights.unbind(1), strict=True):
                blurred.index_add_(0, corner, part * weight[:, None])
        for after, before in self._neighbors:
            blurred[:-1] = blurred[:-1] / 2 + (blurred[after] + blurred[before]) / 4
        sums = [embedding_bag(each, blurred, mode="sum", per_sample_weights=weights) for each, weights in self._parts]
        return torch.cat(sums)


def _simplices(positions: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hashes of the corners around positions (N, d), and the index and weight (N, d + 1) of each corner.

    Corner k has coordinates that leave the rest k when divided by d + 1. The coordinates of a position in the lattice
    add up to 0; sorted by their distance from the corner 0, they give the order in which the others are reached.
    """
    corners = len(factors)
    numbers = torch.arange(corners, device=positions.device)
    scaled = positions * (2 / 3 / (numbers[1:] * (numbers[1:] + 1))).sqrt()
    lifted = pad(scaled.flip(1).cumsum(1).flip(1), (0, 1))  # in units of d + 1
    lifted[:, 1:] -= numbers[1:] * scaled
    origin = lifted.round()
    distance, order = (lifted - origin).sort(dim=1, descending=True)
    excess = origin.sum(dim=1, keepdim=True).long()  # of a corner 0 off the plane: the extreme coordinates move
    place = numbers - excess
    moved = place.div(corners, rounding_mode="floor")
    order, distance = order.gather(1, place % corners), distance.gather(1, place % corners) - moved
    rising, first = distance.flip(1), factors[order].flip(1)
    weights = rising - rising.roll(1, dims=1)
    weights[:, 0] += 1
    start = (factors * origin.long()).sum(1) + (factors[order] * moved).sum(1)
    passed = start[:, None] - (first.cumsum(1) - first)
    hashes, index = torch.unique(corners * passed + numbers * factors.sum(), return_inverse=True)
    return hashes, index, weights


def _find(hashes: Tensor, wanted: Tensor) -> Tensor:
    """Return where each hash is among the sorted ones, int32; their number if it is not there."""
    index = torch.searchsorted(hashes, wanted)
    is_there = hashes[index.clamp(max=len(hashes) - 1)] == wanted
    return torch.where(is_there, index, len(hashes)).int()
