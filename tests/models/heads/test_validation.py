"""Invalid head options are an error that names the next move."""

from typing import Any

import pytest

from finetune.builders.checks.model import check_head
from finetune.config.errors import ConfigError
from finetune.models.heads import HEADS
from tests.models.heads.pyramids import pyramid_for

MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("unet", {"decoder_channels": [8, 8]}, r"decoder_channels has 2 entries.* 5 levels need 3 to 5"),
    ("unet", {"decoder_channels": 8}, r"decoder_channels=8: expected a list of 3 to 5"),
    ("unet", {"decoder_channels": [8, 8, 8, 8, 0]}, r"decoder_channels=.*whole number of 1 or more"),
    ("unet", {"attention_type": "se"}, r"attention_type=se: expected null or scse"),
    (
        "unet",
        {"attention_type": "scse", "decoder_channels": [16, 16, 16, 16, 8]},
        r"attention_type=scse .* one of its maps has 8\. Set",
    ),
    ("unet", {"interpolation": "cubic"}, r"interpolation=cubic: expected nearest or bilinear"),
    ("unet", {"norm": "layernorm"}, r"norm=layernorm: expected batchnorm or instancenorm or identity"),
    ("unet", {"norm": {"eps": 0.1}}, r"norm.type=None: expected batchnorm"),
    ("unet", {"deep_supervision": 1}, r"deep_supervision=1: expected True or False"),
    ("unetplusplus", {"decoder_channels": [8] * 6}, r"decoder_channels has 6 entries"),
    ("manet", {"reduction": 0}, r"reduction=0: expected a whole number"),
    ("linknet", {"prefinal_channels": -1}, r"prefinal_channels=-1"),
    ("fpn", {"segmentation_channels": 48}, r"segmentation_channels=48: expected a multiple of 32"),
    ("fpn", {"merge_policy": "sum"}, r"merge_policy=sum: expected add or cat"),
    ("pspnet", {"stride": 64}, r"stride=64: there is no map of that stride"),
    ("pspnet", {"dropout": 20}, r"dropout=20: expected a number from 0 to 1"),
    ("pan", {"decoder_channels": 1.5}, r"decoder_channels=1\.5"),
    ("deeplabv3", {"atrous_rates": [6, 12]}, r"atrous_rates=\[6, 12\]: expected a list of 3"),
    ("deeplabv3plus", {"separable": "yes"}, r"separable=yes: expected True or False"),
    ("upernet", {"norm": "instancenorm"}, r"norm=instancenorm: expected batchnorm or identity"),
    ("segformer", {"segmentation_channels": 0}, r"segmentation_channels=0"),
    ("dpt", {"intermediate_channels": [8, 8]}, r"intermediate_channels=\[8, 8\]: expected a list of 4"),
    ("dpt", {"readout": "mean"}, r"readout=mean: expected auto or cat or add or ignore"),
    ("linear", {"strides": [3]}, r"strides=3: there is no map of that stride"),
    ("fcn", {"kernel_size": 2}, r"kernel_size=2: expected an odd number"),
    ("hrnet", {"channels": 0}, r"channels=0"),
    ("ocr", {"key_channels": True}, r"key_channels=True"),
    ("segnet", {"convolutions": [1, 1]}, r"convolutions=\[1, 1\]: expected a list of 5"),
    ("setr_pup", {"stride": 12}, r"stride=12: there is no map"),
    ("mask_transformer", {"channels": 30, "attention_heads": 4}, r"channels=30: expected a multiple of 4"),
]


@pytest.mark.parametrize(("head", "options", "message"), MISTAKES)
def test_an_invalid_option_is_named_by_the_head_and_by_the_check_of_a_config(
    head: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"head\.{message}"):
        HEADS[head].build(pyramid_for(head), 3, **options)
    with pytest.raises((ValueError, ConfigError), match=message):
        check_head({"head": {"name": head, **options}, "backbone": {}, "data": {"batch_size": 2}})


def test_every_head_has_an_invalid_option() -> None:
    assert {head for head, _, _ in MISTAKES} == set(HEADS)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_passes_the_check_of_a_config(head: str) -> None:
    check_head({"head": {"name": head}, "backbone": {}, "data": {"batch_size": 2}})
