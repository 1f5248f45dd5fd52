"""Deep supervision of U-Net, and U-Nets that end early."""

import pytest
import torch

from finetune.models import Segmenter
from finetune.models.heads import levels_read
from tests.models.heads.pyramids import FROM_STRIDE_4, build, draw, pyramid_for


def test_deep_supervision_adds_logits_of_the_four_maps_before_the_last() -> None:
    pyramid = pyramid_for("unet", FROM_STRIDE_4)
    decoder, _ = build("unet", pyramid, deep_supervision=True, center=True)
    features = draw(pyramid, 64, 96, batch=2)
    x, auxiliary = decoder.forward_with_auxiliary(features)
    assert torch.equal(x, decoder(features))
    assert [logits.shape for logits in auxiliary] == [(2, 3, 64, 96)] * 4
    assert all(logits.std() > 0 for logits in auxiliary)


def test_the_first_auxiliary_logits_are_the_coarsest() -> None:
    pyramid = pyramid_for("unet")
    decoder, _ = build("unet", pyramid, deep_supervision=True)
    features = draw(pyramid, 64, 64)
    block = decoder.blocks[0]
    coarsest = decoder.classifiers[0](block(features[5], 4, 4, skip_connection=features[4]))
    expected = torch.nn.functional.interpolate(coarsest, (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(decoder.forward_with_auxiliary(features)[1][0], expected)


def test_without_deep_supervision_there_are_no_auxiliary_logits_and_no_further_parameters() -> None:
    pyramid = pyramid_for("unet")
    decoder, _ = build("unet", pyramid)
    assert decoder.forward_with_auxiliary(draw(pyramid, 32, 32))[1] == []
    assert not any(name.startswith("classifiers") for name in decoder.state_dict())
    assert levels_read(decoder) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(("blocks", "stride", "levels"), [(4, 2, (1, 2, 3, 4, 5)), (3, 4, (2, 3, 4, 5))])
@pytest.mark.parametrize("attention", [None, "scse"])
def test_fewer_channels_end_the_decoder_early(
    blocks: int, stride: int, levels: tuple[int, ...], attention: str | None
) -> None:
    widths = [32, 32, 16, 16, 16]
    pyramid = pyramid_for("unet", (3, 16, 32, 32, 48, 48))
    options = {"attention_type": attention, "deep_supervision": True}
    whole, _ = build("unet", pyramid, decoder_channels=widths, **options)
    decoder, head = build("unet", pyramid, decoder_channels=widths[:blocks], **options)
    assert levels_read(decoder) == levels
    own = decoder.state_dict()
    decoder.load_state_dict({name: value for name, value in whole.state_dict().items() if name in own})
    features = draw(pyramid, 64, 96)
    x, auxiliary = decoder.forward_with_auxiliary(features)
    assert x.shape == (1, widths[blocks - 1], 64 // stride, 96 // stride)
    seen: list[torch.Tensor] = []
    whole.blocks[blocks - 1].register_forward_hook(lambda *call: seen.append(call[2]))
    whole(features)
    assert torch.equal(x, seen[0])
    assert torch.equal(decoder(features), x)
    assert len(auxiliary) == blocks - 1
    assert head(x).shape == (1, 3, 64, 96)


def test_a_model_that_ends_early_has_logits_of_the_size_of_the_image_and_trains_all_of_its_decoder() -> None:
    model = Segmenter("test_resnet.r160_in1k", "unet", weights="none", head_options={"decoder_channels": [16, 16, 8]})
    assert model(torch.rand(2, 3, 33, 47)).shape == (2, 2, 33, 47)
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert not [name for name, p in model.decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
