"""The model against segmentation_models_pytorch, and against itself at other sizes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL
from tests.models.sampling import slow_unless

TINY = "test_resnet.r160_in1k"
ON_ANY_BACKBONE = [head for head in HEADS if head != "segnet"]  # which needs a VGG
SIZES = [(37, 53), (64, 64), (33, 96), (96, 33), (32, 31), (1, 1)]


def segmenter(head: str = "fpn", backbone: str = TINY, classes: int = 3, **options: Any) -> Segmenter:
    """Build a small model in eval mode, with batch-norm statistics as after training."""
    torch.manual_seed(0)
    model = Segmenter(backbone, head, classes, weights="none", head_options=SMALL[head], **options)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@cache
def shared_segmenter(head: str) -> Segmenter:
    """Return a model that the tests of this module share and do not change."""
    return segmenter(head)


@torch.no_grad()
def logits(model: Segmenter, images: Tensor) -> Tensor:
    return model(images)


QUICK = [
    *((head, TINY) for head in ON_ANY_BACKBONE),
    ("unet", "test_convnext"),
    ("dpt", "test_vit"),
    ("fpn", "pit_ti_224"),
]


@pytest.mark.parametrize(
    ("head", "backbone"),
    slow_unless(
        QUICK,
        [(head, name) for head in ON_ANY_BACKBONE for name in (TINY, "test_convnext", "test_vit", "pit_ti_224")],
    ),
)
def test_the_logits_have_the_size_of_the_image(head: str, backbone: str) -> None:
    model = shared_segmenter(head) if backbone == TINY else segmenter(head, backbone)
    for height, width in SIZES:
        assert logits(model, torch.randn(1, 3, height, width)).shape == (1, 3, height, width)
    assert logits(model, torch.randn(2, 3, 64, 32)).shape == (2, 3, 64, 32)


def with_weights_of(theirs: nn.Module, backbone: str, head: str, **options: Any) -> Segmenter:
    """Return our model with all weights of a model of segmentation_models_pytorch."""
    model = Segmenter(backbone, head, 5, weights="none", **options).eval()
    # timm's features_only replaces some dots in names by underscores
    encoder = {
        key.removeprefix("model.").replace(".", "_"): value for key, value in theirs.encoder.state_dict().items()
    }
    own = model.backbone.model.state_dict()
    fitting = {key: encoder[key.replace(".", "_")] for key in own if key.replace(".", "_") in encoder}
    unused = {name.removeprefix("backbone.model.") for name in model.unused_parameters()}
    missing = model.backbone.model.load_state_dict(fitting, strict=False).missing_keys
    assert {name for name in missing if name in dict(model.backbone.model.named_parameters())} <= unused
    model.decoder.load_state_dict(theirs.decoder.state_dict(), strict=False)
    model.head.load_state_dict(theirs.segmentation_head.state_dict())
    return model


ARCHITECTURES = {
    "unet": smp.Unet,
    "fpn": smp.FPN,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "deeplabv3": smp.DeepLabV3,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "pspnet": smp.PSPNet,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
}


SMALL_SIZE, LARGE_SIZE = (64, 96), (224, 224)  # the large one exceeds every atrous rate, and what smp's pan needs
QUICK_COMPARISONS = [  # heads/test_smp.py compares every decoder
    *((head, "resnet10t", SMALL_SIZE) for head in ("fpn", "deeplabv3plus", "pspnet", "segformer")),
    *((head, "resnet10t", LARGE_SIZE) for head in ("pan", "deeplabv3")),
    ("unet", "mobilenetv3_small_050", SMALL_SIZE),
    ("linknet", "test_convnext", SMALL_SIZE),
]


@pytest.mark.parametrize(
    ("head", "backbone", "size"),
    slow_unless(
        QUICK_COMPARISONS,
        [
            (head, name, size)
            for head in ARCHITECTURES
            for name in ("resnet10t", "mobilenetv3_small_050", "test_convnext")
            for size in (SMALL_SIZE, LARGE_SIZE)
        ],
    ),
)
def test_the_logits_equal_those_of_segmentation_models_pytorch(head: str, backbone: str, size: tuple[int, int]) -> None:
    try:
        expected = ARCHITECTURES[head](f"tu-{backbone}", encoder_weights=None, classes=5).eval()
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        if (head, backbone, size) in QUICK_COMPARISONS:  # which smp is known to build
            raise
        pytest.skip(f"segmentation_models_pytorch does not build it: {error}")
    images = torch.randn(1, 3, *size)
    model = with_weights_of(expected, backbone, head)
    with torch.no_grad():
        try:
            expected_logits = expected(images)
        except RuntimeError as error:
            if (head, backbone, size) in QUICK_COMPARISONS:
                raise
            pytest.skip(f"segmentation_models_pytorch does not run it: {error}")
        assert torch.allclose(model(images), expected_logits, atol=1e-6)
        assert model(images).std() > 0


@pytest.mark.parametrize("backbone", slow_unless(["test_vit"], ["vit_tiny_patch16_224", "test_vit"]))
def test_dpt_on_a_vision_transformer_equals_that_of_segmentation_models_pytorch(backbone: str) -> None:
    expected = smp.DPT(f"tu-{backbone}", encoder_weights=None, classes=5, dynamic_img_size=True).eval()
    model = with_weights_of(expected, backbone, "dpt")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(model(images), expected(images), atol=1e-5)
        assert model(images).std() > 0


def test_segnet_unpools_with_the_indices_of_a_vgg_and_rejects_other_backbones() -> None:
    model = segmenter("segnet", "vgg11", backbone_options={"mlp_ratio": 0.02})
    for height, width in SIZES:
        assert logits(model, torch.randn(1, 3, height, width)).shape == (1, 3, height, width)
    maps = model.backbone(torch.randn(1, 3, 64, 64))
    assert [tuple(indices.shape[1:]) for indices in maps[-1]] == [
        (width, 32 >> level, 32 >> level) for level, width in enumerate((64, 128, 256, 512, 512))
    ]
    with pytest.raises(ValueError, match="vgg11"):
        segmenter("segnet")


@pytest.mark.parametrize("head", ON_ANY_BACKBONE)
@pytest.mark.parametrize(("size", "padded"), [((37, 53), (64, 64)), ((70, 30), (96, 32))])
def test_an_odd_size_is_padded_at_right_and_bottom_and_cropped(
    head: str, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    model = shared_segmenter(head)
    images = torch.randn(2, 3, *size)
    padded_images = torch.zeros(2, 3, *padded)
    padded_images[..., : size[0], : size[1]] = images
    ours = logits(model, images)
    assert torch.equal(ours, logits(model, padded_images)[..., : size[0], : size[1]])
    assert ours.std(dim=(2, 3)).min() > 0  # the logits depend on the image


@pytest.mark.parametrize("head", ON_ANY_BACKBONE)
def test_the_logits_of_an_image_do_not_depend_on_its_batch(head: str) -> None:
    model = shared_segmenter(head)
    images = torch.randn(4, 3, 37, 53)
    one_by_one = torch.cat([logits(model, image[None]) for image in images])
    assert torch.allclose(logits(model, images), one_by_one, atol=1e-5)
    assert one_by_one.std(dim=0).max() > 1e-4  # and the images differ


@pytest.mark.parametrize("head", ON_ANY_BACKBONE)
def test_exactly_the_unused_parameters_get_no_gradient(head: str) -> None:
    model = segmenter(head).train()
    loss = F.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.zeros(2, 64, 64, dtype=torch.long))
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == model.unused_parameters()
    assert model.unused_parameters() >= {"backbone.model.fc.weight", "backbone.model.fc.bias"}


@pytest.mark.parametrize(("backbone", "channels"), [(TINY, 3), ("resnet10t", 3), (TINY, 1), ("resnet10t", 4)])
def test_normalize_subtracts_the_mean_divides_by_the_deviation_and_keeps_its_input(
    backbone: str, channels: int
) -> None:
    model = Segmenter(backbone, "fpn", 2, weights="none", in_channels=channels)
    images = torch.randint(0, 256, (2, channels, 5, 7), dtype=torch.uint8)
    before = images.clone()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in model.backbone.normalization())
    normalized = model.normalize(images)
    assert normalized.dtype == torch.float32
    assert torch.allclose(normalized, (images.float() / 255 - mean) / std, atol=1e-5)
    assert torch.equal(images, before)


def test_normalize_keeps_a_float_input_too() -> None:
    model = shared_segmenter("fpn")
    images = torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last) * 255
    before = images.clone()
    model.normalize(images)
    assert torch.equal(images, before)


def test_the_parts_have_the_names_that_tuning_plans_use() -> None:
    model = shared_segmenter("fpn")
    assert [name for name, _ in model.named_children()] == ["backbone", "neck", "decoder", "head"]
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "decoder", "head"}


@pytest.mark.parametrize("head", ON_ANY_BACKBONE)
def test_a_model_rebuilt_from_its_config_gives_the_same_logits(head: str) -> None:
    model = segmenter(head, classes=4, in_channels=4, backbone_options={"drop_path_rate": 0.1})
    config = json.loads(json.dumps(model.config()))  # as after saving to a file
    twin = Segmenter.from_config(config)
    twin.load_state_dict(model.state_dict())
    images = torch.randint(0, 256, (1, 4, 40, 24), dtype=torch.uint8)
    ours, expected = (logits(m.eval(), m.normalize(images)) for m in (twin, model))
    assert torch.equal(ours, expected)
    assert ours.std() > 0
    assert twin.config() == config


def test_the_normalization_comes_from_the_config_instead_of_the_backbone() -> None:
    config = {**shared_segmenter("fpn").config(), "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    model = Segmenter.from_config(config)
    white = model.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist()
    assert white == pytest.approx([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6])


def test_a_config_has_the_license_of_the_weights_and_not_that_of_the_name(tmp_path: Path) -> None:
    config = shared_segmenter("fpn").config()
    assert config["weights_license"] == "unknown"  # random ones
    save_file(shared_segmenter("fpn").backbone.model.state_dict(), tmp_path / "weights.safetensors")
    of_a_file = Segmenter(TINY, "fpn", 2, weights=str(tmp_path / "weights.safetensors"))
    assert of_a_file.config()["weights_license"] == "unknown"
    licensed = Segmenter.from_config({**config, "weights_license": "cc-by-nc-4.0"})
    assert licensed.config()["weights_license"] == "cc-by-nc-4.0"
    assert licensed.empty_copy().config()["weights_license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(("typed", "hint"), [("unett", "Did you mean unet"), ("qqq", "Choose from: unet, fpn")])
def test_the_error_for_an_unknown_head_suggests_the_nearest_names(typed: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown head '{typed}'.*{hint}"):
        Segmenter(TINY, typed, 2, weights="none")


def test_the_error_for_too_few_decoder_channels_has_both_counts() -> None:
    with pytest.raises(ValueError, match=r"decoder_channels has 2 entries.* 5 levels need 3 to 5"):
        Segmenter(TINY, "unet", 2, weights="none", head_options={"decoder_channels": [8, 8]})


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (3, 5)])
def test_a_model_that_reduces_images_predicts_smaller_ones_and_enlarges_the_logits(size: tuple[int, int]) -> None:
    model, images = segmenter(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    height, width = (-(-side // 4) for side in size)
    padded = F.pad(images, (0, 4 * width - size[1], 0, 4 * height - size[0]), value=float("nan"))
    blocks = padded.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).nanmean(-1)
    expected = F.interpolate(logits(model, blocks), scale_factor=4, mode="bilinear")[..., : size[0], : size[1]]
    model.reduce = 4
    assert torch.allclose(logits(model, images), expected, atol=1e-5)
    model.takes_reduced = True
    assert logits(model, images).shape[-2:] == size
    model.takes_reduced = False
    assert logits(model.train(), images.repeat(1, 1, 8, 8)).shape[-2:] == (8 * size[0], 8 * size[1])


def test_an_auxiliary_head_with_its_default_options_is_rebuilt() -> None:
    model = Segmenter("test_resnet.r160_in1k", "linear", 3, weights="none", auxiliary={})
    again = Segmenter.from_config(model.config())
    assert again.state_dict().keys() == model.state_dict().keys()


def test_the_factor_is_in_the_config_and_one_from_a_stranger_has_a_limit() -> None:
    model = segmenter()
    model.reduce, model.takes_reduced = 8, True
    again = Segmenter.from_config(model.config())
    assert (again.reduce, again.takes_reduced) == (8, False)
    with pytest.raises(ValueError, match="reduce=9: expected a number from 1 to 8"):
        Segmenter.from_config({**model.config(), "reduce": 9})
