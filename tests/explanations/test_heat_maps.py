"""Heat maps: Grad-CAM by hand and pixel by pixel, occlusion by a loop, rollout by a product of matrices."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.explanations.heat_maps import attention_rollout, find_target, grad_cam, occlusion, rollout
from finetune.models import Segmenter

SIZE = (37, 45)  # padded to 64 x 64


class OneConvolution(nn.Module):
    """A backbone of one 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1, bias=False)
        self.convolution.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        self.levels = [SimpleNamespace(stride=4)]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.convolution(image)]


class TwoWeights(nn.Module):
    """A model of one logit, which weighs the two channels of its backbone by 3 and -1."""

    reduce = 1

    def __init__(self) -> None:
        super().__init__()
        self.backbone = OneConvolution()

    def forward(self, image: Tensor) -> Tensor:
        (feature,) = self.backbone(image)
        return 3 * feature[:, :1] - feature[:, 1:]


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("test_resnet.r160_in1k", "fpn", 3, weights="none").eval()


@pytest.fixture(scope="module")
def transformer() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("test_vit.r160_in1k", "linear", 3, weights="none").eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def region_of(*rows_and_columns: slice) -> Tensor:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[rows_and_columns] = True
    return region


def test_grad_cam_of_one_convolution_is_that_by_hand() -> None:
    image = torch.tensor([[1.0, -2.0], [0.5, 0.0]])[None, None]
    region = torch.tensor([[True, False], [True, True]])
    # gradients: 3 and -1 in three of four pixels, so the weights are 9/4 and -3/4; the map is (9/4 - 2 * 3/4) image
    expected = torch.tensor([[0.75, 0.0], [0.375, 0.0]])
    assert torch.allclose(grad_cam(cast(Any, TwoWeights()), image, 0, region), expected)


@pytest.mark.parametrize(("stride", "position", "index"), [(None, -1, 0), (None, -1, 2), (8, 1, 1)])
def test_grad_cam_equals_a_loop_over_the_pixels_of_the_region(
    model: Segmenter, image: Tensor, stride: int | None, position: int, index: int
) -> None:
    region = region_of(slice(10, 12), slice(20, 23))
    padded = F.pad(image, (0, 64 - SIZE[1], 0, 64 - SIZE[0])).requires_grad_()
    features = model.backbone(padded)
    logits = model.head(model.decoder(model.neck(padded, features)))
    feature = features[position]
    total = np.zeros(feature.shape[1:])
    for row, column in region.nonzero().tolist():
        total += torch.autograd.grad(logits[0, index, row, column], feature, retain_graph=True)[0][0].numpy()
    weighted = np.zeros(feature.shape[2:])
    for channel, values in enumerate(feature[0].detach().numpy()):
        weighted += total[channel].mean() * values
    weighted = np.maximum(weighted, 0).astype(np.float32)
    resized = F.interpolate(torch.from_numpy(weighted)[None, None], (64, 64), mode="bilinear")[0, 0]
    heat = grad_cam(model, image, index, region, stride)
    assert heat.max() > 0
    assert torch.allclose(heat, resized[: SIZE[0], : SIZE[1]], rtol=1e-3, atol=1e-5 * float(heat.max()))


@pytest.mark.parametrize("method", ["grad_cam", "rollout"])
def test_maps_of_a_model_that_reduces_images_are_those_of_the_small_image_enlarged(method: str, image: Tensor) -> None:
    torch.manual_seed(0)
    name = "test_vit.r160_in1k" if method == "rollout" else "test_resnet.r160_in1k"
    model = Segmenter(name, "linear", 3, weights="none").eval()
    large = F.interpolate(image, scale_factor=4)
    region = torch.zeros(large.shape[-2:], dtype=torch.bool)
    region[80:100, 100:140] = True
    small_region = region[::4, ::4]

    def explained(picture: Tensor, where: Tensor) -> Tensor:
        return attention_rollout(model, picture, where) if method == "rollout" else grad_cam(model, picture, 1, where)

    expected = explained(image, small_region)
    model.reduce = 4
    heat = explained(large, region)
    assert heat.shape == large.shape[-2:]
    found = F.avg_pool2d(heat[None, None], 4)[0, 0].flatten()
    assert torch.corrcoef(torch.stack([found, expected.flatten()]))[0, 1] > 0.98


def test_grad_cam_does_not_depend_on_what_is_frozen_and_names_the_levels_there_are(
    model: Segmenter, image: Tensor
) -> None:
    region = region_of(slice(0, 9), slice(0, 9))
    expected = grad_cam(model, image, 2, region)
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(grad_cam(model, image, 2, region), expected)
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="layer=64: the head reads feature maps of the levels 4, 8, 16, 32"):
        grad_cam(model, image, 2, region, 64)


def test_occlusion_is_highest_where_the_only_pixels_that_count_are_covered() -> None:
    def probabilities(images: Tensor) -> Tensor:
        block = images[:, 0, 8:12, 20:24].mean(dim=(1, 2)).sigmoid()
        return block[:, None, None].expand(-1, *SIZE)

    image = torch.full((1, 3, *SIZE), 2.0)
    heat = occlusion(probabilities, image, region_of(slice(0, 3), slice(0, 3)), patch=8, stride=4)
    row, column = divmod(int(heat.argmax()), SIZE[1])
    assert 8 <= row < 12
    assert 20 <= column < 24
    assert float(heat.max()) == pytest.approx(float(torch.tensor(2.0).sigmoid()) - 0.5)
    assert heat[20:].abs().max() == heat[:, 32:].abs().max() == 0


def test_occlusion_equals_a_loop_over_squares_that_overlap_and_end_with_the_image(
    model: Segmenter, image: Tensor
) -> None:
    region, drops, counts = region_of(slice(5, 20), slice(7, 30)), np.zeros(SIZE), np.zeros(SIZE)

    @torch.no_grad()
    def mean_probability(images: Tensor) -> float:
        return float(model(images).softmax(dim=1)[0, 1].numpy()[region.numpy()].mean())

    for top in (0, 15, 17):
        for left in (0, 15, 25):
            covered = image.clone()
            covered[:, :, top : top + 20, left : left + 20] = 0
            drops[top : top + 20, left : left + 20] += mean_probability(image) - mean_probability(covered)
            counts[top : top + 20, left : left + 20] += 1
    heat = occlusion(lambda images: model(images).softmax(dim=1)[:, 1], image, region, patch=20, stride=15)
    assert np.allclose(heat, drops / counts, atol=1e-6)
    assert heat.std() > 1e-5


def test_occlusion_covers_an_image_smaller_than_a_square_and_refuses_gaps(image: Tensor) -> None:
    region = region_of(slice(0, 2), slice(0, 2))
    assert torch.equal(occlusion(lambda images: images[:, 0] * 0 + 1, image, region, patch=99), torch.zeros(SIZE))
    with pytest.raises(ValueError, match="patch=4 stride=5"):
        occlusion(lambda images: images[:, 0], image, region, patch=4, stride=5)


def test_rollout_is_the_product_of_attention_and_residuals() -> None:
    random = np.random.default_rng(0)
    matrices = random.random((4, 7, 7))
    matrices /= matrices.sum(axis=2, keepdims=True)
    expected = np.eye(7)
    for matrix in matrices:
        expected = (0.5 * matrix + 0.5 * np.eye(7)) @ expected
    joint = rollout(list(torch.from_numpy(matrices)))
    assert np.allclose(joint, expected)
    assert np.allclose(joint.sum(dim=1), 1)


def test_attention_rollout_multiplies_the_attention_of_all_blocks(transformer: Segmenter, image: Tensor) -> None:
    blocks, inputs = transformer.backbone.model.blocks, list[Tensor]()
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach())) for block in blocks
    ]
    padded = F.pad(image, (0, 64 - SIZE[1], 0, 64 - SIZE[0]))
    height, width = transformer.backbone(padded)[-1].shape[-2:]
    for hook in hooks:
        hook.remove()
    expected, prefix = np.eye(inputs[0].shape[1]), transformer.backbone.num_prefix_tokens
    for block, tokens in zip(blocks, inputs, strict=True):
        qkv = block.attn.qkv(tokens).reshape(1, tokens.shape[1], 3, block.attn.num_heads, -1)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4).detach().numpy()
        scores = np.exp(query @ key.swapaxes(-1, -2) * block.attn.scale)[0]
        attention = (scores / scores.sum(axis=-1, keepdims=True)).mean(axis=0)
        expected = (0.5 * attention + 0.5 * np.eye(len(attention))) @ expected
    fused = [block.attn.fused_attn for block in blocks]
    heat = attention_rollout(transformer, image, region_of(slice(0, 16), slice(0, 24)))  # one token and half of another
    mean = (expected[prefix] + 0.5 * expected[prefix + 1]) / 1.5
    tokens = torch.from_numpy(mean[prefix:]).float().view(1, 1, height, width)
    resized = F.interpolate(tokens, (64, 64), mode="bilinear")[0, 0, : SIZE[0], : SIZE[1]]
    assert torch.allclose(heat, resized, atol=1e-6)
    assert [block.attn.fused_attn for block in blocks] == fused
    assert not any(block.attn.attn_drop._forward_hooks for block in blocks)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "hiera_tiny_224"])
def test_roll_out_refuses_a_backbone_that_is_no_plain_vit(name: str, image: Tensor) -> None:
    model = Segmenter(name, "linear", 2, weights="none").eval()
    with pytest.raises(ValueError, match=f"'{name}' does not have.*method=gradcam or method=occlusion"):
        attention_rollout(model, image, region_of(slice(0, 9), slice(0, 9)))


@pytest.mark.parametrize(
    ("prediction", "index", "expected"),
    [
        ([[0, 0, 0, 2]], None, 2),  # the first is often the background
        ([[0, 0, 0, 0]], None, 0),
        ([[0, 1, 2, 2]], 1, 1),
        ([[[1, 1, 1]], [[0, 1, 1]], [[0, 0, 0]]], None, 0),  # not so where a pixel has several classes
        ([[[0, 0, 0]], [[0, 1, 0]], [[0, 1, 1]]], None, 2),
    ],
)
def test_the_target_is_the_class_and_its_pixels(prediction: list[Any], index: int | None, expected: int) -> None:
    masks = torch.tensor(prediction, dtype=torch.uint8)
    found, region = find_target(masks, 3, index)
    assert found == expected
    assert torch.equal(region, masks == expected if masks.ndim == 2 else masks[expected] == 1)


def test_a_box_is_explained_whole_and_decides_the_class() -> None:
    prediction = torch.tensor([[1, 1, 1], [0, 2, 0]])
    index, region = find_target(prediction, 3, box=[1, 0, 2, 2])
    assert index == 2
    assert region.tolist() == [[False, False, False], [True, True, False]]
    for box in ([0, 0, 3, 3], [1, 0, 1, 2], [-1, 0, 1, 1]):
        with pytest.raises(ValueError, match="inside 2 x 3 pixels"):
            find_target(prediction, 3, box=box)


def test_a_class_that_is_not_predicted_has_an_empty_region() -> None:
    assert not find_target(torch.zeros(2, 3, dtype=torch.uint8), 3, 1)[1].any()
    assert not find_target(torch.zeros(3, 2, 2, dtype=torch.uint8), 3)[1].any()
