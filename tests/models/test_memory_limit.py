"""The limit of the numbers in the tensors of a model."""

import pytest
import timm
import torch
from torch import nn

from finetune.models import Segmenter
from finetune.models.backbone import PROBE
from finetune.models.memory_limit import LEAST_PER_TENSOR, SizeLimit


def test_only_tensors_within_the_limit_are_created() -> None:
    with SizeLimit(1_000_000):
        assert torch.zeros(1000, 900).shape == (1000, 900)
        with pytest.raises(
            ValueError, match="a tensor of 1,000,000,000,000,000 numbers, which makes more than the limit of 1,000,000"
        ):
            torch.empty(10**15)
    assert torch.zeros(2_000_000).numel() == 2_000_000  # the limit has ended


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(10**4, 10**4),
        lambda: torch.zeros((10**4, 10**4)),
        lambda: torch.zeros(size=(10**4, 10**4), dtype=torch.bool),
        lambda: torch.ones([10**8]),
        lambda: torch.full((10**8,), 3),
        lambda: torch.eye(10**4),
        lambda: torch.randn(10**8, generator=torch.Generator()),
        lambda: torch.rand(10**8),
        lambda: torch.arange(10**8),
        lambda: torch.arange(0, 10**8, 0.5),
        lambda: torch.linspace(0, 1, 10**8),
        lambda: nn.Linear(10**4, 10**4),
        lambda: nn.Conv2d(10**4, 10**4, 1),
        lambda: nn.BatchNorm2d(10**8),
        lambda: nn.Embedding(10**4, 10**4),
    ],
    ids=range(15),
)
def test_all_functions_that_create_tensors_are_limited(make) -> None:
    with SizeLimit(5_000_000), pytest.raises(ValueError, match="makes more than the limit of 5,000,000"):
        make()


def test_many_small_tensors_count_too() -> None:
    with SizeLimit(100 * LEAST_PER_TENSOR):
        for _ in range(100):
            torch.zeros(0)
        with pytest.raises(ValueError, match="makes more than"):
            torch.zeros(0)


def test_a_limit_does_not_change_random_numbers() -> None:
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(timm.create_model("test_resnet").state_dict().values())

    with SizeLimit(10**9):
        limited = weights()
    assert all(torch.equal(one, other) for one, other in zip(limited, weights(), strict=True))


def test_each_number_of_a_model_counts_once() -> None:
    limit = SizeLimit(10**9)
    with limit:
        model = Segmenter("test_resnet.r160_in1k", "unet", weights="none")
        made = limit.left
        model.backbone.dummy_input()
    kept = dict([*model.named_parameters(), *model.named_buffers()])
    del kept["mean"], kept["std"]  # created from data, like counters, and as small
    held = sum(max(t.numel(), LEAST_PER_TENSOR) for name, t in kept.items() if not name.endswith("num_batches_tracked"))
    assert limit.limit - made == held
    assert made - limit.left == 3 * PROBE[0] * PROBE[1]
