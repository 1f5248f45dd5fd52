"""How many numbers a model may be made of."""

import pytest
import timm
import torch
from torch import nn

from finetune.models import Segmenter
from finetune.models.backbone import PROBE
from finetune.models.memory_limit import LEAST_PER_TENSOR, SizeLimit


def test_a_tensor_too_large_is_not_made_and_one_that_fits_is() -> None:
    with SizeLimit(1_000_000):
        assert torch.zeros(1000, 900).shape == (1000, 900)
        with pytest.raises(
            ValueError, match="a tensor of 1,000,000,000,000,000 numbers, which makes more than 1,000,000"
        ):
            torch.empty(10**15)
    assert torch.zeros(2_000_000).numel() == 2_000_000  # no limit any more


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
def test_all_ways_to_make_a_large_tensor_are_counted(make) -> None:
    with SizeLimit(5_000_000), pytest.raises(ValueError, match="which makes more than 5,000,000 in all"):
        make()


def test_many_small_tensors_count_too() -> None:
    with SizeLimit(100 * LEAST_PER_TENSOR):
        for _ in range(100):
            torch.zeros(0)
        with pytest.raises(ValueError, match="more than"):
            torch.zeros(0)


def test_random_numbers_are_the_same_under_a_limit() -> None:
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(timm.create_model("test_resnet").state_dict().values())

    with SizeLimit(10**9):
        limited = weights()
    assert all(torch.equal(one, other) for one, other in zip(limited, weights(), strict=True))


def test_the_numbers_of_a_model_are_counted_once_each() -> None:
    limit = SizeLimit(10**9)
    with limit:
        model = Segmenter("test_resnet.r160_in1k", "unet", weights="none")
        made = limit.left
        model.backbone.dummy_input()
    kept = dict([*model.named_parameters(), *model.named_buffers()])
    del kept["mean"], kept["std"]  # made of data, as counters are, and no larger than that
    held = sum(max(t.numel(), LEAST_PER_TENSOR) for name, t in kept.items() if not name.endswith("num_batches_tracked"))
    assert limit.limit - made == held
    assert made - limit.left == 3 * PROBE[0] * PROBE[1]
