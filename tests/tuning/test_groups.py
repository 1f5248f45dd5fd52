"""Optimizer groups against the rules, parameter by parameter."""

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
    infos = parameter_infos(parameters, layers)
    return parameter_groups(infos, plan.assign(infos), LR, DECAY)


def tunable(model: Segmenter) -> dict[str, nn.Parameter]:
    unused = model.unused_parameters()
    return {name: parameter for name, parameter in model.named_parameters() if name not in unused}


def each(model: Segmenter, plan: Plan = PLAN) -> Iterator[tuple[str, nn.Parameter, dict[str, Any]]]:
    """Yield every parameter with the one group that holds it."""
    grouped = groups(model, plan)
    for name, parameter in tunable(model).items():
        (holder,) = [group for group in grouped if any(parameter is member for member in group["params"])]
        yield name, parameter, holder


def test_every_parameter_even_if_frozen_is_in_exactly_one_group(model: Segmenter) -> None:
    members = [id(parameter) for group in groups(model) for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in tunable(model).values())


def test_norms_and_biases_do_not_decay_and_kernels_do(model: Segmenter) -> None:
    vectors = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) or name == "bias"
    }
    seen = {"decay": 0, "no decay": 0}
    for name, _, group in each(model):
        expected = 0.0 if name in vectors else 0.2 if "layer4" in name else DECAY
        assert group["weight_decay"] == expected, name
        seen["no decay" if name in vectors else "decay"] += 1
    assert min(seen.values()) > 10


def test_the_learning_rate_is_that_of_the_optimizer_times_the_scale_of_the_rule(model: Segmenter) -> None:
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


def test_the_groups_do_not_depend_on_what_trains(model: Segmenter) -> None:
    other = Plan(tuple(replace(rule, train=not rule.train) for rule in PLAN.rules))

    def content(plan: Plan) -> list[tuple[str, float, float, list[int]]]:
        return [(g["name"], g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in groups(model, plan)]

    assert content(PLAN) == content(other)


def test_a_rule_may_switch_decay_off(model: Segmenter) -> None:
    assert {group["weight_decay"] for group in groups(model, Plan((Rule(".", weight_decay=0.0),)))} == {0.0}


def test_one_step_changes_each_parameter_by_its_own_learning_rate_and_decay() -> None:
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


def test_frozen_parameters_have_no_optimizer_state(model: Segmenter) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    optimizer = torch.optim.AdamW(groups(model), lr=LR)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.head.parameters()}


def test_a_rule_that_varies_with_depth_has_a_group_for_each_layer_group(model: Segmenter) -> None:
    plan = Plan((Rule("backbone", layer_lr_decay=0.5), Rule(".")))
    backbone = [group for group in described(model, plan) if group.label.startswith("backbone")]
    layers = len(model.layer_groups())
    assert [group.label for group in backbone if group.name.endswith("/decay")] == [
        f"backbone[{i}]" for i in range(layers)
    ]
    assert {group.label: group.lr for group in backbone} == {
        f"backbone[{i}]": pytest.approx(LR * 0.5 ** (layers - 1 - i)) for i in range(layers)
    }


def test_the_backbone_is_one_group_for_each_decay_if_the_rule_does_not_vary_with_depth(model: Segmenter) -> None:
    labels = [group.label for group in described(model, Plan((Rule("backbone", train=[[0.5, None]]), Rule("."))))]
    assert labels.count("backbone") == 2


def test_labels_distinguish_groups_of_different_rules(model: Segmenter) -> None:
    rules = (Rule("backbone[:2]"), Rule("backbone[-1].norms_and_biases"), Rule("backbone"), Rule("."))
    labels = dict.fromkeys(group.label for group in described(model, Plan(rules)))
    assert list(labels) == ["backbone[0:2]", "backbone[2:5]", "backbone[4]", "decoder", "head"]
    rules = (Rule("backbone.norms_and_biases"), Rule("."))
    labels = dict.fromkeys(group.label for group in described(model, Plan(rules)))
    assert list(labels) == ["backbone (.)", "backbone (backbone.norms_and_biases)", "decoder", "head"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224", "levit_128s"])
def test_the_same_parameters_of_a_backbone_decay_as_in_timm(name: str) -> None:
    with torch.device("meta"):
        task = SemanticTask(Segmenter(name, "linear", 2, weights="none"), weight_decay=DECAY)
    backbone = task.model.backbone.model
    exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    theirs = param_groups_weight_decay(backbone, DECAY, no_weight_decay_list=exempt)
    without_decay = {id(parameter) for group in theirs if not group["weight_decay"] for parameter in group["params"]}
    ours = [(name, not group.weight_decay) for group in task.groups for name in group.parameters]
    parameters = dict(task.model.named_parameters())
    assert len(ours) > 20
    for name, exempted in ours:
        assert not name.startswith("backbone.") or exempted == (id(parameters[name]) in without_decay), name
