"""The permutohedral lattice against its definition and against a Gaussian."""

import itertools

import numpy as np
import pytest
import torch

from finetune.inference.post import permutohedral
from finetune.inference.post.permutohedral import PermutohedralLattice


def corners_by_hand(position: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the lattice points around a position (d,) with their weights, from the geometry alone.

    The lattice is that of all integers in d + 1 dimensions, projected along (1, ..., 1) and multiplied by d + 1.
    Weights are found by solving for those that give the position; of all simplices, the right one has none below 0.
    """
    d = len(position)
    basis = np.zeros((d + 1, d))
    for j in range(d):
        basis[: j + 1, j], basis[j + 1, j] = 1, -(j + 1)
    lifted = (basis / np.linalg.norm(basis, axis=0)) @ position * (d + 1) * np.sqrt(2 / 3)
    for start in itertools.product(*[range(int(x // (d + 1)) - 1, int(x // (d + 1)) + 3) for x in lifted]):
        if sum(start) != 0:
            continue
        for order in itertools.permutations(range(d + 1)):
            corner, points = (d + 1) * np.array(start), []
            for axis in order:
                points.append(tuple(corner.tolist()))
                corner = corner + 1
                corner[axis] -= d + 1
            weights = np.linalg.solve(np.vstack([np.array(points).T[:d], np.ones(d + 1)]), np.append(lifted[:d], 1))
            if weights.min() >= -1e-9:
                return dict(zip(points, weights, strict=True))
    raise AssertionError("a position lies in no simplex")


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_position_is_divided_among_the_corners_of_its_simplex(d: int) -> None:
    factors = torch.tensor([3, 1_000_003, 1_000_000_007, 1_000_000_000_039])[: d + 1]
    positions = np.random.default_rng(0).normal(0, 3, (20, d))
    hashes, index, weights = permutohedral._simplices(torch.from_numpy(positions), factors)
    for own, shares, position in zip(hashes[index].tolist(), weights.tolist(), positions, strict=True):
        expected = {
            sum(a * b for a, b in zip(point, factors.tolist(), strict=True)): weight
            for point, weight in corners_by_hand(position).items()
        }
        found = dict(zip(own, shares, strict=True))
        assert {key: w for key, w in found.items() if w > 1e-6} == pytest.approx(
            {key: w for key, w in expected.items() if w > 1e-6}, abs=1e-5
        )


def test_what_spreads_has_the_variance_of_the_gaussian() -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(-60, 60), torch.arange(-60, 60), indexing="ij"), -1).view(-1, 2) / 12
    centers = grid.square().sum(1).topk(30, largest=False).indices
    spikes = torch.zeros(len(grid), 30)
    spikes[centers, torch.arange(30)] = 1
    found = PermutohedralLattice(grid).filter(spikes)
    distance = (grid[:, None] - grid[centers]).square().sum(-1)
    assert float((found * distance).sum() / found.sum()) == pytest.approx(2, rel=0.1)
    gaussian = torch.exp(-distance / 2)
    assert np.corrcoef(found.flatten(), gaussian.flatten())[0, 1] > 0.98


def test_parts_that_are_computed_one_after_the_other_are_one_lattice(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, values = torch.randn(100, 4), torch.rand(100, 2)
    whole = PermutohedralLattice(positions).filter(values)
    monkeypatch.setattr(permutohedral, "AT_ONCE", 7)
    assert torch.allclose(PermutohedralLattice(positions).filter(values), whole, atol=1e-6)
