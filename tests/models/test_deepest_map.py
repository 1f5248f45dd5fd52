"""Heads that read one map get the deepest, also of backbones without a map of stride 32."""

import pytest
import torch

from finetune.models import Backbone, Segmenter
from tests.models.sampling import slow_unless

# backbones without a map of stride 32, and the index of their deepest map
DEEPEST = {
    "volo_d1_224": 3,
    "sequencer2d_s": 3,
    "crossvit_9_240": 5,
    "cait_xxs24_224": 23,
    "nest_tiny": 2,
    "vit_tiny_patch16_224": 11,
}


HEADS = ["setr_pup", "mask_transformer", "deeplabv3", "fcn", "deeplabv3plus"]
QUICK = [*(("vit_tiny_patch16_224", head) for head in HEADS), ("crossvit_9_240", "setr_pup"), ("nest_tiny", "fcn")]


@pytest.mark.parametrize(("name", "head"), slow_unless(QUICK, [(name, head) for name in DEEPEST for head in HEADS]))
def test_a_head_of_one_map_reads_the_deepest_map_of_a_backbone_without_stride_32(name: str, head: str) -> None:
    with torch.device("meta"):
        model = Segmenter(name, head, 3, weights="none")
    assert max(model.backbone.indices) == DEEPEST[name]
    assert model.neck.strides[-1] <= 16  # the map is not shrunk
    assert model.backbone.levels[-1].index == DEEPEST[name]


def test_maps_of_crossvit_are_chosen_by_the_depth_of_their_blocks() -> None:
    with torch.device("meta"):
        backbone = Backbone("crossvit_9_240", "none")
    blocks = len(backbone.model.blocks)
    assert [level.index % blocks for level in backbone.levels] == [0, 1, 1, 2]
    assert [level.index // blocks for level in backbone.levels] == [0, 0, 1, 1]  # branches of small and large patches


@pytest.mark.slow
def test_all_blocks_of_crossvit_train_under_a_head_of_one_map() -> None:
    model = Segmenter("crossvit_tiny_240", "setr_pup", 3, weights="none")
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()
    assert all(model.backbone.model.blocks[i].blocks[1][0].attn.qkv.weight.grad is not None for i in range(3))
