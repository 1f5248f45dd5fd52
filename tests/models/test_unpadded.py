"""Images that a backbone takes as they are, though 32 does not divide them, and would resample if they were padded."""

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL

DINO = "vit_small_patch14_dinov2"
NARROW = {"embed_dim": 64, "depth": 4, "num_heads": 2}


def spied(model: Segmenter, seen: list[Tensor]) -> Segmenter:
    """The model, which notes what timm's gets."""
    original = model.backbone.model.forward_intermediates

    def noting(images: Tensor, **options: Any) -> Any:
        seen.append(images)
        return original(images, **options)

    model.backbone.model.forward_intermediates = noting
    return model


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        (DINO, NARROW, (70, 98), (70, 98)),
        (DINO, NARROW, (70, 96), (98, 98)),  # 14 does not divide 96: padded to 96x96, and resampled
        (DINO, NARROW, (224, 448), (224, 448)),
        ("crossvit_tiny_240", {}, (240, 240), (240, 240)),
        ("test_vit", {}, (48, 80), (64, 96)),  # as ever: it takes the padded ones as they are
        ("test_resnet", {}, (48, 80), (64, 96)),
    ],
)
def test_a_backbone_gets_the_image_itself_where_it_would_resample_the_padded_one(
    name: str, options: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    seen: list[Tensor] = []
    model = spied(Segmenter(name, "linear", 2, weights="none", backbone_options=options).eval(), seen)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert model(images).shape == (1, 2, *size)
    assert seen[0].shape[-2:] == expected
    if size == expected:
        assert torch.equal(seen[0], images)


@pytest.mark.parametrize("head", [head for head in HEADS if head != "segnet"])
def test_every_head_learns_from_such_images(head: str) -> None:
    with torch.device("meta"):
        model = Segmenter(DINO, head, 2, weights="none", backbone_options=NARROW, head_options=SMALL[head])
        outputs = model(torch.randn(2, 3, 70, 98), auxiliary=True)
        assert all(logits.shape == (2, 2, 70, 98) for logits in outputs)
        sum(logits.square().mean() for logits in outputs).backward()
        assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()


def test_what_is_seen_is_where_it_was() -> None:
    torch.manual_seed(0)
    model = Segmenter(DINO, "linear", 2, weights="none", backbone_options=NARROW).eval()
    images = torch.randn(1, 3, 70, 98)
    with torch.no_grad():
        change = (model(images) - model(images.index_add(3, torch.tensor([90]), torch.ones(1, 3, 70, 1)))).abs()
    columns = change.sum(dim=(0, 1, 2))
    assert 70 <= columns.argmax() < 98  # the last two patches of 14 pixels, and not beyond what was cropped
