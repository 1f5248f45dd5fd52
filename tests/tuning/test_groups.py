"""Optimizer groups against what the rules say, parameter by parameter."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from finetune.tuning.groups import Group, optimizer_groups, parameter_groups
from finetune.tuning.parameter_info import parameter_infos
from finetune.tuning.plan import Plan, Rule

LR, DECAY = 0.01, 0.05
PLAN = Plan(
    (
        Rule("layer4", lr_scale=0.1, weight_decay=0.2),
        Rule("backbone", train=False, lr_scale=0.01),
        Rule("decoder"),
        Rule("head", lr_scale=10),
    )
)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return Segmenter("test_resnet.r160_in1k", "unet", 2, weights="none")


def groups(model: nn.Module, plan: Plan = PLAN) -> list[dict[str, Any]]:
    return optimizer_groups(described(model, plan), dict(model.named_parameters()))


def described(model: nn.Module, plan: Plan = PLAN) -> list[Group]:
    layers = model.layer_groups() if isinstance(model, Segmenter) else []
    used = {name for group in layers for name in group}
    parameters = {n: p for n, p in model.named_parameters() if not layers or n in used or not n.startswith("backbone.")}
    places = parameter_infos(parameters, layers)
    return parameter_groups(places, plan.assign(places), LR, DECAY)


def tunable(model: Segmenter) -> dict[str, nn.Parameter]:
    unused = model.unused_parameters()
    return {name: parameter for name, parameter in model.named_parameters() if name not in unused}


def each(model: Segmenter, plan: Plan = PLAN) -> Iterator[tuple[str, nn.Parameter, dict[str, Any]]]:
    """Every parameter with the one group that holds it."""
    grouped = groups(model, plan)
    for name, parameter in tunable(model).items():
        (holder,) = [group for group in grouped if any(parameter is member for member in group["params"])]
        yield name, parameter, holder


def test_every_parameter_is_in_exactly_one_group_frozen_ones_too(model: Segmenter) -> None:
    members = [id(parameter) for group in groups(model) for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in tunable(model).values())


def test_norms_and_biases_do_not_decay_and_kernels_do(model: Segmenter) -> None:
    vectors = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) or name == "bias"
    }
    seen = {"decays": 0, "rests": 0}
    for name, _, group in each(model):
        expected = 0.0 if name in vectors else 0.2 if "layer4" in name else DECAY
        assert group["weight_decay"] == expected, name
        seen["rests" if name in vectors else "decays"] += 1
    assert min(seen.values()) > 10


def test_learning_rates_are_the_scale_of_the_rule_times_that_of_the_optimizer(model: Segmenter) -> None:
    scales = {"layer4": 0.1, "backbone": 0.01, "decoder": 1.0, "head.": 10.0}
    for name, _, group in each(model):
        scale = next(value for key, value in scales.items() if key in name)
        assert group["lr"] == pytest.approx(LR * scale, rel=1e-12), name


def test_groups_are_named_after_rule_part_and_decay(model: Segmenter) -> None:
    names = [group["name"] for group in groups(model)]
    assert len(names) == len(set(names))
    assert set(names) == {
        "backbone:backbone[0:4]/decay",
        "backbone:backbone[0:4]/no_decay",
        "layer4:backbone[4]/decay",
        "layer4:backbone[4]/no_decay",
        "decoder:decoder/decay",
        "decoder:decoder/no_decay",
        "head:head/decay",
        "head:head/no_decay",
    }


def test_what_trains_does_not_change_the_groups(model: Segmenter) -> None:
    other = Plan(tuple(replace(rule, train=not rule.train) for rule in PLAN.rules))

    def parameter_infos(plan: Plan) -> list[tuple[str, float, float, list[int]]]:
        found = groups(model, plan)
        return [(g["name"], g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in found]

    assert parameter_infos(PLAN) == parameter_infos(other)


def test_a_rule_may_switch_decay_off(model: Segmenter) -> None:
    assert {group["weight_decay"] for group in groups(model, Plan((Rule(".", weight_decay=0.0),)))} == {0.0}


def test_one_step_moves_each_parameter_by_its_own_rate_and_decay() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    plan = Plan((Rule("backbone", lr_scale=0.1), Rule("head", weight_decay=0.5)))
    optimizer = torch.optim.SGD(groups(model, plan), lr=LR)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    expected = {
        "backbone.weight": 1 - 0.001 * (1 + DECAY),
        "backbone.bias": 1 - 0.001,
        "head.weight": 1 - 0.01 * (1 + 0.5),
        "head.bias": 1 - 0.01,
    }
    for name, parameter in model.named_parameters():
        assert parameter.flatten().tolist() == pytest.approx([expected[name]] * parameter.numel()), name


def test_frozen_parameters_cost_no_optimizer_state(model: Segmenter) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    optimizer = torch.optim.AdamW(groups(model), lr=LR)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.head.parameters()}


def test_a_rule_that_varies_with_depth_has_a_group_for_each_layer_group(model: Segmenter) -> None:
    plan = Plan((Rule("backbone", layer_lr_decay=0.5), Rule(".")))
    found = [group for group in described(model, plan) if group.label.startswith("backbone")]
    layers = len(model.layer_groups())
    assert [group.label for group in found if group.name.endswith("/decay")] == [
        f"backbone[{i}]" for i in range(layers)
    ]
    assert {group.label: group.lr for group in found} == {
        f"backbone[{i}]": pytest.approx(LR * 0.5 ** (layers - 1 - i)) for i in range(layers)
    }


def test_without_depth_the_backbone_is_one_group_for_each_decay(model: Segmenter) -> None:
    labels = [group.label for group in described(model, Plan((Rule("backbone", train=[[0.5, None]]), Rule("."))))]
    assert labels.count("backbone") == 2


def test_labels_tell_groups_of_different_rules_apart(model: Segmenter) -> None:
    rules = (Rule("backbone[:2]"), Rule("backbone[-1].norms_and_biases"), Rule("backbone"), Rule("."))
    labels = dict.fromkeys(group.label for group in described(model, Plan(rules)))
    assert list(labels) == ["backbone[0:2]", "backbone[2:5]", "backbone[4]", "decoder", "head"]
    rules = (Rule("backbone.norms_and_biases"), Rule("."))
    labels = dict.fromkeys(group.label for group in described(model, Plan(rules)))
    assert list(labels) == ["backbone (.)", "backbone (backbone.norms_and_biases)", "decoder", "head"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224", "levit_128s"])
def test_of_a_backbone_the_same_decays_as_with_timm(name: str) -> None:
    with torch.device("meta"):
        task = SemanticTask(Segmenter(name, "linear", 2, weights="none"), weight_decay=DECAY)
    backbone = task.model.backbone.model
    exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    theirs = param_groups_weight_decay(backbone, DECAY, no_weight_decay_list=exempt)
    spared = {id(parameter) for group in theirs if not group["weight_decay"] for parameter in group["params"]}
    ours = [(name, not group.weight_decay) for group in task.groups for name in group.parameters]
    parameters = dict(task.model.named_parameters())
    assert len(ours) > 20
    for name, rests in ours:
        assert not name.startswith("backbone.") or rests == (id(parameters[name]) in spared), name
