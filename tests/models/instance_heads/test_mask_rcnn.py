"""Mask R-CNN, against torchvision's own model and by hand."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from finetune.config.folder import config_folder
from finetune.instances import Objects, objects_of
from finetune.models.instance_heads import INSTANCE_HEADS, MaskRCNN
from finetune.models.instance_heads import mask_rcnn as module
from finetune.models.instance_heads.ignored_pixels import lie_on
from finetune.models.instance_segmenter import InstanceSegmenter
from tests.instance_samples import drawn_objects, train
from tests.models.instance_heads.torchvision_model import their_targets, torchvision_model

STRIDES = (4, 8, 16, 32)
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
NONE = torch.zeros(0, dtype=torch.int64)


def build(channels: int = 16, strides: Sequence[int] = STRIDES, **options: Any) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(strides, channels, 2, **options)


def maps_of(height: int, width: int, count: int = 2, strides: Sequence[int] = STRIDES) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(count, 16, height // stride, width // stride) for stride in strides]


def targets_of(size: int, count: int = 2) -> list[Objects]:
    return [objects for _, objects in drawn_objects(count, size, seed=3)]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.fixture(scope="module")
def tiny() -> InstanceSegmenter:
    torch.manual_seed(0)
    return InstanceSegmenter("test_resnet.r160_in1k", classes=2, weights="none", head_options={"channels": 16})


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_exactly_those_of_torchvision_in_training_mode_or_not(training: bool) -> None:
    head, maps, targets = build(anchor_ratios=(0.25, 1, 4)), maps_of(128, 192), targets_of(128)
    targets = [objects_of(torch.nn.functional.pad(objects.masks, (0, 64)), objects.labels) for objects in targets]
    theirs = torchvision_model(head, 16, 2).train()
    theirs.backbone.maps = maps
    torch.manual_seed(2)
    expected = theirs(list(torch.zeros(2, 3, 128, 192)), their_targets(targets))
    torch.manual_seed(2)
    losses = head.train(training).losses(maps, targets)
    assert set(losses) == set(head.terms) == LOSSES
    assert {name: loss.item() for name, loss in losses.items()} == {name: expected[name].item() for name in LOSSES}


@pytest.mark.parametrize("training", [True, False])
def test_detections_are_exactly_those_of_torchvision_in_training_mode_or_not(training: bool) -> None:
    head, maps = build(anchor_ratios=(0.25, 1, 4), min_score=0.0), maps_of(128, 192)
    theirs = torchvision_model(head, 16, 2, box_score_thresh=0.0).eval()
    theirs.backbone.maps = maps
    with torch.no_grad():
        found = head.train(training).detect(maps, (128, 192))
        for objects, expected in zip(found, theirs(list(torch.zeros(2, 3, 128, 192))), strict=True):
            pasted = paste_masks_in_image(expected["masks"], expected["boxes"], (128, 192))[:, 0]
            assert len(objects) == 100
            assert torch.equal(objects.boxes, expected["boxes"])
            assert torch.equal(objects.scores, expected["scores"])
            assert torch.equal(objects.labels, expected["labels"] - 1)
            assert torch.equal(objects.masks, pasted > 0.5)
            assert torch.equal(objects.scores, objects.scores.sort(descending=True).values)


def test_boxes_and_masks_end_at_the_size_without_padding() -> None:
    (objects,) = build(min_score=0.0).detect(maps_of(128, 128, 1), (97, 101))
    assert len(objects) > 0
    assert objects.masks.dtype == torch.bool
    assert objects.size == (97, 101)
    assert (objects.boxes >= 0).all()
    assert (objects.boxes <= torch.tensor([101.0, 97.0, 101.0, 97.0])).all()


def test_padding_changes_no_box() -> None:
    """The padding has the lowest objectness, and the proposals of the image alone are as many as can be kept."""
    head, maps = build(min_score=0.0, proposals=50), [feature.abs() for feature in maps_of(128, 128, 1)]
    torch.nn.init.uniform_(head.rpn.head.cls_logits.weight)
    torch.nn.init.constant_(head.rpn.head.cls_logits.bias, -10)
    padded = [torch.nn.functional.pad(m, (0, 64 // s, 0, 32 // s)) for m, s in zip(maps, STRIDES, strict=True)]
    (alone,), (found,) = head.detect(maps, (93, 90)), head.detect(padded, (93, 90))
    assert len(alone) == len(found) > 20
    torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores, alone.scores)


def test_boxes_are_read_from_the_map_of_their_level_at_its_own_stride() -> None:
    strides = (4, 8, 8, 16)  # of a dilated backbone
    pool, maps = build(strides=strides).roi_heads.box_roi_pool, maps_of(512, 512, 1, strides)
    boxes = torch.tensor(
        [[3.0, 5.0, 40.0, 50.0], [130.0, 66.0, 190.0, 446.0], [0.0, 9.0, 300.0, 300.0], [0, 0, 500, 500]]
    )
    for feature, stride, box in zip(maps, strides, boxes, strict=True):
        assert torch.equal(pool(maps, [box[None]]), roi_align(feature, [box[None]], 7, 1 / stride, 2))


@pytest.mark.parametrize("ignored", [None, "all"])
def test_images_without_objects_have_finite_losses_and_all_gradients(tiny: InstanceSegmenter, ignored: str) -> None:
    nothing = torch.full((64, 96), ignored == "all")
    empty = objects_of(torch.zeros(0, 64, 96, dtype=torch.bool), NONE, ignored=nothing)
    tiny.zero_grad(set_to_none=True)
    losses = tiny.losses(torch.randn(2, 3, 64, 96), [empty, empty])
    total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert {name for name, p in tiny.named_parameters() if p.grad is None} == tiny.unused_parameters()
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
    assert (losses["loss_objectness"] == 0) == (losses["loss_classifier"] == 0) == (ignored == "all")


def test_objects_without_an_area_change_no_loss() -> None:
    head, maps, (objects, other) = build(), maps_of(128, 128), targets_of(128)
    flat = Objects(
        torch.cat([objects.masks, objects.masks[:1], objects.masks[:1] & False]),
        torch.cat([objects.labels, torch.tensor([0, 1])]),
        torch.cat([objects.boxes, torch.tensor([[5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 9.0, 9.0]])]),
        torch.ones(len(objects) + 2),
    )
    losses = []
    for first in (objects, flat):
        torch.manual_seed(2)
        losses.append(head.losses(maps, [first, other]))
    assert losses[0] == losses[1]


def test_anchors_of_background_on_ignored_pixels_are_neither() -> None:
    head, (objects,) = build(), targets_of(128, 1)
    anchors = head.rpn.anchor_generator(module._with_coarsest(maps_of(128, 128, 1)))
    labels = []
    for pixels in (torch.zeros(128, 128, dtype=torch.bool), ~objects.masks.any(0)):
        target = module._training_target(replace(objects, ignored=pixels), 100)
        labels += head.rpn.assign_targets_to_anchors([anchors], [target])[0]
    known, ignoring = labels
    assert known.unique().tolist() == ignoring.unique().tolist() == [-1, 0, 1]
    assert torch.equal(ignoring, torch.where((known == 0) & lie_on(anchors, pixels), -1, known))


def test_proposals_on_ignored_pixels_are_left_out_unless_they_are_objects() -> None:
    (objects,) = targets_of(128, 1)
    target = module._training_target(
        objects_of(objects.masks[:1], objects.labels[:1], ignored=torch.ones(128, 128, dtype=torch.bool)), 10
    )
    far = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    kept = build().roi_heads._without_ignored(torch.cat([objects.boxes[:1] + 1, far]), target)
    assert kept.tolist() == (objects.boxes[:1] + 1).tolist()


def test_objects_beyond_the_limit_of_a_step_are_drawn_and_the_others_ignored() -> None:
    (objects,) = targets_of(128, 1)
    assert len(objects) > 2
    torch.manual_seed(0)
    target = module._training_target(objects, 2)
    assert len(target["boxes"]) == len(target["labels"]) == 2
    rest = objects.masks.any(0) & ~target["masks"].any(0)
    assert rest.any()
    assert torch.equal(target["ignored"], rest)


def test_a_step_with_2000_objects_stays_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.randint(0, 120, (2000, 2), generator=torch.Generator().manual_seed(0))
    grid = torch.arange(128)
    inside = [(grid >= corners[:, i, None]) & (grid < corners[:, i, None] + 8) for i in (0, 1)]
    objects = objects_of(inside[0][:, :, None] & inside[1][:, None], torch.arange(2000) % 2)
    monkeypatch.setattr(module, "MOST_PAIRS", 100 * 4092)  # anchors of 128 x 128 pixels
    head = build()
    losses = head.losses(maps_of(128, 128, 1), [objects])
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    levels = module._with_coarsest(maps_of(128, 128, 1))
    assert len(head.rpn.anchor_generator(levels)) == 4092


def test_a_step_in_bfloat16_has_nearly_the_losses_of_one_in_float32(tiny: InstanceSegmenter) -> None:
    images, targets = torch.randn(2, 3, 128, 128), targets_of(128)
    found = []
    for enabled in (False, True):
        tiny.zero_grad()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = tiny.losses(images, targets)
        total(losses).backward()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert all(p.grad.isfinite().all() for p in tiny.parameters() if p.grad is not None)
        found.append(torch.stack(list(losses.values())))
    torch.testing.assert_close(found[1], found[0], atol=0.02, rtol=0.05)


def test_weights_in_bfloat16_train_and_detect() -> None:
    head = build(min_score=0.0).bfloat16()
    maps = [feature.bfloat16() for feature in maps_of(128, 128)]
    total(head.losses(maps, targets_of(128))).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(objects.boxes.dtype == torch.float32 for objects in head.detect(maps, (128, 128)))


def test_a_seed_decides_a_step() -> None:
    head, maps, targets = build(), maps_of(128, 128), targets_of(128)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(head.losses(maps, targets))
    assert losses[0] == losses[1] != losses[2]


def test_ten_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = InstanceSegmenter("test_resnet.r160_in1k", classes=2, weights="none", head_options={"channels": 32})
    losses = train(model, drawn_objects(4, 96, 0), 10, batch=2, lr=2e-3)
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2])


def test_weights_of_torchvision_are_loaded_where_they_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = torchvision_model(build(), 16, 2)
    state = {name: torch.full_like(tensor, 0.25) for name, tensor in trained.state_dict().items()}
    state["rpn.head.conv.weight"] = state.pop("rpn.head.conv.0.0.weight")  # as named before torchvision 0.14
    state["roi_heads.mask_head.mask_fcn1.weight"] = state.pop("roi_heads.mask_head.0.0.weight")
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(91, 256)  # of other classes
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "their.pth")
    with caplog.at_level("INFO"):
        loaded = build(weights=str(tmp_path / "their.pth")).state_dict()
    different = [name for name, tensor in loaded.items() if not (tensor == 0.25).all()]
    assert different == ["roi_heads.box_predictor.cls_score.weight"]
    assert f"{len(loaded) - 1} of the head's {len(loaded)} tensors fit" in caplog.text


def test_weights_of_which_none_fits_are_refused_with_names_of_both(tmp_path: Path) -> None:
    torch.save({"layer1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"none of its 1 tensors \(layer1\.weight\).*\(rpn\.head\.conv\.0\.0\.weight"):
        build(weights=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"cannot read weights from 'missing\.pth'.*no such file"):
        build(weights="missing.pth")


def test_a_saved_model_is_built_without_the_file_of_its_first_weights(tmp_path: Path) -> None:
    file = tmp_path / "head.pth"
    torch.save(build().state_dict(), file)
    options = {"channels": 16, "weights": str(file)}
    model = InstanceSegmenter("test_resnet.r160_in1k", classes=2, weights="none", head_options=options)
    assert torch.equal(model.head.rpn.head.conv[0][0].weight, build().rpn.head.conv[0][0].weight)
    file.unlink()
    assert model.config()["head_options"] == {"channels": 16}
    copied = InstanceSegmenter.from_config(copy.deepcopy(model.config()))
    copied.load_state_dict(model.state_dict())
    named = {**model.config(), "head_options": options}  # as somebody else's file may have it
    assert InstanceSegmenter.from_config(named).config() == model.config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": [8, 16]}, r"head\.anchor_sizes=\[8, 16\]: expected a list of 5 numbers above 0"),
        ({"anchor_ratios": []}, r"head\.anchor_ratios=\[\]: expected a list of some numbers above 0"),
        ({"anchor_ratios": [0.5, -1]}, r"head\.anchor_ratios=\[0\.5, -1\]: expected"),
        ({"mask_layers": 0}, r"head\.mask_layers=0: expected a whole number of 1 or more"),
        ({"min_score": 2}, r"head\.min_score=2: expected a number from 0 to 1"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("name", INSTANCE_HEADS)
def test_the_config_of_a_head_has_the_defaults_of_its_options(name: str) -> None:
    settings = yaml.safe_load((config_folder() / "head" / f"{name}.yaml").read_text())
    arguments = inspect.signature(INSTANCE_HEADS[name]).parameters
    given = {"strides", "channels", "classes"}
    defaults = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in arguments.items()}
    expected = {"name": name, "channels": 128, **{key: v for key, v in defaults.items() if key not in given}}
    decided = {key: expected[key] for key, value in settings.items() if value == "auto"}  # by the recipe
    assert {**settings, **decided} == expected
