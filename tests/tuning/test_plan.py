"""The ordered list of tuning rules, case by case."""

from typing import Any

import pytest
import torch

from finetune.models import Segmenter
from finetune.tuning.parameter_info import ParameterInfo, PlanError, parameter_infos
from finetune.tuning.plan import Assignment, Plan, PlateauCriterion, Rule

NAMES = [
    "backbone.model.conv1.weight",
    "backbone.model.layer1.0.conv1.weight",
    "backbone.model.layer4.0.conv1.weight",
    "decoder.blocks.0.weight",
    "head.0.weight",
    "head.0.bias",
]


def infos(names: list[str] = NAMES) -> dict[str, ParameterInfo]:
    """Return a backbone of three layer groups with one kernel each, a decoder and a head."""
    kernels = {name: torch.zeros(2) if name.endswith("bias") else torch.zeros(2, 3) for name in names}
    return parameter_infos(kernels, [[name] for name in names if name.startswith("backbone.")])


def matching_rules(plan: Plan, names: list[str] = NAMES) -> list[str]:
    """Return the rule of each parameter, in the order of the parameters."""
    assigned = plan.assign(infos(names))
    return [assigned[name].rule.match for name in names]


def test_the_first_rule_that_matches_applies() -> None:
    plan = Plan((Rule("layer4"), Rule("backbone", train=False), Rule("bias$"), Rule(".")))
    assert matching_rules(plan) == ["backbone", "backbone", "layer4", ".", ".", "bias$"]


def test_the_order_of_the_parameters_does_not_matter() -> None:
    plan = Plan((Rule("layer4"), Rule("backbone", train=False), Rule(".")))
    assert plan.assign(infos()) == plan.assign(dict(reversed(infos().items())))


def test_by_default_everything_trains_at_the_learning_rate() -> None:
    assert {a.rule for a in Plan().assign(infos()).values()} == {Rule(".", train=True, lr_scale=1.0)}


def test_a_part_is_matched_by_its_own_name_only() -> None:
    names = ["backbone.model.head.weight", "head.0.weight", "headless.weight"]
    assert matching_rules(Plan((Rule("head"), Rule("."))), names) == [".", "head", "."]


def test_uncovered_parameters_are_counted_and_named() -> None:
    with pytest.raises(
        PlanError, match=r"no tuning rule matches 3 parameters \(decoder.blocks.0.weight, head.0.weight"
    ):
        Plan((Rule("backbone"),)).assign(infos())


@pytest.mark.parametrize(
    "rules", [(Rule("neck"), Rule(".")), (Rule("."), Rule("head")), (Rule("layer9"), Rule("conv1"), Rule("."))]
)
def test_a_rule_without_parameters_is_rejected(rules: tuple[Rule, ...]) -> None:
    unused = next(rule.match for rule in rules if rule.match != "." and rule.match != "conv1")
    with pytest.raises(
        PlanError, match=rf"tuning rules \['{unused}'\] match no parameter.*'backbone', 'decoder', 'head'"
    ):
        Plan(rules).assign(infos())


def test_a_second_rule_for_the_same_part_is_rejected() -> None:
    with pytest.raises(PlanError, match=r"tuning rules \['head'\] match no parameter"):
        Plan((Rule("head"), Rule("backbone"), Rule("decoder"), Rule("head", lr_scale=0.5))).assign(infos())


def test_two_equal_rules_are_rejected() -> None:
    with pytest.raises(PlanError, match=r"match no parameter"):
        Plan((Rule("head"), Rule("head"), Rule("."))).assign(infos())


@pytest.mark.parametrize("scale", [-1.0, -1e-9, float("nan")])
def test_a_negative_learning_rate_scale_is_rejected(scale: float) -> None:
    with pytest.raises(PlanError, match=r"tuning rule 'head' has lr_scale=.*must be 0 or more"):
        Rule("head", lr_scale=scale)


@pytest.mark.parametrize("pattern", ["layer[", "*", "(a"])
def test_an_invalid_regular_expression_is_rejected(pattern: str) -> None:
    with pytest.raises(PlanError, match=r"tuning rule '.*' is not a valid regular expression"):
        Rule(pattern)


def test_a_plan_covers_all_parameters_of_a_real_model() -> None:
    model = Segmenter("test_resnet.r160_in1k", "fpn", 2, weights="none")
    plan = Plan((Rule("backbone", train=False), Rule("decoder"), Rule("head", lr_scale=10)))
    assigned = plan.assign(parameter_infos(dict(model.named_parameters())))
    assert assigned.keys() == dict(model.named_parameters()).keys()
    frozen = sum(p.numel() for name, p in model.named_parameters() if not assigned[name].rule.train)
    assert frozen == sum(p.numel() for p in model.backbone.parameters())


def test_a_model_without_parameters_needs_no_rule() -> None:
    assert Plan(()).assign({}) == {}


def test_a_negative_weight_decay_is_rejected() -> None:
    with pytest.raises(PlanError, match="weight_decay=-1"):
        Rule("head", weight_decay=-1)


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan")])
@pytest.mark.parametrize("name", ["layer_lr_decay", "lowest_lr_scale"])
def test_a_factor_for_depth_must_be_above_zero(name: str, scale: float) -> None:
    with pytest.raises(PlanError, match=rf"tuning rule 'head' has {name}=.*must be more than 0"):
        Rule("head", **{name: scale})


@pytest.mark.parametrize("train", ["always", [0, 3], [[0]], [[0, 1, 2]], ["ab"]])
def test_invalid_spans_are_rejected(train: Any) -> None:
    with pytest.raises(PlanError, match=r"write true, false, or spans such as \[\[0, 0.3\], \[0.8, null\]\]"):
        Rule("head", train=train)


@pytest.mark.parametrize("stagger", ["slow", -1, None])
def test_an_invalid_stagger_is_rejected(stagger: Any) -> None:
    with pytest.raises(PlanError, match=r"has stagger=.*expected epochs"):
        Rule("backbone", stagger=stagger)


def test_an_unknown_mode_of_norms_is_rejected() -> None:
    with pytest.raises(PlanError, match="norms=freeze; choose from train, eval, adapt"):
        Rule("backbone", norms="freeze")


def test_the_layer_groups_of_a_rule_are_ranked_from_the_top() -> None:
    plan = Plan((Rule("backbone[0]"), Rule("backbone", layer_lr_decay=0.5), Rule(".")))
    assigned = plan.assign(infos())
    assert [(assigned[name].rank, assigned[name].count) for name in NAMES[:3]] == [(0, 1), (1, 2), (0, 2)]
    assert [assigned[name].lr_scale for name in NAMES[:3]] == [1.0, 0.5, 1.0]


def test_all_parts_above_the_backbone_form_one_layer_group_at_the_top() -> None:
    assigned = Plan((Rule(".", layer_lr_decay=0.5),)).assign(infos())
    assert [assigned[name].lr_scale for name in NAMES] == [0.125, 0.25, 0.5, 1.0, 1.0, 1.0]


def test_learning_rates_fall_geometrically_to_the_lowest_layer_group() -> None:
    rule = Rule("backbone", lr_scale=2.0, lowest_lr_scale=0.01)
    scales = [Assignment(rule, rank, 5).lr_scale for rank in range(5)]
    assert scales == pytest.approx([2.0, 2 * 0.01**0.25, 0.2, 2 * 0.01**0.75, 0.02])
    assert Assignment(rule, 0, 1).lr_scale == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "stage"}, "tuning.layers=stage: choose 'stages' or 'blocks'"),
        ({"warmup": -1}, "tuning.warmup=-1: expected 0 or more"),
        ({"phase_lr": ()}, r"tuning.phase_lr=\[\]: expected factors above 0"),
        ({"phase_lr": (1.0, 0.0)}, r"tuning.phase_lr=\[1.0, 0.0\]: expected factors above 0"),
    ],
)
def test_settings_of_the_plan_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(**options)


@pytest.mark.parametrize("options", [{"mode": "up"}, {"patience": 0}, {"patience": 1.5}, {"min_delta": -1}])
def test_settings_of_the_plateau_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=f"tuning.plateau.{next(iter(options))}="):
        PlateauCriterion(**options)
