"""Adapters against equivalent convolutions, and against the network without them."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame, MixedConv2d, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.checkpoints.adapters import adapter_state, load_adapter_state
from finetune.models import Backbone, Segmenter
from finetune.models.lora import ADAPTER, add_lora, merge_lora
from finetune.tuning.freeze import apply_trainability
from tests.models.sampling import slow_unless

TINY = "test_resnet.r160_in1k"
NETWORKS: dict[str, dict[str, Any]] = {
    "resnext50_32x4d": {},  # grouped convolutions
    "tf_efficientnet_lite0": {},  # depthwise ones
    "tf_efficientnet_b0": {},  # padded as TensorFlow does, squeeze and excitation
    "convnext_atto": {},  # linear layers on channels-last maps
    "vit_tiny_patch16_224": {"img_size": 32},
    "nf_resnet26": {},  # weights standardized in every forward, no batch norm
    "mobilenetv3_small_050": {},
    "mixnet_s": {},  # several kernel sizes in one layer
}
LAYERS: dict[str, nn.Module] = {
    "convolution": nn.Conv2d(12, 20, 3, padding=1),
    "not square, strided, dilated": nn.Conv2d(12, 20, (3, 5), stride=2, dilation=2, bias=False),
    "padded by reflection": nn.Conv2d(12, 20, 3, padding=1, padding_mode="reflect"),
    "pointwise": nn.Conv2d(12, 20, 1),
    "grouped": nn.Conv2d(12, 20, 3, groups=4),
    "depthwise": nn.Conv2d(12, 12, 7, groups=12),
    "Conv2dSame": Conv2dSame(12, 20, 3, stride=2),
    "StdConv2d": StdConv2d(12, 20, 3),
    "StdConv2dSame": StdConv2dSame(12, 20, 3, stride=2),
    "ScaledStdConv2d": ScaledStdConv2d(12, 20, 3),
    "ScaledStdConv2dSame": ScaledStdConv2dSame(12, 20, 3, stride=2),
    "MixedConv2d": MixedConv2d(12, 12, [3, 5, 7], depthwise=True),
    "TransformerEncoderLayer": nn.TransformerEncoderLayer(12, 2, 24, batch_first=True),  # accesses its weights directly
}


def is_adapter(name: str) -> bool:
    return re.search(ADAPTER, name) is not None


def randomize(model: nn.Module, *, also_statistics: bool = True) -> None:
    """Set adapters to values as after training: none is zero, and they change the weights visibly."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.1)
        for name, buffer in model.named_buffers():
            if also_statistics and name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
            elif also_statistics and name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def segmenter(seed: int = 0) -> Segmenter:
    """Build a model whose backbone is always the same, as if pretrained; the seed determines its other parts."""
    torch.manual_seed(seed)
    options = {"pyramid_channels": 32, "segmentation_channels": 32}
    model = Segmenter(TINY, "fpn", 3, weights="none", head_options=options).eval()
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.normal_(std=0.1)
    return model


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    return model.eval()(images)


@pytest.mark.parametrize("name", slow_unless(["convnext_atto", "mobilenetv3_small_050"], NETWORKS))
def test_adding_adapters_changes_no_output_and_merging_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **NETWORKS[name]).eval().to(memory_format=torch.channels_last)
    randomize(model)  # only its statistics, as it has no adapters yet; a deep network would return zeros
    images = torch.randn(1, 3, 64 if "img_size" not in NETWORKS[name] else 32, 64 if "vit" not in name else 32)
    parameters = sum(p.numel() for p in model.parameters())
    keys, before = list(model.state_dict()), outputs(model, images)

    names = add_lora(model)
    assert torch.equal(outputs(model, images), before)
    expected = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert names == expected  # no layer is too small
    for layer_name in names:
        layer = model.get_submodule(layer_name)
        sizes = {key: p.numel() for key, p in layer.named_parameters() if "parametrizations" in key}
        assert 0 < sum(size for key, size in sizes.items() if is_adapter(key)) < layer.weight.numel()
    adapters = sum(p.numel() for key, p in model.named_parameters() if is_adapter(key))
    assert 0 < adapters < 0.25 * parameters

    randomize(model)
    adapted = outputs(model, images)
    assert not torch.allclose(adapted, before, rtol=0.01)
    merge_lora(model)
    assert torch.equal(outputs(model, images), adapted)
    assert list(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters
    twin = timm.create_model(name, pretrained=False, **NETWORKS[name])
    twin.load_state_dict(model.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_adapted_layer_of_any_class_computes_like_one_with_the_merged_weight(
    name: str, memory_format: torch.memory_format
) -> None:
    model = copy.deepcopy(LAYERS[name]).eval().to(memory_format=memory_format)
    inputs = torch.randn(2, 12, 16, 16).to(memory_format=memory_format)
    inputs = inputs.flatten(2).mT if "Transformer" in name else inputs
    keys, before = list(model.state_dict()), outputs(model, inputs)
    names = add_lora(model, rank=3)
    assert torch.equal(outputs(model, inputs), before)
    randomize(model)
    adapted = outputs(model, inputs)
    weights = {layer: model.get_submodule(layer).weight.detach().clone() for layer in names}
    merge_lora(model)
    assert torch.equal(outputs(model, inputs), adapted)
    assert not torch.allclose(adapted, before, rtol=0.01)
    assert list(model.state_dict()) == keys
    plain = copy.deepcopy(LAYERS[name]).eval()
    for layer, weight in weights.items():
        with torch.no_grad():
            plain.get_submodule(layer).weight.copy_(weight)
    assert torch.allclose(outputs(plain, inputs), adapted, atol=1e-5)


def test_an_adapted_convolution_adds_two_convolutions_in_sequence() -> None:
    layer = nn.Conv2d(6, 10, (3, 5), padding=1, stride=2)
    images = torch.randn(2, 6, 16, 16)
    plain = layer(images)
    add_lora(layer, rank=4, alpha=6.0)
    randomize(layer)
    adapter = dict(layer.named_parameters())
    down = adapter["parametrizations.weight.0.down"].view(4, 3, 5, 6).permute(0, 3, 1, 2)
    up = adapter["parametrizations.weight.0.up"].view(10, 4, 1, 1)
    update = F.conv2d(F.conv2d(images, down, padding=1, stride=2), up)
    assert torch.allclose(layer(images), plain + 6 / 4 * update, atol=1e-5)


def test_an_adapted_linear_layer_adds_a_low_rank_matrix() -> None:
    layer = nn.Linear(12, 20)
    inputs = torch.randn(5, 12)
    plain, weight = layer(inputs), layer.weight.detach().clone()
    add_lora(layer, rank=3, alpha=3.0)
    randomize(layer)
    adapter = dict(layer.named_parameters())
    up, down = adapter["parametrizations.weight.0.up"], adapter["parametrizations.weight.0.down"]
    assert torch.allclose(layer(inputs), plain + inputs @ down.T @ up.T, atol=1e-5)
    assert torch.linalg.matrix_rank(layer.weight - weight, atol=1e-5) == 3


def test_channels_of_a_depthwise_layer_mix_shared_kernels() -> None:
    layer = nn.Conv2d(32, 32, 3, groups=32, bias=False)
    weight = layer.weight.detach().clone()
    add_lora(layer, rank=2, alpha=2.0)
    randomize(layer)
    up, down = (dict(layer.named_parameters())[f"parametrizations.weight.0.{key}"] for key in ("up", "down"))
    for channel in range(32):
        mixed = sum(up[channel, i] * down[i].view(3, 3) for i in range(2))
        assert torch.allclose(layer.weight[channel, 0], weight[channel, 0] + mixed, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "rank"),
    [
        (nn.Linear(64, 32), 8),
        (nn.Linear(8, 6), 3),  # 3 * (8 + 6) = 42 < 48 <= 4 * 14
        (nn.Conv2d(32, 32, 3, groups=32), 7),  # 7 * (32 + 9) = 287 < 288
        (nn.Conv2d(128, 128, 3, groups=32), 8),
        (nn.Linear(2, 3), 1),
    ],
)
def test_the_rank_is_lowered_until_the_adapter_is_smaller_than_the_layer(layer: nn.Module, rank: int) -> None:
    add_lora(layer, rank=8, alpha=16.0)
    tensors = {key.rpartition(".")[2]: tensor for key, tensor in layer.state_dict().items()}
    assert tensors["up"].shape[1] == tensors["down"].shape[0] == rank
    assert tensors["scale"] == torch.tensor(16 / rank)
    assert tensors["up"].numel() + tensors["down"].numel() < tensors["original"].numel()


def test_layers_for_which_every_adapter_is_too_large_get_none() -> None:
    model = nn.Sequential(nn.Linear(512, 1), nn.Conv2d(64, 64, 1, groups=64), nn.Linear(8, 8), nn.Conv1d(8, 8, 3))
    assert add_lora(model) == ["2"]


def test_the_seed_determines_adapters_and_they_start_as_in_the_paper() -> None:
    torch.manual_seed(3)
    first, second = nn.Linear(100, 50), nn.Linear(100, 50)
    for layer in (first, second):
        torch.manual_seed(5)
        add_lora(layer)
    adapter, repeated = (dict(layer.named_parameters()) for layer in (first, second))
    down, up = adapter["parametrizations.weight.0.down"], adapter["parametrizations.weight.0.up"]
    assert torch.equal(down, repeated["parametrizations.weight.0.down"])
    assert not up.any()
    assert 0.9 < down.abs().max() * math.sqrt(100) <= 1  # uniform in +-1 / sqrt(fan in)


def test_only_layers_that_the_targets_match_are_adapted() -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2)
    names = add_lora(model, targets=r"attn\.qkv$")
    assert names == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    adapters = [name for name, _ in model.named_parameters() if is_adapter(name)]
    assert adapters == [f"{name}.parametrizations.weight.0.{key}" for name in names for key in ("up", "down")]
    assert add_lora(model, rank=2, targets="mlp.fc1") == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]  # others may follow


def test_only_adapters_get_a_gradient_if_the_rest_is_frozen() -> None:
    model = timm.create_model("resnet10t", pretrained=False, zero_init_last=False).requires_grad_(False)
    add_lora(model)
    randomize(model)
    model.train()(torch.randn(2, 3, 32, 32)).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert with_gradient == {name for name, _ in model.named_parameters() if is_adapter(name)}
    merge_lora(model)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_gradient_of_an_adapter_follows_from_the_gradient_of_the_weight() -> None:
    layer, plain = nn.Conv2d(6, 10, 3, groups=2), nn.Conv2d(6, 10, 3, groups=2)
    add_lora(layer, rank=2, alpha=8.0)
    randomize(layer)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    images = torch.randn(2, 6, 8, 8)
    for convolution in (layer, plain):
        convolution(images).square().sum().backward()
    gradient = plain.weight.grad.permute(0, 2, 3, 1).flatten(1)
    adapter = {name.rpartition(".")[2]: p for name, p in layer.named_parameters()}
    assert torch.allclose(adapter["up"].grad, 4 * gradient @ adapter["down"].T, rtol=1e-4, atol=1e-4)
    assert torch.allclose(adapter["down"].grad, 4 * adapter["up"].T @ gradient, rtol=1e-4, atol=1e-4)
    assert torch.allclose(adapter["original"].grad, plain.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_adapted_weights_keep_the_memory_format_of_the_model(memory_format: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(12, 20, 3), nn.Conv2d(20, 20, 3, groups=5)).to(memory_format=memory_format)
    add_lora(model)
    randomize(model)
    assert all(layer.weight.is_contiguous(memory_format=memory_format) for layer in model)
    model[0](torch.randn(1, 12, 8, 8)).sum().backward()
    merge_lora(model)
    assert all(layer.weight.is_contiguous(memory_format=memory_format) for layer in model)


def test_merging_is_exact_under_autocast() -> None:
    model = timm.create_model("test_efficientnet", pretrained=False).eval()
    randomize(model)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        before = outputs(model, images)
        add_lora(model)
        assert torch.equal(outputs(model, images), before)
        randomize(model)
        adapted = outputs(model, images)
    assert adapted.dtype == torch.bfloat16
    merge_lora(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(outputs(model, images), adapted)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_model_in_bfloat16_gets_adapters_in_bfloat16() -> None:
    model = nn.Sequential(nn.Conv2d(12, 20, 3)).to(torch.bfloat16)
    add_lora(model)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    model(torch.randn(1, 12, 8, 8, dtype=torch.bfloat16)).sum().backward()


def test_merging_a_copy_leaves_the_original_adapted() -> None:
    model = timm.create_model("test_resnet", pretrained=False).eval()
    add_lora(model)
    randomize(model)
    images = torch.randn(1, 3, 32, 32)
    adapted, state = outputs(model, images), {key: t.clone() for key, t in model.state_dict().items()}
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin, images), adapted)
    merge_lora(twin)
    assert torch.equal(outputs(twin, images), adapted)
    assert torch.equal(outputs(model, images), adapted)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    merge_lora(model)
    assert torch.equal(outputs(model, images), adapted)


def test_layers_that_share_a_weight_have_separate_adapters() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    inputs = torch.randn(2, 8)
    add_lora(model, rank=2, targets="1")
    randomize(model)
    adapted = outputs(model, inputs)
    merge_lora(model)
    assert torch.equal(outputs(model, inputs), adapted)


def test_the_state_dict_of_an_adapted_model_loads_as_plain_data(tmp_path: Path) -> None:
    model, other = (timm.create_model("test_efficientnet", pretrained=False).eval() for _ in range(2))
    for network in (model, other):
        add_lora(network)
    randomize(model)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(outputs(other, images), outputs(model, images))


@pytest.mark.parametrize("name", [TINY, "test_convnext", "mobilenetv3_small_050"])
def test_unused_layers_get_no_adapter(name: str) -> None:
    backbone = Backbone(name, weights="none")
    unused = backbone.unused_parameters()
    adapted = add_lora(backbone)
    assert {f"{layer}.weight" for layer in adapted}.isdisjoint(unused)
    assert backbone.unused_parameters() == unused
    sum(features.square().sum() for features in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == unused


def test_training_only_adapters_leaves_the_rest_of_the_backbone_unchanged() -> None:
    model = segmenter().to(memory_format=torch.channels_last)
    add_lora(model.backbone)
    names = {name for name, _ in model.named_parameters()}
    model.train()
    apply_trainability(model, {name for name in names if is_adapter(name) or not name.startswith("backbone.")})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):  # an `up` of zero gives the first `down` no gradient
        optimizer.zero_grad()
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    tensors = {name for name in before if is_adapter(name) and not name.endswith("scale")}
    assert tensors
    assert {name for name in changed if name.startswith("backbone.")} == tensors
    assert {name for name, _ in model.named_parameters() if not name.startswith("backbone.")} <= changed


def test_adapters_and_pretrained_weights_restore_the_model(tmp_path: Path) -> None:
    model, again = segmenter(seed=1), segmenter(seed=2)
    add_lora(model.backbone, rank=4, alpha=32.0)
    randomize(model)
    images = torch.randn(1, 3, 64, 64)
    torch.save(adapter_state(model), tmp_path / "adapters.pt")
    add_lora(again.backbone, rank=4)
    assert not torch.allclose(outputs(again, images), outputs(model, images))
    load_adapter_state(again, torch.load(tmp_path / "adapters.pt", weights_only=True))
    assert torch.equal(outputs(again, images), outputs(model, images))


def test_the_adapter_state_has_everything_except_the_pretrained_parameters() -> None:
    model = segmenter()
    pretrained = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
    others = set(model.state_dict()) - pretrained
    names = add_lora(model.backbone)
    keys = set(adapter_state(model))
    adapters = {f"backbone.{n}.parametrizations.weight.0.{key}" for n in names for key in ("up", "down", "scale")}
    assert keys == others | adapters
    assert "backbone.model.bn1.running_mean" in keys
    assert "decoder.p5.weight" in keys
    assert "head.0.bias" in keys
    assert set(adapter_state(model, ["backbone.model.bn1.weight", "head.0.bias"])) - keys == {
        "backbone.model.bn1.weight"
    }


def test_parameters_trained_with_the_adapters_are_restored() -> None:
    model, again = segmenter(), segmenter()
    add_lora(model.backbone)
    add_lora(again.backbone)
    torch.nn.init.constant_(model.backbone.model.bn1.weight, 0.3)
    load_adapter_state(again, adapter_state(model, ["backbone.model.bn1.weight"]))
    assert torch.equal(again.backbone.model.bn1.weight, model.backbone.model.bn1.weight)


def test_adapters_that_do_not_fit_are_an_error_and_change_nothing() -> None:
    model = segmenter()
    add_lora(model.backbone, rank=4)
    randomize(model)
    state = adapter_state(model)
    key = next(name for name in state if name.endswith("0.down"))
    cases = {
        r"lacks 1 tensors \(.*down\)": {name: tensor for name, tensor in state.items() if name != key},
        r"lacks 1 tensors \(head\.0\.bias\)": {name: t for name, t in state.items() if name != "head.0.bias"},
        r"unlike the model, 1 tensors \(bogus\)": {**state, "bogus": torch.zeros(1)},
        r"another shape 1 tensors \(.*down\)": {**state, key: torch.zeros(5, 5)},
    }
    other = segmenter(seed=3)
    add_lora(other.backbone, rank=4)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for message, damaged in cases.items():
        with pytest.raises(ValueError, match=message + r".*same rank and targets"):
            load_adapter_state(other, damaged)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(ValueError, match="unlike the model"):
        load_adapter_state(segmenter(), state)


def test_a_model_without_adapters_has_no_adapter_state() -> None:
    model = segmenter()
    add_lora(model.backbone)
    merge_lora(model)  # its pretrained weights are lost, so that an adapter state could not restore it
    with pytest.raises(ValueError, match="the backbone has no adapters"):
        adapter_state(model)


def test_an_unknown_name_of_a_trained_parameter_is_an_error() -> None:
    model = segmenter()
    add_lora(model.backbone)
    with pytest.raises(ValueError, match=r"trained=backbone\.bn1\.weight: the model has no such"):
        adapter_state(model, ["backbone.bn1.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.5}, "rank=2.5: expected a whole number"),
        ({"rank": True}, "rank=True"),
        ({"alpha": 0.0}, "alpha=0"),
        ({"alpha": -1.0}, "alpha=-1"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"alpha": math.inf}, "alpha=inf"),
        ({"targets": "attn["}, r"targets='attn\[' is not a regular expression"),
        ({"targets": "attn"}, r"'attn' matches none of the 2 layers that can have an adapter \(0, 2\)"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with pytest.raises(ValueError, match=message):
        add_lora(model, **options)
    assert not [name for name, _ in model.named_parameters() if is_adapter(name)]


def test_a_network_without_a_layer_to_adapt_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 0 layers"):
        add_lora(nn.Sequential(nn.ReLU(), nn.Conv1d(8, 8, 3)))


@pytest.mark.parametrize("parametrize", [add_lora, nn.utils.parametrizations.weight_norm])
def test_a_layer_with_a_parametrized_weight_is_an_error(parametrize: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    parametrize(model[1])
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=r"1 layers have a parametrized weight already \(1\).*merge_lora"):
        add_lora(model)
    assert list(model.state_dict()) == keys


def test_merging_without_adapters_is_an_error() -> None:
    with pytest.raises(ValueError, match="no adapters to merge"):
        merge_lora(nn.Linear(8, 8))
