"""Losses against torch, smp and a NumPy loop."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from finetune.losses import (
    LOSSES,
    PixelLoss,
    bce,
    bce_dice,
    ce_dice,
    cross_entropy,
    dice,
    focal,
    mask_dice,
    sigmoid_focal,
    sigmoid_focal_dice,
)

CLASSES = 4
OURS = [name for name, kind in LOSSES.items() if issubclass(kind, PixelLoss)]
OF_INDICES = [name for name in OURS if LOSSES[name].target_formats == ("indices",)]
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


@pytest.fixture
def masks() -> Tensor:
    """Masks (2, 4, 6, 5) of every class, with a row ignored for all classes and another for one."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(0, 2, (2, CLASSES, 6, 5), generator=generator)
    values[:, :, 2] = 255
    values[:, 1, 4] = 255
    return values


def build(name: str, **options: Any) -> PixelLoss:
    """Return a loss with those of the options that it has."""
    known = inspect.signature(LOSSES[name]).parameters
    return LOSSES[name](**{key: value for key, value in options.items() if key in known})


def pick(name: str, target: Tensor, masks: Tensor) -> Tensor:
    """Return the target that the loss takes."""
    return target if name in OF_INDICES else masks


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


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_bce_is_torchs_over_the_pixels_that_count(logits: Tensor, masks: Tensor, weight: Tensor | None) -> None:
    valid = masks != 255
    pixels = F.binary_cross_entropy_with_logits(logits, masks.where(valid, 0).double(), reduction="none")
    shares = valid * (1 if weight is None else weight.view(1, -1, 1, 1))
    expected = np.average(pixels.numpy(), weights=shares.numpy())
    assert bce(logits, masks, weight=weight).item() == pytest.approx(expected)


def test_dice_of_masks_is_smps_when_every_class_is_there(logits: Tensor, masks: Tensor) -> None:
    theirs = smp.losses.DiceLoss("multilabel", from_logits=True, ignore_index=255, eps=0)
    torch.testing.assert_close(mask_dice(logits, masks), theirs(logits, masks.double()))


def test_dice_of_masks_leaves_out_classes_without_a_pixel(logits: Tensor, masks: Tensor) -> None:
    expected = mask_dice(logits[:, :3], masks[:, :3], weight=WEIGHTS[:3])
    masks[:, 3] = 0
    torch.testing.assert_close(mask_dice(logits, masks, weight=WEIGHTS), expected)


def test_bce_dice_is_the_sum_of_its_parts(logits: Tensor, masks: Tensor) -> None:
    parts = bce(logits, masks, weight=WEIGHTS) + 0.7 * mask_dice(logits, masks, weight=WEIGHTS)
    torch.testing.assert_close(bce_dice(logits, masks, weight=WEIGHTS, dice_weight=0.7), parts)


def test_sigmoid_focal_is_torchvisions_over_the_pixels_that_count(logits: Tensor, masks: Tensor) -> None:
    valid = masks != 255
    expected = sigmoid_focal_loss(logits[valid], masks[valid].double(), alpha=0.3, gamma=1.5).mean()
    torch.testing.assert_close(sigmoid_focal(logits, masks, gamma=1.5, alpha=0.3), expected)


def test_sigmoid_focal_without_focus_is_half_of_bce(logits: Tensor, masks: Tensor) -> None:
    expected = bce(logits, masks, weight=WEIGHTS) / 2
    torch.testing.assert_close(sigmoid_focal(logits, masks, gamma=0.0, alpha=0.5, weight=WEIGHTS), expected)


@pytest.mark.parametrize("name", OURS)
def test_two_shards_whose_sums_are_added_cost_what_the_whole_batch_does(name, logits, target, masks) -> None:
    loss, labels = build(name, class_weights=WEIGHTS), pick(name, target, masks)
    shards = list(zip(logits.split(1), labels.split(1), strict=True))
    sums: list[list[Tensor]] = [[], []]
    for number, shard in enumerate(shards):
        loss(*shard, reduce=lambda own, number=number: sums[number].append(own) or own)
    assert sums[0]
    totals = [sum(parts) for parts in zip(*sums, strict=True)]
    for shard in shards:
        reduced = iter(totals)
        assert float(loss(*shard, reduce=lambda own, reduced=reduced: next(reduced))) == pytest.approx(
            float(loss(logits, labels))
        )


@pytest.mark.parametrize("name", OURS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([[[0, 1, 2], [255, 1, 0]], [[255, 255, 2], [1, 1, 0]]])
    binary = torch.stack([labels.where(labels == 255, (labels == k).long()) for k in range(3)], dim=1)
    loss = build(name, class_weights=WEIGHTS[:3])
    assert torch.autograd.gradcheck(lambda x: loss(x, pick(name, labels, binary)), (scores,))


@pytest.mark.parametrize("name", OURS)
def test_ignored_pixels_receive_no_gradient_and_all_others_do(name, logits, target, masks) -> None:
    logits.requires_grad_()
    labels = pick(name, target, masks)
    build(name)(logits, labels).backward()
    pixels = logits.grad.abs().sum(1) if labels.ndim == 3 else logits.grad.abs()
    assert (pixels[labels == 255] == 0).all()
    assert (pixels[labels != 255] > 0).all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_batch_of_ignored_pixels_costs_zero_with_zero_gradient(name, weights, logits, target, masks) -> None:
    logits.requires_grad_()
    labels = torch.full_like(pick(name, target, masks), 255)
    loss = build(name, class_weights=weights, label_smoothing=0.1)(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float64  # that of the logits
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast_costs_what_float32_does(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    half = (30 * torch.randn(2, CLASSES, 300, 300, generator=generator)).to(dtype).requires_grad_()
    indices = torch.randint(0, CLASSES, (2, 300, 300), generator=generator)  # 180,000 pixels overflow fp16 sums
    labels = pick(name, indices, F.one_hot(indices, CLASSES).movedim(-1, 1))
    loss = build(name, class_weights=WEIGHTS, label_smoothing=0.1)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == loss(half.float(), labels).item()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("ignore_index", [255, -100, 9])
def test_label_types_and_ignored_labels_make_no_difference(name, ignore_index, logits, target, masks) -> None:
    labels = pick(name, target, masks)
    expected = build(name)(logits, labels)
    relabelled = labels.masked_fill(labels == 255, ignore_index)
    assert build(name, ignore_index=ignore_index)(logits, relabelled) == expected
    assert build(name)(logits, labels.to(torch.uint8)) == expected


@pytest.mark.parametrize("name", OURS)
def test_channels_last_logits_cost_the_same(name: str, logits: Tensor, target: Tensor, masks: Tensor) -> None:
    channels_last, labels = logits.contiguous(memory_format=torch.channels_last), pick(name, target, masks)
    torch.testing.assert_close(build(name)(channels_last, labels), build(name)(logits, labels))


def test_dice_keeps_its_digits_on_a_large_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 512, 512, generator=generator)
    target = torch.randint(0, 3, (4, 512, 512), generator=generator)
    assert dice(logits, target).item() == pytest.approx(dice(logits.double(), target).item(), rel=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_certain_and_right_costs_nothing_and_stays_finite(name: str) -> None:
    target = torch.tensor([[[0, 1], [1, 0]]])
    masks = F.one_hot(target, 2).movedim(-1, 1)
    logits = ((masks - 0.5) * 400.0).requires_grad_()
    loss = build(name, gamma=0.5)(logits, pick(name, target, masks))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_class_weights_follow_the_module_and_stay_out_of_checkpoints() -> None:
    loss = build("ce_dice", class_weights=WEIGHTS)
    assert "class_weights" in dict(loss.named_buffers())
    assert loss.class_weights.dtype == torch.float32
    assert loss.state_dict() == {}


def test_wrong_shapes_are_refused(logits: Tensor, target: Tensor, masks: Tensor) -> None:
    with pytest.raises(ValueError, match=r"target has shape \(2, 1, 6, 5\).*CEDice.*needs \(2, 6, 5\)"):
        build("ce_dice")(logits, target.unsqueeze(1))
    with pytest.raises(
        ValueError, match=r"target has shape \(2, 6, 5\).*BCE.*needs \(2, 4, 6, 5\): one mask per class"
    ):
        build("bce")(logits, target)
    with pytest.raises(ValueError, match="3 class weights, but the logits have 4 classes"):
        build("bce", class_weights=torch.ones(3))(logits, masks)


@pytest.mark.parametrize("name", OF_INDICES)
def test_a_label_beyond_the_classes_is_an_error(name: str, logits: Tensor, target: Tensor) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        build(name)(logits, target.masked_fill(target == 0, CLASSES))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ce_dice", "auxiliary_weight", -1),
        ("ce_dice", "dice_weight", -1),
        ("cross_entropy", "label_smoothing", 1.0),
        ("focal", "gamma", float("nan")),
        ("sigmoid_focal_dice", "focal_weight", -0.5),
        ("bce_dice", "dice_weight", -1),
        ("sigmoid_focal", "alpha", 1.5),
    ],
)
def test_an_option_out_of_its_range_is_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{option}={value}: expected"):
        build(name, **{option: value})


def test_negative_class_weights_are_refused_and_small_ones_keep_the_mean() -> None:
    with pytest.raises(ValueError, match=r"class_weights=\[-1.0, 1.0\]: expected numbers of 0 or more"):
        build("cross_entropy", class_weights=[-1, 1])
    loss = build("cross_entropy", class_weights=[1e-9, 1.0])
    assert float(loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", OURS)
def test_a_loss_has_no_options_of_other_losses(name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        LOSSES[name](option_of_another_loss=1)


def test_a_negative_ignored_label_is_no_class_of_bytes() -> None:
    logits = torch.randn(1, 160, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 2, 2), 156)  # as uint8, -100 is 156
    expected = sigmoid_focal_dice(logits, labels, ignore_index=-100)
    assert sigmoid_focal_dice(logits, labels.to(torch.uint8), ignore_index=-100) == expected
