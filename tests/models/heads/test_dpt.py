"""DPT on pyramids, and on plain ViTs as smp builds it."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

from finetune.models import Segmenter
from finetune.models.features import read_tokens
from finetune.models.heads import HEADS, PyramidSpec
from tests.models.heads.pyramids import SMALL, WITH_STRIDE_2, build, draw, logits, pyramid_for, settle

TOKENS = PyramidSpec(WITH_STRIDE_2, (1, 2, 4, 8, 16, 32), tokens=2)


@pytest.mark.parametrize("readout", ["cat", "add", "ignore"])
def test_on_a_plain_vit_with_class_tokens_the_logits_equal_those_of_smp(readout: str) -> None:
    small = {"decoder_intermediate_channels": [8, 8, 16, 16], "decoder_fusion_channels": 16}
    theirs = smp.DPT(
        "tu-test_vit", encoder_weights=None, classes=3, decoder_readout=readout, dynamic_img_size=True, **small
    ).eval()
    settle(theirs)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, tokens = theirs.encoder(images)
        expected = theirs(images)
    pyramid = PyramidSpec((3, 0, *theirs.encoder.out_channels), (1, 2, *theirs.encoder.output_strides), tokens=1)
    decoder, classifier = HEADS["dpt"].build(pyramid, 3, readout=readout, **SMALL["dpt"])
    decoder.load_state_dict(theirs.decoder.state_dict())
    classifier.load_state_dict(theirs.segmentation_head.state_dict())
    ours = logits((decoder.eval(), classifier.eval()), [images, images.new_empty(2, 0, 32, 48), *maps, tokens])
    assert torch.equal(ours, expected)
    assert ours.std() > 0


def test_on_a_pyramid_the_map_equals_that_of_smps_decoder() -> None:
    pyramid = pyramid_for("dpt")
    decoder, _ = build("dpt", pyramid)
    theirs = DPTDecoder(
        pyramid.channels[2:],
        pyramid.strides[2:],
        encoder_has_prefix_tokens=False,
        readout="ignore",
        **SMALL["dpt"],
    )
    theirs.load_state_dict(decoder.state_dict())
    features = draw(pyramid, 64, 96)
    with torch.no_grad():
        assert torch.equal(decoder(features), theirs.eval()(features[2:], [None] * 4))


def test_auto_reads_tokens_if_there_are_any() -> None:
    decoder, _ = build("dpt", TOKENS)
    assert str(decoder) == str(build("dpt", TOKENS, readout="cat")[0])
    assert str(build("dpt", pyramid_for("dpt"))[0]) == str(build("dpt", TOKENS, readout="ignore")[0])


def test_a_patch_size_that_is_not_a_power_of_two_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"head=dpt .* strides \(14, 14, 14, 14\)\. Choose another patch size"):
        build("dpt", PyramidSpec(WITH_STRIDE_2, (1, 2, 14, 14, 14, 14)))


@pytest.mark.parametrize("readout", ["cat", "add"])
def test_reading_missing_tokens_is_an_error(readout: str) -> None:
    with pytest.raises(ValueError, match=rf"readout={readout}: .* no class tokens\. Set head.readout=auto"):
        build("dpt", pyramid_for("dpt"), readout=readout)


@pytest.mark.parametrize(("readout", "reads"), [("auto", True), ("cat", True), ("add", True), ("ignore", False)])
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "test_vit"])
def test_class_tokens_are_read_for_any_patch_size(name: str, readout: str, reads: bool) -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 64, "depth": 4, "num_heads": 2}
    options = SMALL["dpt"] | {"readout": readout}
    model = Segmenter(name, "dpt", 3, weights="none", backbone_options=small, head_options=options).eval()
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        before = model(images)
        for tokens in model.backbone(images)[4]:
            assert tokens.shape == (1, model.backbone.num_prefix_tokens, 64)
        model.backbone._read = lambda *args: other_tokens(*read_tokens(*args))
        assert torch.equal(model(images), before) != reads


def other_tokens(maps: Any, tokens: list[Any]) -> tuple[Any, list[Any]]:
    return maps, [value + 1 for value in tokens]
