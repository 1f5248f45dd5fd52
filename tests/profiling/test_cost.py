"""Costs against real steps, real autograd and sums worked out by hand."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.models import Segmenter
from finetune.profiling import memory
from finetune.profiling.cost import Cost, estimate, measure_memory
from finetune.tuning.freeze import apply_trainability

SHAPE = (2, 3, 64, 96)
ABOVE_BACKBONE = ("neck.", "decoder.", "head.")
FROM_LAYER4 = (*ABOVE_BACKBONE, "backbone.model.layer4")
MEGABYTE = 2**20
CPU = torch.device("cpu")


def segmenter(backbone: str = "test_resnet", head: str = "unet") -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(backbone, head, 3, weights="none").to(memory_format=torch.channels_last)  # as in training


def names(model: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def saved_by_autograd(model: nn.Module, trainable: set[str], autocast: torch.dtype | None) -> int:
    """Return the bytes that a real forward pass saves, counted by memory address."""
    model = copy.deepcopy(model)
    apply_trainability(model, trainable)
    of_model = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=autocast, enabled=autocast is not None),
    ):
        output = model(images)
    assert output.shape[-2:] == SHAPE[-2:]  # keeps the graph and all that it saved alive until here
    return sum(size for address, size in saved.items() if address not in of_model)


@pytest.mark.parametrize(
    ("prefixes", "autocast"),
    [(("",), None), (FROM_LAYER4, None), (ABOVE_BACKBONE, None), (FROM_LAYER4, torch.bfloat16)],
)
def test_activations_equal_the_tensors_that_autograd_saves(
    prefixes: tuple[str, ...], autocast: torch.dtype | None
) -> None:
    model = segmenter()
    trainable = names(model, *prefixes)
    saved = saved_by_autograd(model, trainable, autocast)
    assert saved > MEGABYTE
    # under autocast, batch norm saves its statistics in float32, which fake tensors report as bfloat16
    tolerance = 0 if autocast is None else saved // 1000
    assert estimate(model, SHAPE, trainable, autocast=autocast).activations == pytest.approx(saved, abs=tolerance)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("mobilenetv3_small_050", "deeplabv3plus"),
        pytest.param("test_convnext", "fpn", marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", "fpn", marks=pytest.mark.slow),
    ],
)
def test_activations_are_exact_with_layer_norm_dilation_dropout_and_attention(backbone: str, head: str) -> None:
    model = segmenter(backbone, head)
    trainable = names(model, "") - model.unused_parameters()
    assert estimate(model, SHAPE, trainable).activations == saved_by_autograd(model, trainable, None) > MEGABYTE


def test_activations_and_gradients_are_exact_with_low_rank_adapters() -> None:
    model = Segmenter("test_resnet", "fpn", 3, weights="none", lora={"rank": 4}).to(memory_format=torch.channels_last)
    adapters = {name for name in names(model, "") if ".parametrizations.weight.0." in name}
    costs = estimate(model, SHAPE, adapters)
    assert costs.activations == saved_by_autograd(model, adapters, None) > MEGABYTE
    assert costs.gradients == sum(p.nbytes for name, p in model.named_parameters() if name in adapters) > 0


def test_gradients_and_optimizer_state_equal_those_of_a_real_step() -> None:
    model = segmenter("test_efficientnet", "fpn")
    trainable = names(model, *ABOVE_BACKBONE, "backbone.model.blocks.2", "backbone.model.conv_head")
    costs = estimate(model, SHAPE, trainable)
    apply_trainability(model, trainable)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(SHAPE)).sum().backward()
    optimizer.step()
    momenta = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert costs.parameters == sum(p.nbytes for p in model.parameters())
    assert costs.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert costs.optimizer == sum(momentum.nbytes for momentum in momenta)
    assert costs.gradients < sum(
        p.nbytes for p in model.parameters() if p.requires_grad
    )  # conv_head does not affect the output


def test_the_optimizer_state_is_proportional_to_its_slots() -> None:
    model = segmenter("test_resnet", "fpn")
    costs = [estimate(model, SHAPE, names(model, "head."), slots) for slots in (0, 1, 2)]
    size = 4 * sum(p.numel() for p in model.head.parameters())
    assert [(each.gradients, each.optimizer) for each in costs] == [(size, 0), (size, size), (size, 2 * size)]


def test_two_convolutions_cost_as_much_as_in_the_formula() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 5, 1, bias=False))
    pixels = 2 * 10 * 12
    first, second = 2 * pixels * 3 * 8 * 9, 2 * pixels * 8 * 5
    assert estimate(model, (2, 3, 10, 12), {"0.weight", "1.weight"}) == Cost(
        parameters=4 * (3 * 8 * 9 + 8 * 5),
        gradients=4 * (3 * 8 * 9 + 8 * 5),
        optimizer=8 * (3 * 8 * 9 + 8 * 5),
        activations=4 * pixels * (3 + 8),  # the inputs of both
        forward_flops=first + second,
        backward_flops=first + 2 * second,  # the images need no gradient
    )
    # if only the second trains, the first saves nothing and has no backward pass
    last = estimate(model, (2, 3, 10, 12), {"1.weight"})
    assert (last.activations, last.backward_flops) == (4 * pixels * 8, second)


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 2 * 240 * 8 * 9),
        (nn.Conv2d(8, 16, 3, padding=1, groups=4, stride=2), 2 * 60 * 16 * 2 * 9),
        (nn.ConvTranspose2d(8, 6, 2, stride=2), 2 * 240 * 8 * 6 * 4),
    ],
)
def test_the_backward_pass_of_grouped_and_transposed_convolutions_costs_twice_the_forward_pass(
    layer: nn.Module, operations: int
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer)
    costs, first = estimate(model, (2, 3, 10, 12), names(model, "")), 2 * 240 * 3 * 8
    assert (costs.forward_flops, costs.backward_flops) == (first + operations, first + 2 * operations)


def test_a_frozen_backbone_saves_memory_and_computation() -> None:
    model = segmenter("resnet18")
    full = estimate(model, SHAPE, names(model, "") - model.unused_parameters())
    part = estimate(model, SHAPE, names(model, *FROM_LAYER4))
    frozen = estimate(model, SHAPE, names(model, *ABOVE_BACKBONE))
    assert frozen.activations < 0.8 * full.activations
    assert frozen.gradients < 0.3 * full.gradients
    assert frozen.activations < part.activations < full.activations
    assert frozen.backward_flops < part.backward_flops < full.backward_flops
    assert frozen.forward_flops == part.forward_flops == full.forward_flops
    assert 1.9 < full.backward_flops / full.forward_flops < 2
    assert full.memory == full.parameters + full.gradients + full.optimizer + full.activations
    assert full.flops == full.forward_flops + full.backward_flops


def test_half_precision_halves_the_activations_and_keeps_the_operations() -> None:
    model = segmenter("test_resnet", "fpn")
    trainable = names(model, "")
    full, half = (estimate(model, (8, 3, 256, 256), trainable, autocast=dtype) for dtype in (None, torch.bfloat16))
    assert 0.45 < half.activations / full.activations < 0.65
    assert half.gradients == full.gradients
    assert half.flops == full.flops


def test_without_trainable_parameters_only_the_forward_pass_has_a_cost() -> None:
    costs = estimate(segmenter("test_resnet", "fpn"), SHAPE, set())
    assert costs.forward_flops > 0
    assert (costs.gradients, costs.optimizer, costs.activations, costs.backward_flops) == (0, 0, 0, 0)


@pytest.mark.slow
def test_a_batch_too_large_for_any_memory_can_be_estimated() -> None:
    model = segmenter("test_resnet", "fpn")
    trainable = names(model, "")
    small, large = (estimate(model, (b, 3, 4096, 4096), trainable) for b in (2, 4096))
    assert large.activations > 10**13
    assert large.forward_flops == 2048 * small.forward_flops


def test_an_estimate_does_not_change_the_model() -> None:
    model = segmenter("mobilenetv3_small_050").eval()
    model.decoder.train()
    model.head[0].weight.requires_grad_(False)
    model.head[0].bias.grad = torch.ones(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    addresses = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    estimate(model, SHAPE, names(model, ""), autocast=torch.bfloat16)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == addresses
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"head.0.weight"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.0.bias"}
    assert torch.equal(torch.get_rng_state(), random)
    assert not torch.is_autocast_enabled("cpu")


def test_fused_attention_costs_what_its_matrix_products_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(is_fused: bool) -> Cost:
        monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", 2 if is_fused else 0)
        model = Segmenter("test_vit", "linear", 2, weights="none")
        return estimate(model, (1, 3, 160, 160), names(model, ""))

    fused, unfused = cost(is_fused=True), cost(is_fused=False)
    assert fused.forward_flops == unfused.forward_flops
    assert fused.backward_flops > unfused.backward_flops  # which computes the scores again
    assert fused.activations < unfused.activations


def test_an_unknown_parameter_name_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"no parameter 'head\.weight'"):
        estimate(segmenter("test_resnet", "fpn"), SHAPE, {"head.0.weight", "head.weight"})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is only known on Linux")
def test_the_growth_counts_only_memory_that_the_step_allocates() -> None:
    torch.ones(256 * MEGABYTE, dtype=torch.uint8)  # freed at once
    kept = torch.ones(64 * MEGABYTE, dtype=torch.uint8)
    growth = measure_memory(lambda: torch.ones(96 * MEGABYTE, dtype=torch.uint8).max(), CPU)
    assert growth == pytest.approx(96 * MEGABYTE, abs=4 * MEGABYTE)
    assert kept.all()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is only known on Linux")
def test_memory_freed_in_small_pieces_before_does_not_hide_growth() -> None:
    def pieces() -> list[Tensor]:
        return [torch.ones(100_000, dtype=torch.uint8) for _ in range(600)]

    last = pieces()[-1]  # at a higher address than the freed pieces, so that the C allocator keeps them
    growth = measure_memory(lambda: pieces().clear(), CPU)
    assert last.all()
    assert growth == pytest.approx(600 * 100_000, rel=0.1)


def test_memory_is_none_if_the_system_does_not_report_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    assert measure_memory(lambda: None, CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_on_a_gpu_is_the_size_of_its_tensors() -> None:
    kept, device = torch.ones(8 * MEGABYTE, dtype=torch.uint8, device="cuda"), torch.device("cuda")
    assert measure_memory(lambda: torch.ones(32 * MEGABYTE, dtype=torch.uint8, device=device), device) == 32 * MEGABYTE
    assert kept.all()
