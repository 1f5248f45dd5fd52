"""CKA: what it must not see, what it must see, and the sum over all tuples that it estimates."""

import copy
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.explanations.similarity import backbone_similarity, linear_cka, sample_positions
from finetune.models.backbone import Backbone


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_rotation_a_scale_and_a_shift_change_nothing() -> None:
    x = noise(50, 8)
    rotation, _ = torch.linalg.qr(noise(8, 8, seed=1))
    for other in (x, x @ rotation, -3 * x, x @ rotation + 5, torch.cat([x, torch.zeros(50, 3)], dim=1)):
        assert linear_cka(x, other) == pytest.approx(1, abs=1e-5)


def test_unrelated_features_are_near_0_also_with_more_features_than_examples() -> None:
    values = [linear_cka(noise(200, 400, seed=seed), noise(200, 300, seed=seed + 100)) for seed in range(5)]
    assert max(map(abs, values)) < 0.02


def test_half_of_the_features_in_common_are_in_between() -> None:
    x, y, z = (noise(500, 10, seed=seed) for seed in range(3))
    assert linear_cka(torch.cat([x, y], dim=1), torch.cat([x, z], dim=1)) == pytest.approx(0.5, abs=0.05)


def test_it_equals_a_loop_over_all_tuples_of_different_examples() -> None:
    x, y = noise(6, 3).double(), noise(6, 2, seed=1).double() + noise(6, 1).double()
    kernels = [(each @ each.T).numpy() for each in (x, y)]

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        tuples = list(permutations(range(6), 4))  # Song et al. 2012, equation 4: no example twice
        return sum(k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in tuples) / len(tuples)

    scale = hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1])
    assert linear_cka(x, y) == pytest.approx(hsic(*kernels) / np.sqrt(scale))


def test_a_constant_has_no_cka_and_three_examples_are_refused() -> None:
    assert np.isnan(linear_cka(noise(10, 3), torch.ones(10, 3)))
    with pytest.raises(ValueError, match="CKA of 3 positions"):
        linear_cka(noise(3, 2), noise(3, 2))


@pytest.mark.parametrize("size", [(20, 9), (8, 3)])
def test_positions_are_the_centers_of_a_regular_grid(size: tuple[int, int]) -> None:
    feature = noise(2, 5, *size)
    rows, columns = ([int((i + 0.5) * side / min(side, 8)) for i in range(min(side, 8))] for side in size)
    expected = [feature[b, :, row, column] for b in range(2) for row in rows for column in columns]
    assert torch.equal(sample_positions(feature), torch.stack(expected))


def test_only_layers_that_changed_and_those_after_them_differ() -> None:
    first = Backbone("test_vit", "none").eval()
    second = copy.deepcopy(first)
    second.model.blocks[3].mlp.fc2.weight.data = 20 * noise(*second.model.blocks[3].mlp.fc2.weight.shape)
    layers = backbone_similarity(first, second, [noise(1, 3, 160, 160, seed=seed) for seed in range(2)])
    assert [name for name, _ in layers] == [f"blocks.{i}" for i in range(len(first.model.blocks))]
    assert [value for _, value in layers[:3]] == [pytest.approx(1)] * 3
    assert all(value < 0.9 for _, value in layers[3:])
