"""Frozen parts of networks with batch norm, dropout and drop-path: not one bit may change."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from finetune.models import Segmenter
from finetune.tuning.freeze import apply_trainability

# batch norm and drop-path; layer norm, drop-path and dropout; group norm is in the fpn decoder
BACKBONES = ["test_resnet.r160_in1k", "mobilenetv3_small_050", "test_convnext"]


def segmenter(backbone: str = BACKBONES[0], head: str = "fpn") -> Segmenter:
    torch.manual_seed(0)
    options = {"drop_path_rate": 0.5, "drop_rate": 0.5}
    model = Segmenter(backbone, head, 3, weights="none", backbone_options=options)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith(("weight", "gamma")):
            nn.init.uniform_(parameter, 0.5, 1.5)  # new residual branches are 0, and dropping them would change nothing
    return model


def names(model: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def identical(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def train(model: Segmenter, steps: int = 3) -> None:
    """Run optimizer steps with weight decay and momentum over all parameters, each after a call of `model.train()`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(steps):
        model.train()
        apply_trainability(model, trainable)
        optimizer.zero_grad()
        images, target = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
        F.cross_entropy(model(images), target).backward()
        optimizer.step()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_frozen_backbone_keeps_every_bit_of_parameters_and_buffers(backbone: str) -> None:
    model = segmenter(backbone)
    apply_trainability(model, names(model, "decoder", "head"))
    before, head = snapshot(model.backbone), snapshot(model.head)
    train(model)
    assert len(before) > 20
    assert identical(model.backbone, before)
    assert not identical(model.head, head)


def test_without_freezing_the_same_training_changes_parameters_and_statistics() -> None:
    model = segmenter()
    before = snapshot(model.backbone)
    apply_trainability(model, names(model, ""))
    train(model)
    moved = {name for name, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[-1] for name in moved} >= {"weight", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_two_forward_passes_through_a_frozen_backbone_are_equal(backbone: str) -> None:
    model = segmenter(backbone).train()
    images = torch.randn(4, 3, 32, 32)

    def differ() -> bool:
        first, second = model.backbone(images), model.backbone(images)
        return any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))

    assert differ()  # drop-path is active
    apply_trainability(model, names(model, "decoder", "head"))
    assert not differ()


def test_the_frozen_layers_of_a_partly_frozen_backbone_do_not_change() -> None:
    model = segmenter()
    trainable = names(model, "backbone.model.layer4", "decoder", "head")
    apply_trainability(model, trainable)
    before = snapshot(model.backbone.model)
    train(model)
    after = model.backbone.model.state_dict()
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"layer4"}
    assert {part.training for part in model.backbone.model.layer3.modules()} == {False}
    assert {part.training for part in model.backbone.model.layer4.modules()} == {True}


def test_batch_norms_can_stay_frozen_inside_a_part_that_trains() -> None:
    model = segmenter()
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, _ in module.named_parameters()
    }
    apply_trainability(model, names(model, "") - norms)
    statistics = {n: b.clone() for n, b in model.named_buffers() if n.startswith("backbone")}
    assert len(statistics) > 10
    train(model)
    assert all(torch.equal(buffer, statistics[n]) for n, buffer in model.named_buffers() if n in statistics)


def test_unfreezing_turns_gradients_and_modes_on_again() -> None:
    model = segmenter()
    apply_trainability(model, names(model, "head"))
    assert not model.backbone.training
    assert not model.decoder.training
    apply_trainability(model, names(model, ""))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_model_without_trainable_parameters_is_in_eval_mode() -> None:
    model = segmenter().train()
    apply_trainability(model, set())
    assert not any(module.training for module in model.modules())


def test_parameters_that_are_not_named_never_require_gradients() -> None:
    model = segmenter("test_efficientnet")
    unused = model.unused_parameters()
    apply_trainability(model, names(model, "") - unused)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == unused
    assert "backbone.model.conv_head.weight" in unused


def test_dropout_inside_a_frozen_part_is_in_eval_mode() -> None:
    model = nn.ModuleDict({"frozen": nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), "free": nn.Linear(4, 4)})
    apply_trainability(model, names(model, "free"))
    assert not model["frozen"][1].training
    assert model["free"].training


def test_a_frozen_timm_model_with_dropout_and_drop_path_is_deterministic() -> None:
    model = timm.create_model("test_efficientnet", pretrained=False, drop_rate=0.5, drop_path_rate=0.5).train()
    apply_trainability(model, set())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), model(images))


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.backbone.named_buffers() if "running" in name}


def norm_modes(model: Segmenter, mode: str) -> dict[str, str]:
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {f"{name}.weight": mode for name in norms if name.startswith("backbone")}


def train_with(model: Segmenter, trainable: set[str], norms: dict[str, str]) -> None:
    model.train()
    apply_trainability(model, trainable, norms)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.randint(0, 3, (2, 32, 32))).backward()
    optimizer.step()


def test_norms_in_eval_keep_their_statistics_while_their_weights_train() -> None:
    model = segmenter()
    before, weights = statistics(model), snapshot(model.backbone.model.layer1)
    train_with(model, names(model, ""), norm_modes(model, "eval"))
    assert len(before) > 10
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    moved = {n for n, t in model.backbone.model.layer1.state_dict().items() if not torch.equal(t, weights[n])}
    assert any("bn" in name for name in moved)


@pytest.mark.parametrize("mode", ["eval", "adapt"])
def test_norms_without_a_mode_of_their_own_train(mode: str) -> None:
    model = segmenter(head="unet")
    backbone = norm_modes(model, mode)
    apply_trainability(model.train(), names(model, ""), backbone)
    modes = {name: m.training for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {value for name, value in modes.items() if name.startswith("backbone")} == {mode == "adapt"}
    assert {value for name, value in modes.items() if name.startswith("decoder")} == {True}


def test_norms_that_adapt_follow_the_data_while_every_weight_is_frozen() -> None:
    model = segmenter()
    before = statistics(model)
    weights = {name: p.clone() for name, p in model.backbone.named_parameters()}
    train_with(model, names(model, "decoder", "head"), norm_modes(model, "adapt"))
    assert all(not torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert all(torch.equal(p, weights[name]) for name, p in model.backbone.named_parameters())


def test_an_adapting_norm_leaves_the_dropout_next_to_it_in_eval_mode() -> None:
    model = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), "b": nn.Linear(4, 4)}
    )
    apply_trainability(model, {"b.weight"}, {"a.1.weight": "adapt"})
    assert [module.training for module in model["a"]] == [False, True, False]


def test_the_result_says_whether_a_parameter_was_frozen_or_unfrozen() -> None:
    model = segmenter()
    assert not apply_trainability(model, names(model, ""))
    assert apply_trainability(model, names(model, "head"))
    assert not apply_trainability(model, names(model, "head"))
    assert apply_trainability(model, names(model, "head", "decoder"))


def test_freezing_discards_the_last_gradient() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = snapshot(model["a"])
    apply_trainability(model, {"b.weight", "b.bias"})
    optimizer.step()
    assert identical(model["a"], before)
