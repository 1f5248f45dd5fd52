"""The heads built from smp's decoders, against smp's models."""

import inspect
from functools import cache
from typing import Any
from unittest import mock

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from finetune.models.heads import HEADS, PyramidSpec
from tests.models.heads.pyramids import SMALL, logits, settle
from tests.models.sampling import slow_unless

COMMON = {
    "decoder_channels": "decoder_channels",
    "interpolation": "decoder_interpolation",
    "norm": "decoder_use_norm",
    "attention_type": "decoder_attention_type",
    "pab_channels": "decoder_pab_channels",
    "pyramid_channels": "decoder_pyramid_channels",
    "segmentation_channels": "decoder_segmentation_channels",
    "merge_policy": "decoder_merge_policy",
    "dropout": "decoder_dropout",
}
ATROUS = {"atrous_rates": "decoder_atrous_rates", "separable": "decoder_aspp_separable"}
ATROUS |= {"dropout": "decoder_aspp_dropout"}
PSP = {"decoder_channels": "psp_out_channels", "dropout": "psp_dropout", "norm": "decoder_use_norm"}
THEIRS: dict[str, tuple[Any, dict[str, str]]] = {
    "unet": (smp.Unet, COMMON),
    "unetplusplus": (smp.UnetPlusPlus, COMMON),
    "manet": (smp.MAnet, COMMON),
    "linknet": (smp.Linknet, COMMON),
    "fpn": (smp.FPN, COMMON),
    "pspnet": (smp.PSPNet, PSP),
    "pan": (smp.PAN, COMMON),
    "deeplabv3": (smp.DeepLabV3, {**COMMON, **ATROUS}),
    "deeplabv3plus": (smp.DeepLabV3Plus, {**COMMON, **ATROUS}),
    "upernet": (smp.UPerNet, COMMON),
    "segformer": (smp.Segformer, COMMON),
    "dpt": (smp.DPT, {"intermediate_channels": "decoder_intermediate_channels"}),
}
# options that smp's models have no argument for: derived from the backbone, fixed, or only ours
OURS = {"center", "deep_supervision", "sum_logits", "reduction", "prefinal_channels", "stride", "readout"}
ON_PYRAMIDS = [head for head in THEIRS if head != "dpt"]
SIZE = (64, 96)
LARGER = (128, 160)  # large enough for the poolings of pan
VARIANTS = [
    ("unet", {"interpolation": "bilinear", "norm": {"type": "instancenorm", "affine": True}}),
    ("unetplusplus", {"interpolation": "bicubic", "norm": {"type": "batchnorm", "eps": 0.01}}),
    ("manet", {"pab_channels": 4, "norm": "identity"}),
    ("linknet", {"norm": "identity"}),
    ("fpn", {"merge_policy": "cat", "interpolation": "bilinear"}),
    ("pspnet", {"norm": "identity"}),
    ("pan", {"interpolation": "nearest"}),
    ("deeplabv3", {"separable": True, "atrous_rates": [1, 2, 3]}),
    ("deeplabv3plus", {"separable": False, "atrous_rates": [1, 2, 3]}),
    ("upernet", {"norm": "identity"}),
]


@cache
def images(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@cache
def encoded(backbone: str, depth: int, output_stride: int, size: tuple[int, int]) -> tuple[Any, list[Tensor]]:
    """Return an encoder of smp with settled statistics, and its maps of the images."""
    dilation = {"output_stride": output_stride} if output_stride != 32 else {}
    encoder = smp.encoders.get_encoder(f"tu-{backbone}", depth=depth, weights=None, **dilation)
    settle(encoder)
    with torch.no_grad():
        return encoder, encoder.eval()(images(*size))


def their_model(head: str, backbone: str, options: dict[str, Any]) -> tuple[Any, list[Tensor], Tensor]:
    """Return a model of smp around a cached encoder, the encoder's maps, and the logits."""
    theirs, names = THEIRS[head]
    size = LARGER if head == "pan" else SIZE
    depth = inspect.signature(theirs).parameters["encoder_depth"].default
    encoder, features = encoded(backbone, depth, HEADS[head].output_stride, size)
    with mock.patch(f"{theirs.__module__}.get_encoder", return_value=encoder):
        model = theirs(f"tu-{backbone}", classes=3, **{names[name]: value for name, value in options.items()}).eval()
    settle(model.decoder)
    with torch.no_grad():
        return model, list(features), model(images(*size))


def compare(head: str, backbone: str, options: dict[str, Any]) -> None:
    """Assert that our decoder and classifier give smp's logits with smp's weights, bit for bit."""
    model, features, expected = their_model(head, backbone, options)
    strides = tuple(expected.shape[2] // feature.shape[2] for feature in features)
    decoder, classifier = HEADS[head].build(PyramidSpec(tuple(model.encoder.out_channels), strides), 3, **options)
    decoder.load_state_dict(model.decoder.state_dict())
    classifier.load_state_dict(model.segmentation_head.state_dict())
    ours = logits((decoder.eval(), classifier), features)
    assert torch.equal(ours, expected)
    assert ours.std() > 0


def settable(head: str) -> dict[str, Any]:
    """Return the small form without the options that smp's models have no argument for."""
    return {name: value for name, value in SMALL[head].items() if name not in OURS}


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "convnext_atto"])
@pytest.mark.parametrize("head", ON_PYRAMIDS)
def test_the_logits_equal_those_of_smp(head: str, backbone: str) -> None:
    compare(head, backbone, settable(head))


@pytest.mark.parametrize("head", slow_unless(["linknet", "segformer"], ON_PYRAMIDS))
def test_the_logits_with_default_options_equal_those_of_smp(head: str) -> None:
    compare(head, "resnet18", {})


@pytest.mark.parametrize(("head", "options"), VARIANTS)
def test_the_logits_with_other_options_equal_those_of_smp(head: str, options: dict[str, Any]) -> None:
    compare(head, "resnet18", {**settable(head), **options})


@pytest.mark.parametrize("head", THEIRS)
def test_the_options_and_their_defaults_are_those_of_smp(head: str) -> None:
    theirs, names = THEIRS[head]
    defaults = {name: p.default for name, p in inspect.signature(theirs).parameters.items()}
    ours = {name: p.default for name, p in inspect.signature(HEADS[head].build).parameters.items()}
    known = {name for name in defaults if name.startswith(("decoder_", "psp_"))}
    matched = {name: names.get(name, f"decoder_{name}") for name in list(ours)[2:] if name not in OURS}
    assert {name: ours[name] for name in matched} == {name: defaults[theirs] for name, theirs in matched.items()}
    assert known - set(matched.values()) <= {"decoder_readout"}
    assert HEADS[head].output_stride == defaults.get("encoder_output_stride", 32)


@pytest.mark.parametrize("head", ["unet", "unetplusplus"])
def test_attention_equals_that_of_smp_except_for_the_part_that_smp_never_uses(head: str) -> None:
    options = {"decoder_channels": [16] * 5, "attention_type": "scse"}
    model, features, expected = their_model(head, "resnet18", options)
    pyramid = PyramidSpec(tuple(model.encoder.out_channels), (1, 2, 4, 8, 16, 32))
    decoder, classifier = HEADS[head].build(pyramid, 3, **options)
    missing, unexpected = decoder.load_state_dict(model.decoder.state_dict(), strict=False)
    last = "blocks.4" if head == "unet" else "blocks.x_0_4"
    assert missing == []
    assert {name.partition(".attention1.")[0] for name in unexpected} == {last}
    classifier.load_state_dict(model.segmentation_head.state_dict())
    assert torch.equal(logits((decoder.eval(), classifier), features), expected)
