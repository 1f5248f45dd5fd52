"""Deep supervision of U-Net, sums of logits, and U-Nets that end early."""

import pytest
import torch

from finetune.models import Segmenter
from finetune.models.heads import levels_read
from tests.models.heads.pyramids import FROM_STRIDE_4, build, draw, logits, pyramid_for


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


@pytest.mark.parametrize("widths", [[16, 16, 8, 8, 8], [16, 16, 8]])
def test_summed_logits_are_those_of_a_linear_layer_on_each_map_enlarged_and_added(widths: list[int]) -> None:
    pyramid = pyramid_for("unet")
    decoder, classifiers = build("unet", pyramid, decoder_channels=widths, sum_logits=True)
    features = draw(pyramid, 64, 96)
    maps = decoder(features)
    assert [x.shape[1] for x in maps] == widths
    expected = torch.zeros(1, 3, 2, 3)
    for layer, x in zip(classifiers.layers, maps, strict=True):
        enlarged = torch.nn.Upsample(scale_factor=2, mode="bilinear")(expected)
        windows = torch.nn.functional.unfold(x, layer.kernel_size, padding=layer.padding)
        scores = layer.weight.flatten(1) @ windows + layer.bias[:, None]
        expected = enlarged + scores.unflatten(-1, x.shape[-2:])
    expected = torch.nn.functional.interpolate(expected, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits((decoder, classifiers), features), expected, rtol=0, atol=1e-5)


def test_with_summed_logits_the_decoder_and_its_auxiliary_logits_are_as_without() -> None:
    pyramid = pyramid_for("unet")
    features = draw(pyramid, 64, 64)
    decoder, _ = build("unet", pyramid, sum_logits=True, deep_supervision=True)
    usual, _ = build("unet", pyramid, deep_supervision=True)
    usual.load_state_dict(decoder.state_dict())
    maps, auxiliary = decoder.forward_with_auxiliary(features)
    x, expected = usual.forward_with_auxiliary(features)
    assert torch.equal(maps[-1], x)
    assert len(maps) == 5
    assert all(map(torch.equal, auxiliary, expected))


@pytest.mark.parametrize("output_stride", [8, 32])
def test_a_segmenter_with_summed_logits_trains_every_classifier_on_images_of_any_size(output_stride: int) -> None:
    options = {"decoder_channels": [16, 16, 8, 8, 8], "sum_logits": True}
    model = Segmenter("test_resnet", "unet", 3, weights="none", output_stride=output_stride, head_options=options)
    scores = model(torch.randn(2, 3, 37, 70))
    assert scores.shape == (2, 3, 37, 70)
    scores[:, 0].sum().backward()
    assert all(layer.weight.grad[0].abs().max() > 0 for layer in model.head.layers)
