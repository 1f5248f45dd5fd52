"""The sizes that backbones accept; test_backbone.py shows that they do."""

from typing import Any

import pytest

from finetune.models.input_size import InputSize, family, input_size, size_options


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (InputSize((32, 32)), (64, 96), (64, 96)),
        (InputSize((14, 14)), (64, 96), (70, 98)),
        (InputSize((32, 32), min_size=128), (32, 160), (128, 160)),
        (InputSize((7, 7), min_size=7), (1, 1), (7, 7)),
        (InputSize(only=(224, 160)), (64, 960), (224, 160)),
    ],
)
def test_an_image_is_resampled_to_the_next_accepted_size(size: InputSize, given: Any, expected: Any) -> None:
    assert size.fit(*given) == expected
    assert size.fit(*expected) == expected


@pytest.mark.parametrize(
    ("name", "image_size", "options"),
    [
        ("resnet18", (100, 200), {}),
        ("vit_tiny_patch16_224", (100, 200), {"dynamic_img_size": True}),
        ("swin_tiny_patch4_window7_224.ms_in1k", None, {"dynamic_img_size": True}),
        ("maxvit_tiny_tf_224", (100, 200), {"img_size": (128, 224)}),
        ("maxvit_tiny_tf_224", None, {}),
        ("nest_tiny", (100, 200), {"img_size": (224, 224)}),  # square ones only
        ("efficientformer_l1", (224, 224), {}),
        ("halonet26t", (100, 200), {}),
        ("resnet50_clip", (100, 200), {}),
        ("mvitv2_tiny", (100, 200), {}),
        ("gemma4_vit_167m_enc.gemma4_e4b_it", None, {"global_pool": "none"}),
        ("gemma4_vit_167m", None, {}),
    ],
)
def test_the_size_is_passed_to_timm_if_it_has_an_effect(name: str, image_size: Any, options: dict[str, Any]) -> None:
    assert size_options(name, image_size, {}) == options
    assert size_options(name, image_size, {"img_size": 64}) == {}


@pytest.mark.parametrize(
    ("name", "built_with", "expected"),
    [
        ("resnet18", {}, InputSize((32, 32), 32)),
        ("vit_small_patch14_dinov2", {"dynamic_img_size": True}, InputSize((14, 14), 14)),
        ("vit_small_patch14_dinov2", {"img_size": 98}, InputSize(only=(98, 98))),
        ("maxvit_tiny_tf_224", {"img_size": (128, 224)}, InputSize(only=(128, 224))),
        ("mixer_s32_224", {}, InputSize(only=(224, 224))),
        ("halonet26t", {}, InputSize((256, 256))),
        ("inception_v3", {}, InputSize((32, 32), 128)),
    ],
)
def test_the_accepted_sizes_follow_from_the_arguments_of_the_model(
    name: str, built_with: Any, expected: InputSize
) -> None:
    strides = (14, 14) if "patch14" in name else (2, 4, 8, 16, 32)
    assert input_size(name, built_with, strides) == expected


def test_a_family_is_the_timm_module_of_a_model() -> None:
    assert family("resnet18.a1_in1k") == "resnet"
    assert family("deit_tiny_patch16_224") == "deit"
