"""The ordered list of rules, case by case."""

import logging

import pytest
import torch

from finetune.models import Segmenter
from finetune.tuning.plan import Plan, PlanError, Rule, describe

NAMES = [
    "backbone.model.conv1.weight",
    "backbone.model.layer1.0.conv1.weight",
    "backbone.model.layer4.0.conv1.weight",
    "decoder.blocks.0.weight",
    "head.0.weight",
    "head.0.bias",
]


def taken(plan: Plan, names: list[str] = NAMES) -> list[str]:
    """The rule of each parameter, in the order of the parameters."""
    return [plan.assign(names)[name].match for name in names]


def test_the_first_rule_that_matches_takes_the_parameter() -> None:
    plan = Plan((Rule("layer4"), Rule("backbone", trains=False), Rule("bias$"), Rule(".")))
    assert taken(plan) == ["backbone", "backbone", "layer4", ".", ".", "bias$"]


def test_the_order_of_the_rules_decides_and_not_that_of_the_parameters() -> None:
    plan = Plan((Rule("layer4"), Rule("backbone", trains=False), Rule(".")))
    assert plan.assign(NAMES) == plan.assign(reversed(NAMES))


def test_without_rules_of_ones_own_everything_trains_at_the_learning_rate() -> None:
    rules = set(Plan().assign(NAMES).values())
    assert rules == {Rule(".", trains=True, lr_scale=1.0, weight_decay=None)}


def test_a_part_is_matched_by_its_own_name_only() -> None:
    names = ["backbone.model.head.weight", "head.0.weight", "headless.weight"]
    assert taken(Plan((Rule("head"), Rule("."))), names) == [".", "head", "."]


def test_other_words_are_searched_anywhere_in_the_name() -> None:
    assert Rule(r"layer[34]\.").takes("backbone.model.layer4.0.weight")
    assert not Rule(r"^layer4").takes("backbone.model.layer4.0.weight")
    assert not Rule(r"layer[12]\.").takes("backbone.model.layer4.0.weight")


def test_uncovered_parameters_are_counted_and_named() -> None:
    with pytest.raises(PlanError, match=r"no tuning rule covers 3 parameters \(decoder.blocks.0.weight, head.0.weight"):
        Plan((Rule("backbone"),)).assign(NAMES)


@pytest.mark.parametrize(
    "rules", [(Rule("neck"), Rule(".")), (Rule("."), Rule("head")), (Rule("layer9"), Rule("conv1"), Rule("."))]
)
def test_a_rule_that_takes_nothing_is_refused(rules: tuple[Rule, ...]) -> None:
    idle = next(rule.match for rule in rules if rule.match != "." and rule.match != "conv1")
    with pytest.raises(PlanError, match=rf"tuning rules \['{idle}'\] take no parameter.*'backbone', 'decoder', 'head'"):
        Plan(rules).assign(NAMES)


def test_a_rule_written_twice_is_refused_as_the_second_takes_nothing() -> None:
    with pytest.raises(PlanError, match=r"tuning rules \['head'\] take no parameter"):
        Plan((Rule("head"), Rule("backbone"), Rule("decoder"), Rule("head", lr_scale=0.5))).assign(NAMES)


def test_the_same_rule_written_twice_is_refused_too() -> None:
    with pytest.raises(PlanError, match=r"take no parameter"):
        Plan((Rule("head"), Rule("head"), Rule("."))).assign(NAMES)


@pytest.mark.parametrize("scale", [-1.0, -1e-9, float("nan")])
def test_a_learning_rate_below_zero_is_refused(scale: float) -> None:
    with pytest.raises(PlanError, match=r"tuning rule 'head' has lr_scale=.*must be 0 or more"):
        Rule("head", lr_scale=scale)


@pytest.mark.parametrize("pattern", ["layer[", "*", "(a"])
def test_a_pattern_that_is_no_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(PlanError, match=r"tuning rule '.*' is no regular expression"):
        Rule(pattern)


def test_the_description_counts_what_each_rule_took() -> None:
    plan = Plan((Rule("layer4", lr_scale=0.1), Rule("backbone", trains=False), Rule(".")))
    sizes = dict(zip(NAMES, [1_000, 20_000, 300_000, 4_000_000, 500_000, 7], strict=True))
    assert describe(plan.assign(NAMES), sizes) == [
        "tuning rule 'backbone': 21,000 parameters in 2 tensors, frozen",
        "tuning rule 'layer4': 300,000 parameters in 1 tensors, train at 0.1 x lr",
        "tuning rule '.': 4,500,007 parameters in 3 tensors, train at 1 x lr",
        "4.80M of 4.82M parameters train",
    ]


def test_a_plan_covers_a_real_model_whole(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = Segmenter("test_resnet.r160_in1k", "fpn", 2, weights="none")
    plan = Plan((Rule("backbone", trains=False), Rule("decoder"), Rule("head", lr_scale=10)))
    assigned = plan.assign(name for name, _ in model.named_parameters())
    assert assigned.keys() == dict(model.named_parameters()).keys()
    frozen = sum(p.numel() for name, p in model.named_parameters() if not assigned[name].trains)
    assert frozen == sum(p.numel() for p in model.backbone.parameters())


def test_a_model_without_parameters_needs_no_rule() -> None:
    assert Plan(()).assign(name for name, _ in torch.nn.Identity().named_parameters()) == {}


def test_a_weight_decay_below_zero_is_refused() -> None:
    with pytest.raises(PlanError, match="weight_decay=-1"):
        Rule("head", weight_decay=-1)
