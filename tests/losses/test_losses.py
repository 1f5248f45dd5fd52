"""Losses against torch, smp and a NumPy loop."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from finetune.losses import LOSSES, SegmentationLoss, ce_dice, cross_entropy, dice, focal, sigmoid_focal_dice

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 2.0], dtype=torch.float64)


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(2, CLASSES, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target() -> Tensor:
    """Labels (2, 6, 5) with every class, and a row of ignored pixels."""
    labels = torch.randint(0, CLASSES, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    labels[:, 2] = 255
    return labels


def one_image(logits: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) and labels (N,) of the pixels that count."""
    probabilities = logits.softmax(1).movedim(1, -1).reshape(-1, logits.shape[1])
    return probabilities[target.flatten() != 255].numpy(), target[target != 255].numpy()


@pytest.mark.parametrize("weight", [None, WEIGHTS])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(logits, target, weight, label_smoothing) -> None:
    ours = cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing)
    theirs = F.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=label_smoothing)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_smps_when_every_class_is_there(logits: Tensor, target: Tensor, smooth: float) -> None:
    # smp reads Dice as Tversky(0.5, 0.5), (I + s) / (... + s): its s is half of ours
    theirs = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255, smooth=smooth / 2)
    torch.testing.assert_close(dice(logits, target, smooth=smooth), theirs(logits, target))


def test_dice_leaves_absent_classes_out_where_smp_counts_them_as_zero(logits: Tensor, target: Tensor) -> None:
    target = target.masked_fill(target == 3, 0)
    theirs = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255)
    torch.testing.assert_close(dice(logits, target), theirs(logits, target) * CLASSES / 3)


def test_weighted_dice_is_that_of_a_plain_loop(logits: Tensor, target: Tensor) -> None:
    target = target.masked_fill(target == 3, 0)
    p, label = one_image(logits, target)
    scores = [2 * p[label == k, k].sum() / (p[:, k].sum() + (label == k).sum()) for k in range(3)]
    expected = np.average(1 - np.array(scores), weights=WEIGHTS[:3].numpy())
    assert dice(logits, target, weight=WEIGHTS).item() == pytest.approx(expected)


def test_focal_is_that_of_a_plain_loop(logits: Tensor, target: Tensor) -> None:
    # not smp's FocalLoss, which is a sum of K sigmoid losses
    p, label = one_image(logits, target)
    p_true = p[np.arange(len(label)), label]
    pixels = -((1 - p_true) ** 2.5) * np.log(p_true)
    assert focal(logits, target, gamma=2.5).item() == pytest.approx(pixels.mean())
    weights = WEIGHTS.numpy()[label]
    assert focal(logits, target, gamma=2.5, weight=WEIGHTS).item() == pytest.approx(np.average(pixels, weights=weights))


def test_focal_is_smps_on_two_classes_seen_as_one_sigmoid(logits: Tensor, target: Tensor) -> None:
    # softmax over (0, z) is sigmoid(z), so the two definitions meet in the binary case
    score = logits[:, 1]
    target = torch.where(target == 255, 255, target % 2)
    theirs = smp.losses.FocalLoss("binary", gamma=2.0, ignore_index=255)(score, target)
    ours = focal(torch.stack([torch.zeros_like(score), score], dim=1), target, gamma=2.0)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_focal_without_focus_is_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    expected = cross_entropy(logits, target, weight=weight)
    torch.testing.assert_close(focal(logits, target, gamma=0.0, weight=weight), expected)


def test_ce_dice_is_the_sum_of_its_parts(logits: Tensor, target: Tensor) -> None:
    parts = cross_entropy(logits, target, 255, WEIGHTS, 0.1) + 0.7 * dice(logits, target, 255, WEIGHTS)
    torch.testing.assert_close(ce_dice(logits, target, 255, WEIGHTS, 0.1, 0.7), parts)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_the_focal_part_of_masks_is_torchvisions(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    scores = logits.movedim(1, -1)[target != 255]
    truth = F.one_hot(target[target != 255], CLASSES).double()
    by_class = sigmoid_focal_loss(scores, truth, alpha=0.25, gamma=1.5).mean(dim=0)
    expected = np.average(by_class, weights=None if weight is None else weight)
    ours = sigmoid_focal_dice(logits, target, weight=weight, focal_weight=3.0, dice_weight=0.0, gamma=1.5)
    assert ours.item() == pytest.approx(3 * expected)


def test_the_dice_part_of_masks_is_smps_of_sigmoids(logits: Tensor, target: Tensor) -> None:
    kept = (target != 255)[:, None].expand_as(logits)
    truth = F.one_hot(target.where(target != 255, 0), CLASSES).movedim(-1, 1)
    theirs = smp.losses.DiceLoss("multilabel", from_logits=True, eps=0)(
        logits.where(kept, -100.0), truth.where(kept, 0)
    )
    ours = sigmoid_focal_dice(logits, target, focal_weight=0.0, dice_weight=2.0)
    torch.testing.assert_close(ours, 2 * theirs)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([[[0, 1, 2], [255, 1, 0]], [[255, 255, 2], [1, 1, 0]]])
    weight = WEIGHTS[:3]
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, 255, weight=weight), (scores,))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_receive_no_gradient_and_all_others_do(name: str, logits: Tensor, target: Tensor) -> None:
    logits.requires_grad_()
    SegmentationLoss(name)(logits, target).backward()
    pixels = logits.grad.abs().sum(1)
    assert (pixels[target == 255] == 0).all()
    assert (pixels[target != 255] > 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_batch_of_ignored_pixels_costs_zero_with_zero_gradient(name, weights, logits, target) -> None:
    logits.requires_grad_()
    loss = SegmentationLoss(name, class_weights=weights, label_smoothing=0.1)(logits, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float64  # that of the logits
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast_costs_what_float32_does(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    half = (30 * torch.randn(2, CLASSES, 300, 300, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, CLASSES, (2, 300, 300), generator=generator)  # 180,000 pixels overflow fp16 sums
    loss = SegmentationLoss(name, class_weights=WEIGHTS, label_smoothing=0.1)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == loss(half.float(), labels).item()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ignore_index", [255, -100, 9])
def test_label_types_and_ignored_labels_make_no_difference(name, ignore_index, logits, target) -> None:
    expected = SegmentationLoss(name)(logits, target)
    relabelled = target.masked_fill(target == 255, ignore_index)
    assert SegmentationLoss(name, ignore_index)(logits, relabelled) == expected
    assert SegmentationLoss(name)(logits, target.to(torch.uint8)) == expected


@pytest.mark.parametrize("name", LOSSES)
def test_channels_last_logits_cost_the_same(name: str, logits: Tensor, target: Tensor) -> None:
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(SegmentationLoss(name)(channels_last, target), SegmentationLoss(name)(logits, target))


def test_dice_keeps_its_digits_on_a_large_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 512, 512, generator=generator)
    target = torch.randint(0, 3, (4, 512, 512), generator=generator)
    assert dice(logits, target).item() == pytest.approx(dice(logits.double(), target).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_certain_and_right_costs_nothing_and_stays_finite(name: str) -> None:
    target = torch.tensor([[[0, 1], [1, 0]]])
    logits = ((F.one_hot(target, 2).movedim(-1, 1) - 0.5) * 400.0).requires_grad_()
    loss = SegmentationLoss(name, gamma=0.5)(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_class_weights_follow_the_module_and_stay_out_of_checkpoints() -> None:
    loss = SegmentationLoss(class_weights=WEIGHTS)
    assert "class_weights" in dict(loss.named_buffers())
    assert loss.class_weights.dtype == torch.float32
    assert loss.state_dict() == {}


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown loss .ce_dise.. Did you mean ce_dice"):
        SegmentationLoss("ce_dise")


def test_wrong_shapes_are_told_apart(logits: Tensor, target: Tensor) -> None:
    with pytest.raises(ValueError, match=r"target has shape \(2, 1, 6, 5\).*need \(2, 6, 5\)"):
        SegmentationLoss()(logits, target.unsqueeze(1))
    with pytest.raises(ValueError, match="3 class weights, but the logits have 4 classes"):
        SegmentationLoss(class_weights=torch.ones(3))(logits, target)


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_beyond_the_classes_is_not_swallowed(name: str, logits: Tensor, target: Tensor) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        SegmentationLoss(name)(logits, target.masked_fill(target == 0, CLASSES))


def test_a_negative_weight_of_auxiliary_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"auxiliary_weight=-1: expected 0 or more"):
        SegmentationLoss(auxiliary_weight=-1)
