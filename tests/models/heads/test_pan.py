"""The attention of PAN on maps too small for its poolings."""

import torch
from segmentation_models_pytorch.decoders.pan.decoder import FPABlock

from finetune.models.heads.pan import PyramidAttention


def attentions() -> tuple[PyramidAttention, FPABlock]:
    torch.manual_seed(0)
    ours, theirs = PyramidAttention(6, 4).eval(), FPABlock(6, 4).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@torch.no_grad()
def test_from_eight_pixels_the_attention_equals_that_of_smp() -> None:
    ours, theirs = attentions()
    for size in [(8, 8), (9, 15)]:
        x = torch.randn(1, 6, *size)
        assert torch.equal(ours(x), theirs(x))


@torch.no_grad()
def test_smaller_maps_keep_their_size_and_a_constant_map_has_the_same_result_at_any_size() -> None:
    ours, theirs = attentions()
    for size in [(1, 1), (2, 9), (7, 3)]:
        assert ours(torch.randn(1, 6, *size)).shape == (1, 4, *size)
    constant = torch.randn(1, 6, 1, 1)
    expected = theirs(constant.expand(1, 6, 8, 8)).mean(dim=(2, 3))
    assert torch.allclose(ours(constant)[..., 0, 0], expected, atol=1e-6)
