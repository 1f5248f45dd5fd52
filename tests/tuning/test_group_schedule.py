"""Learning-rate multipliers of groups over phases, against closed formulas."""

from functools import partial
from typing import Any

import pytest

from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.plan import Assignment, Plan, Rule
from finetune.tuning.schedules import schedule
from finetune.tuning.timing import Timeline

STEPS, EPOCHS = 4, 10
TIMELINE = Timeline(EPOCHS)
HEAD = Assignment(Rule("head"))
LATE = Assignment(Rule("backbone", train=[[3, None]]))


def group_schedule(name: str = "poly", warmup: float = 0, late: Assignment = LATE, **plan: Any) -> GroupLRSchedule:
    return GroupLRSchedule(
        Plan((late.rule, HEAD.rule), **plan),
        [late, HEAD],
        partial(schedule, name, warmup=warmup),
        STEPS,
        EPOCHS * STEPS,
    )


def curve(groups: GroupLRSchedule, assignment: Assignment, timeline: Timeline = TIMELINE) -> list[float]:
    return [groups.multiplier(assignment, step, timeline) for step in range(STEPS * EPOCHS)]


def test_every_group_follows_the_same_schedule_by_default() -> None:
    expected = [(1 - step / 40) ** 0.9 for step in range(40)]
    assert curve(group_schedule(), HEAD) == pytest.approx(expected)
    assert curve(group_schedule(), LATE) == pytest.approx(expected)


def test_a_restarted_schedule_spans_each_phase() -> None:
    expected = [(1 - step / 12) ** 0.9 for step in range(12)] + [(1 - step / 28) ** 0.9 for step in range(28)]
    assert curve(group_schedule(restart_schedule=True), HEAD) == pytest.approx(expected)


def test_a_restarted_schedule_ends_each_phase_where_the_next_begins() -> None:
    late = Assignment(Rule("backbone", train=[[2, 5], [7, None]]))  # phases of 8, 12, 8 and 12 steps
    expected = [(1 - step / length) ** 0.9 for length in (8, 12, 8, 12) for step in range(length)]
    assert curve(group_schedule(late=late, restart_schedule=True), HEAD) == pytest.approx(expected)


def test_the_warmup_of_a_restarted_schedule_is_a_fraction_of_each_phase() -> None:
    rates = curve(group_schedule("constant", warmup=0.25, restart_schedule=True), HEAD)
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[12:20] == pytest.approx([*(k / 7 for k in range(1, 8)), 1])


def test_each_phase_has_its_own_factor_and_the_last_factor_applies_to_the_rest() -> None:
    late = Assignment(Rule("backbone", train=[[2, 5], [7, None]]))
    rates = curve(group_schedule("constant", late=late, phase_lr=(1.0, 0.5, 0.2)), HEAD)
    assert rates == pytest.approx([1.0] * 8 + [0.5] * 12 + [0.2] * 20)


def test_only_groups_that_are_unfrozen_later_warm_up() -> None:
    plan = Plan((LATE.rule, HEAD.rule), warmup=4)
    groups = GroupLRSchedule(plan, [LATE, HEAD], partial(schedule, "constant", warmup=0), STEPS, EPOCHS * STEPS)
    assert curve(groups, HEAD) == [1.0] * 40
    assert curve(groups, LATE)[12:18] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_warmup_after_unfreezing_may_be_a_fraction_of_all_steps() -> None:
    groups = GroupLRSchedule(
        Plan((LATE.rule, HEAD.rule), warmup=0.05), [LATE, HEAD], partial(schedule, "constant", warmup=0), 4, 40
    )
    assert curve(groups, LATE)[12:15] == pytest.approx([0.5, 1, 1])


def test_a_warmup_of_one_step_is_no_warmup() -> None:
    plan = Plan((LATE.rule, HEAD.rule), warmup=1)
    groups = GroupLRSchedule(plan, [LATE, HEAD], partial(schedule, "constant", warmup=0), STEPS, EPOCHS * STEPS)
    assert curve(groups, LATE)[12:15] == [1.0] * 3


def test_a_group_that_is_unfrozen_a_second_time_warms_up_again() -> None:
    again = Assignment(Rule("backbone", train=[[0, 2], [5, None]]))
    groups = GroupLRSchedule(
        Plan((again.rule,), warmup=2), [again], partial(schedule, "constant", warmup=0), STEPS, EPOCHS * STEPS
    )
    rates = curve(groups, again)
    assert rates[:4] == [1.0] * 4
    assert rates[20:23] == pytest.approx([0.5, 1, 1])


def test_a_plateau_begins_a_new_phase() -> None:
    late = Assignment(Rule("backbone", train=[["plateau", None]]))
    groups = group_schedule(late=late, restart_schedule=True, phase_lr=(1.0, 0.5))
    assert curve(groups, HEAD) == pytest.approx([(1 - step / 40) ** 0.9 for step in range(40)])
    after = curve(groups, HEAD, Timeline(EPOCHS, plateaus=(6,)))
    assert after[24:] == pytest.approx([0.5 * (1 - step / 16) ** 0.9 for step in range(16)])


def test_ratios_between_groups_are_constant_without_a_warmup_after_unfreezing() -> None:
    groups = group_schedule("cosine", warmup=0.1, restart_schedule=True, phase_lr=(1.0, 0.5))
    assert curve(groups, HEAD) == curve(groups, LATE)
