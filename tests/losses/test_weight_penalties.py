"""Weight penalties against sums written out."""

import pytest
import torch

from finetune.losses.weight_penalties import l1, l2_sp


def test_l1_is_the_sum_of_absolute_values_with_the_sign_as_gradient() -> None:
    weights = [torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    value = l1(weights)
    value.backward()
    assert value == 6
    assert weights[0].grad.tolist() == [1, -1]


def test_the_gradient_of_l2_sp_is_the_distance_from_the_start() -> None:
    weight = torch.tensor([1.0, 4.0], requires_grad=True)
    value = l2_sp({"a": weight}, {"a": torch.tensor([0.0, 1.0]), "other": torch.zeros(1)})
    value.backward()
    assert value.item() == (1 + 9) / 2
    assert weight.grad.tolist() == [1, 3]


@pytest.mark.parametrize("value", [l1([]), l2_sp({}, {})])
def test_the_penalty_without_parameters_is_zero(value: torch.Tensor) -> None:
    assert value == 0


def test_penalties_of_half_precision_weights_are_summed_in_float32() -> None:
    weights = [torch.full((70_000,), 1.0, dtype=torch.float16)]
    assert l1(weights) == 70_000
