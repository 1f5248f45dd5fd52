"""Losses of other packages through the adapter."""

import logging

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from finetune.losses import ForeignLoss


class Brier(nn.Module):
    """A toy loss of two arguments: the mean squared error of the probabilities, without an ignore_index."""

    def __init__(self, scale: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        self.scale, self.reduction = scale, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth = nn.functional.one_hot(target, logits.shape[1]).movedim(-1, 1)
        squares = self.scale * (logits.softmax(1) - truth) ** 2
        return squares.mean() if self.reduction == "mean" else squares


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def target() -> Tensor:
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels[0, 1] = 9
    return labels


def test_a_loss_that_takes_ignore_index_gets_it(logits: Tensor, target: Tensor) -> None:
    ours = ForeignLoss(smp.losses.DiceLoss, {"mode": "multiclass"}, ignore_index=9)(logits, target)
    torch.testing.assert_close(ours, smp.losses.DiceLoss("multiclass", ignore_index=9)(logits, target.long()))


def test_masks_arrive_in_the_type_of_the_logits(logits: Tensor) -> None:
    masks = torch.randint(0, 2, logits.shape, dtype=torch.uint8)
    ours = ForeignLoss(nn.BCEWithLogitsLoss)(logits, masks)
    torch.testing.assert_close(ours, nn.functional.binary_cross_entropy_with_logits(logits, masks.float()))


def test_a_loss_without_ignore_index_refuses_ignored_pixels(logits: Tensor, target: Tensor) -> None:
    loss = ForeignLoss(Brier, ignore_index=9)
    with pytest.raises(ValueError, match=r"5 ignored pixels \(9\), for which Brier .* loss.drop_ignored=true"):
        loss(logits, target)
    assert loss(logits[1:], target[1:]) == Brier()(logits[1:], target[1:].long())


def test_dropped_pixels_add_nothing_and_get_no_gradient(logits: Tensor, target: Tensor) -> None:
    value = ForeignLoss(Brier, {"scale": 2.0}, drop_ignored=True, ignore_index=9)(logits, target)
    value.backward()
    kept = target != 9
    pixels = logits.detach().movedim(1, -1)[kept].softmax(-1)
    expected = 2 * ((pixels - nn.functional.one_hot(target[kept].long(), 3)) ** 2).mean()
    assert value.item() == pytest.approx(expected.item())
    assert (logits.grad.abs().sum(1) > 0).equal(kept)


def test_a_pixel_ignored_for_one_class_is_dropped_for_all(logits: Tensor) -> None:
    masks = torch.randint(0, 2, logits.shape, dtype=torch.uint8)
    masks[0, 1, 0] = 255
    value = ForeignLoss(nn.BCEWithLogitsLoss, drop_ignored=True)(logits, masks)
    kept = torch.ones(2, 4, 5, dtype=torch.bool)
    kept[0, 0] = False
    scores, truth = logits.movedim(1, -1)[kept], masks.movedim(1, -1)[kept]
    torch.testing.assert_close(value, nn.functional.binary_cross_entropy_with_logits(scores, truth.float()))


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, Brier])
def test_a_batch_of_ignored_pixels_costs_zero_with_zero_gradient(kind, logits: Tensor, target: Tensor) -> None:
    value = ForeignLoss(kind)(logits, torch.full_like(target, 255))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_autocast_does_not_reach_the_loss(logits: Tensor) -> None:
    class Square(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return logits.flatten() @ logits.flatten()  # in half precision under autocast

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ForeignLoss(Square)(logits.bfloat16(), torch.zeros(2, 4, 5, dtype=torch.uint8))
    assert value.dtype == torch.float32


def test_a_value_that_is_no_scalar_is_refused(logits: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Brier returns a tensor of shape \(2, 3, 4, 5\); expected a scalar"):
        ForeignLoss(Brier, {"reduction": "none"})(logits, torch.zeros(2, 4, 5, dtype=torch.uint8))


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Brier does not take options=\{'scales': 1\}"):
        ForeignLoss(Brier, {"scales": 1})
    with pytest.raises(ValueError, match=r"ignore_index is set by data.ignore_index"):
        ForeignLoss(nn.CrossEntropyLoss, {"ignore_index": 0})


@pytest.mark.parametrize(("devices", "rank", "warnings"), [(1, 0, 0), (2, 0, 1), (2, 1, 0)])
def test_several_devices_are_warned_about_once(
    devices: int, rank: int, warnings: int, logits: Tensor, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: devices)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    loss, target = ForeignLoss(nn.CrossEntropyLoss), torch.zeros(2, 4, 5, dtype=torch.uint8)
    with caplog.at_level(logging.WARNING):
        loss(logits, target)
        loss(logits, target)
    found = [record.message for record in caplog.records if "mean of the devices' losses" in record.message]
    assert len(found) == warnings


def test_ignored_pixels_cost_zero_in_half_precision_too() -> None:
    logits = torch.full((1, 2, 512, 512), 8.0, dtype=torch.float16)
    assert ForeignLoss(nn.CrossEntropyLoss)(logits, torch.full((1, 512, 512), 255, dtype=torch.uint8)).item() == 0
