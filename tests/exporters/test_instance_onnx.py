"""ONNX files of models of objects: the objects of the model, for images of any size and any number of them."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

import finetune
from finetune.checkpoints.saved_model import save_model
from finetune.data import DataError
from finetune.exporters import ExportError
from finetune.exporters.instance_onnx import DeployedInstances, differences, export_instances
from finetune.models.instance_segmenter import InstanceSegmenter
from tests.instance_samples import drawn_objects

pytest.importorskip("onnx", reason="pip install 'finetune-seg[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'finetune-seg[export]'")


@pytest.fixture(scope="module")
def model() -> InstanceSegmenter:
    """Return a model with random weights, which finds objects everywhere."""
    torch.manual_seed(0)
    options = {"channels": 16, "prototypes": 4, "max_detections": 20, "min_score": 0, "anchor_ratios": [1]}
    model = InstanceSegmenter("test_resnet.r160_in1k", "yolact", 2, weights="none", head_options=options).eval()
    with torch.no_grad():
        model.head.anchors[-1].weight.mul_(5)
    return model


@pytest.fixture(scope="module")
def path(model: InstanceSegmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inside") / "model.onnx"
    assert "agree" in export_instances(model, path)
    return path


def run(path: Path, images: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores", "labels", "masks"]
    return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def test_a_file_gives_the_objects_of_the_model_for_images_of_any_size(model: InstanceSegmenter, path: Path) -> None:
    for size, batch in ((64, 1), (75, 3)):
        images = torch.stack([image for image, _ in drawn_objects(batch, size, 1)])
        with torch.inference_mode():
            expected = model(model.normalize(images))
        outputs = run(path, images)
        side = -(-size // 32) * 8
        assert [tuple(each.shape) for each in outputs] == [
            (batch, 20, 4),
            (batch, 20),
            (batch, 20),
            (batch, 20, side, side),
        ]
        for objects, boxes, scores, labels, masks in zip(expected, *outputs, strict=True):
            whole = F.interpolate(masks[None], scale_factor=4, mode="bilinear")[0, :, :size, :size] > 0.5
            for number, (left, top, right, bottom) in enumerate(boxes.round().int().tolist()):
                inside = torch.zeros(size, size, dtype=torch.bool)
                inside[top:bottom, left:right] = True
                whole[number] &= inside
            seen = whole.flatten(1).any(1)  # the model leaves out empty masks
            assert len(objects) > 5
            assert (objects.boxes - boxes[seen]).abs().max() < 1e-3
            assert (objects.scores - scores[seen]).abs().max() < 1e-5
            assert torch.equal(objects.labels, labels[seen])
            assert (objects.masks == whole[seen]).float().mean() > 0.9999


def test_with_nms_outside_the_file_has_no_such_operator_and_the_caller_removes_duplicates(
    model: InstanceSegmenter, tmp_path: Path
) -> None:
    import onnx

    path = tmp_path / "model.onnx"
    export_instances(model, path, nms="outside", size=(64, 64))
    assert "NonMaxSuppression" not in {node.op_type for node in onnx.load(path).graph.node}
    images = torch.stack([image for image, _ in drawn_objects(2, 64, 1)])
    with torch.inference_mode():
        inside = DeployedInstances(model)(images)
    for image, (boxes, scores, labels, _) in enumerate(zip(*run(path, images), strict=True)):
        kept = batched_nms(boxes, scores, labels, model.head.nms)
        assert 0 < len(kept) < len(boxes)
        assert (inside[0][image, : len(kept)] - boxes[kept]).abs().max() < 1e-3
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(path, images[..., :32])


def test_a_file_that_gives_other_objects_or_cannot_be_compared_is_refused_with_the_numbers(
    model: InstanceSegmenter, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(model)
    other.head.anchors[-1].bias.data.add_(0.5)
    monkeypatch.setattr("finetune.exporters.instance_onnx.trace", lambda *arguments: shutil.copy(path, arguments[2]))
    with pytest.raises(
        ExportError, match=r"other objects than the model, or none: 0 of \d+ objects agree; boxes differ by .*\. No"
    ):
        export_instances(other, tmp_path / "model.onnx", size=(64, 64))
    other.head.anchors[-1].weight.data.zero_()
    other.head.anchors[-1].bias.data.fill_(-9)  # all scores are equal, so that no objects are the best
    with pytest.raises(ExportError, match=r"or none: 0 of 0 objects agree.*samples=IMAGES"):
        export_instances(other, tmp_path / "model.onnx", size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def outputs(boxes: list[list[float]], scores: list[float], labels: list[int], masks: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), torch.tensor(masks).float()[:, None]]


def test_objects_are_compared_with_those_that_are_most_like_them_in_any_order() -> None:
    ours = outputs([[0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12.0]], [0.9, 0.9, 0.1], [0, 1, 0], [[1, 1], [1, 0], [0, 0]])
    theirs = outputs([[0, 0, 4, 5], [0, 0, 4, 4], [1, 1, 2, 2.0]], [0.9, 0.8, 0.1], [1, 0, 0], [[1, 1], [1, 1], [0, 0]])
    found = differences(ours, theirs)
    assert np.allclose(found, [[0, 0.1, 0], [1, 0, 0.5]])  # not the last, which may be any of equal scores
    assert differences(ours, [each[2:] for each in theirs])[:, 0].tolist() == [2, float("inf")]
    assert differences([each[:0] for each in ours], theirs).shape == (0, 3)


def test_a_head_whose_masks_follow_its_boxes_is_refused_by_name(model: InstanceSegmenter) -> None:
    class Other(nn.Module):
        head = nn.Identity()

        def config(self) -> dict[str, str]:
            return {"head": "mask_rcnn"}

    with pytest.raises(ValueError, match=r"head=mask_rcnn cannot be written as ONNX.*Train head=yolact"):
        DeployedInstances(Other())
    with pytest.raises(ValueError, match=r"export.nms=none: expected inside or outside"):
        DeployedInstances(model, nms="none")


def test_an_error_while_comparing_leaves_no_file(
    model: InstanceSegmenter, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.exporters.instance_onnx.trace", lambda *arguments: shutil.copy(path, arguments[2]))
    monkeypatch.setattr("finetune.exporters.instance_onnx.differences", lambda *sides: 1 / 0)
    with pytest.raises(ExportError, match="with head yolact cannot be exported like this: division by zero"):
        export_instances(model, tmp_path / "model.onnx", size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_read_is_no_fault_of_the_model(
    model: InstanceSegmenter, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def samples() -> Iterator[Tensor]:
        raise DataError("'x.png' cannot be decoded")
        yield

    monkeypatch.setattr("finetune.exporters.instance_onnx.trace", lambda *arguments: shutil.copy(path, arguments[2]))
    with pytest.raises(DataError, match=r"'x\.png' cannot be decoded"):
        export_instances(model, tmp_path / "model.onnx", size=(64, 64), samples=samples())


def test_a_failed_export_leaves_the_folder_that_was_there_and_no_other(
    model: InstanceSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "run", model, {}, {}, {"name": "instance"})
    monkeypatch.setattr("finetune.exporters.instance_onnx.trace", lambda *arguments: 1 / 0)
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(ExportError, match="division by zero"):
            finetune.export(f"run={tmp_path / 'run'}", "format=onnx", f"output={tmp_path / name}")
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "new").exists()
