"""Logits have exactly the image's size: one pixel above and below every stride, portrait and landscape."""

import pytest
import torch
from torch.nn import functional as F

from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL
from tests.models.sampling import slow_unless

# one above and one below 2, 4, 8, 16 and 32, and beyond that a portrait and a landscape
SIZES = [(1, 3), (3, 1), (5, 7), (9, 15), (17, 31), (33, 31), (31, 33), (53, 37), (37, 53)]
LARGE = [size for size in SIZES if max(size) > 32]  # padded to more than one pixel of stride 32
BUILT_DIFFERENTLY = [
    "unet",
    "fpn",
    "deeplabv3plus",
    "pspnet",
    "segformer",
    "dpt",
    "fcn",
    "setr_pup",
    "mask_transformer",
]
BACKBONES = ["test_resnet", "eva02_tiny_patch14_224", "levit_128s"]  # strides of 2 to 32; 14; 16 to 64 at one size


def segmenter(backbone: str, head: str) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(backbone, head, 3, weights="none", head_options=SMALL[head], image_size=(64, 64))


QUICK = [
    *((head, "test_resnet") for head in BUILT_DIFFERENTLY),
    ("fpn", "eva02_tiny_patch14_224"),
    ("unet", "levit_128s"),
]


@pytest.mark.parametrize(
    ("head", "backbone"), slow_unless(QUICK, [(head, name) for head in BUILT_DIFFERENTLY for name in BACKBONES])
)
@torch.no_grad()
def test_the_logits_of_one_image_of_any_size_have_its_size(head: str, backbone: str) -> None:
    model = segmenter(backbone, head).eval()
    for size in SIZES:
        logits = model(torch.randn(1, 3, *size))
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()


@pytest.mark.parametrize("head", [head for head in BUILT_DIFFERENTLY if not HEADS[head].pools_to_a_pixel])
def test_one_image_of_any_size_is_enough_for_a_training_step(head: str) -> None:
    model = segmenter("test_resnet", head)
    for size in LARGE:
        model.zero_grad()
        logits = model(torch.randn(1, 3, *size))
        assert logits.shape == (1, 3, *size)
        F.cross_entropy(logits, torch.ones(1, *size, dtype=torch.long)).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


def test_the_sizes_are_next_to_every_stride() -> None:
    sides = {side for size in SIZES for side in size}
    assert {stride + offset for stride in (2, 4, 8, 16, 32) for offset in (-1, 1)} <= sides
    assert {height > width for height, width in SIZES} == {True, False}
