"""Every head on pyramids with and without stride 2, dilated or not."""

import inspect
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from finetune.config.compose import config_folder
from finetune.config.settings import RECIPE
from finetune.models.heads import HEADS, HasAuxiliaryOutputs, HeadSpec, head_spec, levels_read
from finetune.models.instance_heads import INSTANCE_HEADS
from tests.models.heads.pyramids import (
    FROM_STRIDE_4,
    SMALL,
    WITH_STRIDE_2,
    build,
    draw,
    logits,
    pyramid_for,
)

# another value of every option; a dict where further options must be set with it
OTHERS: dict[str, dict[str, Any]] = {
    "unet": {
        "decoder_channels": [16, 16, 8, 8, 4],
        "attention_type": {"attention_type": "scse", "decoder_channels": [16] * 5},
        "interpolation": "bilinear",
        "norm": "instancenorm",
        "center": True,
        "deep_supervision": True,
        "sum_logits": True,
    },
    "unetplusplus": {
        "decoder_channels": [16, 16, 8, 8, 4],
        "attention_type": {"attention_type": "scse", "decoder_channels": [16] * 5},
        "interpolation": "bilinear",
        "norm": "instancenorm",
        "center": True,
    },
    "manet": {
        "decoder_channels": [16, 16, 8, 8, 4],
        "pab_channels": 4,
        "reduction": 8,
        "interpolation": "bicubic",
        "norm": "identity",
    },
    "linknet": {"prefinal_channels": 4, "norm": {"norm": {"type": "batchnorm", "eps": 0.1}}},
    "fpn": {
        "pyramid_channels": 16,
        "segmentation_channels": 96,
        "merge_policy": "cat",
        "dropout": 0.5,
        "interpolation": "bilinear",
    },
    "pspnet": {"decoder_channels": 8, "stride": 16, "norm": "instancenorm", "dropout": 0.5},
    "pan": {"decoder_channels": 16, "interpolation": "nearest"},
    "deeplabv3": {"decoder_channels": 8, "atrous_rates": [1, 2, 3], "separable": True, "dropout": 0.1},
    "deeplabv3plus": {"decoder_channels": 8, "atrous_rates": [1, 2, 3], "separable": False, "dropout": 0.1},
    "upernet": {"decoder_channels": 8, "norm": "identity"},
    "segformer": {"segmentation_channels": 8},
    "dpt": {"readout": "cat", "intermediate_channels": [8, 8, 8, 8], "fusion_channels": 8},
    "linear": {"strides": [8, 32]},
    "fcn": {
        "channels": 8,
        "convolutions": 1,
        "kernel_size": 1,
        "concat_input": False,
        "stride": 4,
        "dropout": 0.5,
    },
    "hrnet": {"channels": None, "strides": [8, 32]},
    "ocr": {"channels": 8, "key_channels": 4, "strides": [8, 32], "dropout": 0.5},
    "segnet": {"convolutions": [1, 1, 1, 1, 1]},
    "setr_pup": {"channels": 8, "stride": 8},
    "mask_transformer": {"channels": 8, "layers": 1, "attention_heads": 4, "stride": 8, "dropout": 0.5},
}
PYRAMIDS = [(WITH_STRIDE_2, True), (WITH_STRIDE_2, False), (FROM_STRIDE_4, True)]
OPTIONS = [(head, option) for head, spec in HEADS.items() for option in spec.options()]


def test_every_head_has_a_small_form_and_a_config_file() -> None:
    folder = config_folder() / "head"
    assert set(SMALL) == set(HEADS) == set(OTHERS)
    assert set(HEADS) | set(INSTANCE_HEADS) == {path.stem for path in folder.glob("*.yaml")}
    assert len(HEADS) == 19


# of new trainings; the default of the option is for models that were saved before there was one
IMPROVED = {"unet": {"sum_logits": True}}


@pytest.mark.parametrize("head", HEADS)
def test_the_config_of_a_head_has_the_defaults_of_its_options(head: str) -> None:
    settings = yaml.safe_load((config_folder() / "head" / f"{head}.yaml").read_text())
    settings |= {name: RECIPE.get(f"head.{name}", "auto") for name, value in settings.items() if value == "auto"}
    parameters = list(inspect.signature(HEADS[head].build).parameters.values())[2:]
    defaults = {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}
    assert settings == {"name": head, **defaults, **IMPROVED.get(head, {})}


@pytest.mark.parametrize(("channels", "dilated"), PYRAMIDS)
@pytest.mark.parametrize("head", HEADS)
def test_the_logits_have_the_size_of_the_images(head: str, channels: tuple[int, ...], dilated: bool) -> None:
    pyramid = pyramid_for(head, channels, dilated)
    parts = build(head, pyramid)
    for height, width in [(32, 32), (32, 64), (96, 64)]:
        scores = logits(parts, draw(pyramid, height, width))
        assert scores.shape == (1, 3, height, width)
        assert scores.isfinite().all()
        assert scores.std() > 0


@pytest.mark.parametrize("channels", [WITH_STRIDE_2, FROM_STRIDE_4])
@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_every_parameter_and_exactly_the_levels_that_the_decoder_declares(
    head: str, channels: tuple[int, ...]
) -> None:
    pyramid = pyramid_for(head, channels)
    decoder, classifier = build(head, pyramid, **({"deep_supervision": True} if head == "unet" else {}))
    features = draw(pyramid, 64, 96, batch=2)
    maps = [feature.requires_grad_() for feature in features[1:6]]
    all_logits(decoder.train(), classifier.train(), features).square().mean().backward()
    parameters = {**dict(decoder.named_parameters()), **dict(classifier.named_parameters())}
    assert [name for name, p in parameters.items() if p.grad is None] == []
    # a bias in front of a batch norm has a gradient of zero
    assert [name for name, p in parameters.items() if p.dim() > 1 and not p.grad.any()] == []
    existing = [level for level in range(1, 6) if channels[level]]
    read = [level for level in existing if maps[level - 1].grad is not None]
    assert read == [level for level in levels_read(decoder) if level in existing]


def all_logits(decoder: Any, classifier: Any, features: list[Any]) -> Tensor:
    if not isinstance(decoder, HasAuxiliaryOutputs):
        return classifier(decoder(features))
    x, auxiliary = decoder.forward_with_auxiliary(features)
    return torch.stack([classifier(x), *auxiliary])


# segnet needs a pooling; what mask_transformer sees goes everywhere before it is trained
@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("segnet", "mask_transformer")])
def test_what_is_seen_in_a_corner_changes_the_logits_there_most(head: str) -> None:
    pyramid = pyramid_for(head, dilated=False)
    parts = build(head, pyramid)
    features = draw(pyramid, 128, 128)
    changed = [feature.clone() for feature in features]
    for feature in changed[1:]:
        height, width = feature.shape[-2] // 4, feature.shape[-1] // 4
        feature[..., :height, :width] += 3
    change = (logits(parts, changed) - logits(parts, features)).abs().mean((0, 1))
    ends = slice(0, 32), slice(96, 128)
    corners = [change[rows, columns].mean().item() for rows in ends for columns in ends]
    assert max(corners) == corners[0]
    assert corners[0] > 1.5 * max(corners[1:])


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one_trains_unless_the_head_pools_to_a_pixel(head: str) -> None:
    pyramid = pyramid_for(head, dilated=False)
    decoder, classifier = build(head, pyramid)
    features = draw(pyramid, 64, 64)
    if HEADS[head].pools_to_a_pixel:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            classifier(decoder.train()(features))
    else:
        assert classifier(decoder.train()(features)).requires_grad


@pytest.mark.parametrize("head", HEADS)
def test_the_logits_of_an_image_do_not_depend_on_its_batch(head: str) -> None:
    pyramid = pyramid_for(head)
    parts = build(head, pyramid)
    first, second = draw(pyramid, 64, 96), draw(pyramid, 64, 96)
    both = [torch.cat(pair) for pair in zip(first[:6], second[:6], strict=True)]
    if pyramid.pools:
        both.append([torch.cat(pair) for pair in zip(first[6], second[6], strict=True)])
    expected = torch.cat([logits(parts, first), logits(parts, second)])
    assert torch.allclose(logits(parts, both), expected, atol=1e-4)


@pytest.mark.parametrize(("head", "option"), OPTIONS)
def test_every_option_changes_the_head(head: str, option: str) -> None:
    other = OTHERS[head][option]
    options = other if isinstance(other, dict) else {option: other}
    others = {name: value for name, value in options.items() if name != option}
    pyramid = pyramid_for(head)
    if head == "dpt":
        pyramid = type(pyramid)(pyramid.channels, pyramid.strides, tokens=1 if option == "readout" else 0)
        others = {"readout": "ignore"} if option == "readout" else {}
    before, after = build(head, pyramid, **others), build(head, pyramid, **options)
    if str(before) == str(after):
        features = draw(pyramid, 64, 96)
        assert not torch.equal(logits(before, features), logits(after, features))


def test_the_specs_tell_which_decoders_have_auxiliary_outputs() -> None:
    for head, spec in HEADS.items():
        decoder, _ = build(head, pyramid_for(head))
        assert isinstance(decoder, HasAuxiliaryOutputs) == spec.auxiliary, head


@pytest.mark.parametrize(("typed", "hint"), [("unett", "Did you mean unet"), ("qqq", "Choose from: unet, fpn")])
def test_the_error_for_an_unknown_head_suggests_the_nearest_names(typed: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown head '{typed}'.*{hint}"):
        head_spec(typed)


def test_a_known_head_is_found() -> None:
    assert isinstance(head_spec("ocr"), HeadSpec)
    assert head_spec("ocr").options() == ["channels", "key_channels", "strides", "dropout"]
