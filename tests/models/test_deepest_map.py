"""Heads of one map read the last of a backbone without coarser ones, however many strides it has."""

import pytest
import torch

from finetune.models import Backbone, Segmenter

# without a map of stride 32, and the last of each
LAST = {
    "volo_d1_224": 3,
    "sequencer2d_s": 3,
    "crossvit_9_240": 5,
    "cait_xxs24_224": 23,
    "nest_tiny": 2,
    "vit_tiny_patch16_224": 11,
}


@pytest.mark.parametrize("head", ["setr_pup", "mask_transformer", "deeplabv3", "fcn", "deeplabv3plus"])
@pytest.mark.parametrize(("name", "last"), LAST.items())
def test_a_head_of_one_map_reads_the_last_of_a_backbone_without_coarser_ones(name: str, last: int, head: str) -> None:
    with torch.device("meta"):
        model = Segmenter(name, head, 3, weights="none")
    assert max(model.backbone.indices) == last
    assert model.neck.strides[-1] <= 16  # not shrunk to less than the map has
    assert model.backbone.levels[-1].index == last


def test_maps_of_crossvit_are_chosen_by_the_depth_of_their_blocks() -> None:
    backbone = Backbone("crossvit_9_240", "none")
    blocks = len(backbone.model.blocks)
    assert [level.index % blocks for level in backbone.levels] == [0, 1, 1, 2]
    assert [level.index // blocks for level in backbone.levels] == [0, 0, 1, 1]  # branches of small and large patches


def test_all_blocks_of_crossvit_learn_under_a_head_of_one_map() -> None:
    model = Segmenter("crossvit_tiny_240", "setr_pup", 3, weights="none")
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()
    assert all(model.backbone.model.blocks[i].blocks[1][0].attn.qkv.weight.grad is not None for i in range(3))
