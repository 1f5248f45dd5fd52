"""Images of sizes that a backbone accepts, although they are not multiples of 32, and would resample if padded."""

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL
from tests.models.sampling import slow_unless

DINO = "vit_small_patch14_dinov2"
NARROW = {"embed_dim": 64, "depth": 4, "num_heads": 2}


def recording(model: Segmenter, inputs: list[Tensor]) -> Segmenter:
    """Make the model record the inputs of timm's model."""
    original = model.backbone.model.forward_intermediates

    def record(images: Tensor, **options: Any) -> Any:
        inputs.append(images)
        return original(images, **options)

    model.backbone.model.forward_intermediates = record
    return model


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        (DINO, NARROW, (70, 98), (70, 98)),
        (DINO, NARROW, (70, 96), (98, 98)),  # 14 does not divide 96: padded to 96x96, and resampled
        (DINO, NARROW, (224, 448), (224, 448)),
        ("crossvit_tiny_240", {}, (240, 240), (240, 240)),
        ("test_vit", {}, (48, 80), (64, 96)),  # it accepts the padded image
        ("test_resnet", {}, (48, 80), (64, 96)),
    ],
)
def test_a_backbone_gets_the_unpadded_image_if_it_would_resample_the_padded_one(
    name: str, options: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    inputs: list[Tensor] = []
    model = recording(Segmenter(name, "linear", 2, weights="none", backbone_options=options).eval(), inputs)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert model(images).shape == (1, 2, *size)
    assert inputs[0].shape[-2:] == expected
    if size == expected:
        assert torch.equal(inputs[0], images)


QUICK_HEADS = ["unet", "fpn", "dpt", "setr_pup"]


@pytest.mark.parametrize("head", slow_unless(QUICK_HEADS, [head for head in HEADS if head != "segnet"]))
def test_every_head_trains_on_such_images(head: str) -> None:
    model = Segmenter(DINO, head, 2, weights="none", backbone_options=NARROW, head_options=SMALL[head])
    outputs = model(torch.randn(2, 3, 70, 98), auxiliary=True)
    assert all(logits.shape == (2, 2, 70, 98) for logits in outputs)
    sum(logits.square().mean() for logits in outputs).backward()
    assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()


def test_logits_are_at_the_position_of_their_pixels() -> None:
    torch.manual_seed(0)
    model = Segmenter(DINO, "linear", 2, weights="none", backbone_options=NARROW).eval()
    images = torch.randn(1, 3, 70, 98)
    with torch.no_grad():
        change = (model(images) - model(images.index_add(3, torch.tensor([90]), torch.ones(1, 3, 70, 1)))).abs()
    columns = change.sum(dim=(0, 1, 2))
    assert 70 <= columns.argmax() < 98  # the last two patches of 14 pixels, and not beyond what was cropped
