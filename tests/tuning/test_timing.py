"""Milestones, spans and phases worked out by hand."""

from typing import Any

import pytest

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment, Rule
from finetune.tuning.plan_feasibility import check_timing, earliest_plateaus, evenly_spaced_plateaus
from finetune.tuning.timing import (
    NEVER,
    Timeline,
    epoch_of,
    phase_starts,
    plateaus_awaited,
    span_epochs,
    trainable,
    trains,
    waits_for_plateau,
)

TEN = Timeline(10)
HEAD = Assignment(Rule("head"))


def backbone(groups: int = 1, **options: Any) -> dict[str, Assignment]:
    """Return layer groups `b0` (the stem) and up, and a head that always trains."""
    rule = Rule("backbone", **options)
    return {f"b{i}": Assignment(rule, groups - 1 - i, groups) for i in range(groups)} | {"head": HEAD}


def by_epoch(assigned: dict[str, Assignment], timeline: Timeline = TEN) -> list[str]:
    """Return how many of the backbone's layer groups train in each epoch; they must be the topmost ones."""
    counts = []
    for epoch in range(timeline.epochs):
        names = sorted(trainable(assigned, epoch, timeline) - {"head"})
        assert names == [f"b{i}" for i in range(len(assigned) - 1 - len(names), len(assigned) - 1)]
        counts.append(str(len(names)))
    return counts


@pytest.mark.parametrize(
    ("milestone", "epochs", "expected"),
    [
        (0, 10, 0),
        (3, 10, 3),
        (0.0, 10, 0),
        (0.1, 10, 1),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (0.05, 10, 1),
        (1.0, 10, 10),
        (1, 10, 1),
        (0.1, 3, 1),
        (None, 10, NEVER),
        ("never", 10, NEVER),
        ("plateau", 10, NEVER),
    ],
)
def test_milestones_become_epochs(milestone: Any, epochs: int, expected: float) -> None:
    assert epoch_of(milestone, Timeline(epochs)) == expected


@pytest.mark.parametrize(("epochs", "counts"), [(1, "3"), (2, "03"), (3, "013"), (5, "01123")])
def test_fractions_fit_a_training_of_any_length(epochs: int, counts: str) -> None:
    assigned = backbone(3, train=[[0.1, None]], stagger=0.8)
    check_timing(assigned, Timeline(epochs))
    assert "".join(by_epoch(assigned, Timeline(epochs))) == counts


def test_a_fraction_that_equals_the_end_is_too_late() -> None:
    with pytest.raises(PlanError, match="only 10"):
        check_timing(backbone(2, train=[[0.5, None]], stagger=0.5), TEN)


def test_fractions_of_an_extended_training_refer_to_its_original_length() -> None:
    assigned = backbone(3, train=[[0.2, None]], stagger=0.4)
    before, longer = Timeline(10), Timeline(40, smallest_epochs=10)
    assert by_epoch(assigned, longer)[:10] == by_epoch(assigned, before)
    assert set(by_epoch(assigned, longer)[10:]) == {"3"}
    shorter = Timeline(5, smallest_epochs=10)
    assert by_epoch(assigned, shorter) == by_epoch(assigned, Timeline(5))


def test_layers_that_start_later_are_frozen_while_the_length_of_the_training_is_unknown() -> None:
    assigned = backbone(2, train=[[0.1, None]])
    assert trainable(assigned, 0, Timeline()) == {"head"}


def test_fractions_are_not_shifted_by_rounding_errors() -> None:
    for epochs in range(1, 60):
        for epoch in range(epochs + 1):
            assert epoch_of(epoch / epochs, Timeline(epochs)) == epoch


def test_a_plateau_is_the_epoch_that_began_after_it() -> None:
    timeline = Timeline(10, plateaus=(4, 7))
    assert [epoch_of(milestone, timeline) for milestone in ("plateau", "plateau:1", "plateau:2", "plateau:3")] == [
        4,
        4,
        7,
        NEVER,
    ]


@pytest.mark.parametrize("milestone", ["soon", "plateau:0", "plateau:x", "plateau 2", "plateaued", ""])
def test_an_invalid_milestone_is_rejected(milestone: str) -> None:
    with pytest.raises(PlanError, match="is not a valid start or stop"):
        epoch_of(milestone, TEN)


def test_a_span_includes_its_start_and_excludes_its_stop() -> None:
    assert by_epoch(backbone(train=[[0.2, 5]])) == list("0011100000")


def test_layers_may_freeze_and_train_again() -> None:
    assert by_epoch(backbone(train=[[0, 0.3], [0.8, None]])) == list("1110000011")
    assert phase_starts(backbone(train=[[0, 0.3], [0.8, None]]).values(), TEN) == [0, 3, 8]


def test_staggered_layer_groups_are_unfrozen_from_the_top_down() -> None:
    assert by_epoch(backbone(4, train=[[2, None]], stagger=6)) == list("0011223344")
    assert by_epoch(backbone(4, train=[[0.2, None]], stagger=0.6)) == list("0011223344")
    assert phase_starts(backbone(4, train=[[2, None]], stagger=6).values(), TEN) == [0, 2, 4, 6, 8]


def test_a_stagger_over_fewer_epochs_than_groups_unfreezes_several_at_once() -> None:
    assert by_epoch(backbone(8, train=[[1, None]], stagger=2), Timeline(4)) == list("0148")


def test_layer_groups_staggered_by_plateaus_wait_for_one_more_each() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert by_epoch(gradual) == list("0000000000")
    assert by_epoch(gradual, Timeline(10, (3, 5))) == list("0001122222")
    assert plateaus_awaited(gradual.values()) == 3
    assert plateaus_awaited(backbone(3, train=[[1, None]], stagger="plateau").values()) == 2
    assert plateaus_awaited(backbone(3, train=[[1, "plateau:4"]]).values()) == 4
    assert plateaus_awaited(backbone(3).values()) == 0


def test_the_first_group_may_start_at_an_epoch_and_the_others_at_plateaus() -> None:
    mixed = backbone(3, train=[[1, None]], stagger="plateau")
    assert by_epoch(mixed, Timeline(6, (3,))) == list("011222")


def test_plateaus_before_the_start_of_the_first_group_are_ignored() -> None:
    mixed = backbone(3, train=[[5, None]], stagger="plateau")
    assert by_epoch(mixed, Timeline(10, (2, 4, 7, 8))) == list("0000011233")
    assert [waits_for_plateau(mixed.values(), epoch, TEN) for epoch in (0, 4, 5, 9)] == [False, False, True, True]


def test_a_plan_waits_until_its_last_plateau() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    waits = [waits_for_plateau(gradual.values(), 0, Timeline(10, plateaus)) for plateaus in ((), (2, 4), (2, 4, 6))]
    assert waits == [True, True, False]
    until = backbone(train=[[0, "plateau"]])
    assert [waits_for_plateau(until.values(), 0, Timeline(10, plateaus)) for plateaus in ((), (3,))] == [True, False]
    assert not waits_for_plateau(backbone(3).values(), 0, TEN)


def test_the_earliest_plateaus_are_spaced_by_the_epochs_that_each_takes_to_detect() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert earliest_plateaus(gradual.values(), Timeline(20), min_plateau_epochs=4).plateaus == (4, 8, 12)
    assert earliest_plateaus(gradual.values(), Timeline(10), min_plateau_epochs=4).plateaus == (4, 8)
    late = backbone(3, train=[[6, None]], stagger="plateau")
    assert earliest_plateaus(late.values(), Timeline(20), min_plateau_epochs=4).plateaus == (10, 14)
    assert earliest_plateaus(backbone(3).values(), Timeline(20), min_plateau_epochs=4).plateaus == ()


def test_assumed_plateaus_are_evenly_spaced_but_no_earlier_than_possible() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert evenly_spaced_plateaus(gradual.values(), Timeline(20), min_plateau_epochs=2).plateaus == (5, 10, 15)
    assert evenly_spaced_plateaus(gradual.values(), Timeline(20), min_plateau_epochs=6).plateaus == (6, 12, 18)
    late = backbone(3, train=[[6, None]], stagger="plateau")
    assert evenly_spaced_plateaus(late.values(), Timeline(20), min_plateau_epochs=4).plateaus == (10, 14)


def test_a_plan_that_waits_for_more_plateaus_than_possible_is_rejected() -> None:
    gradual = backbone(5, train=[["plateau", None]], stagger="plateau")
    check_timing(gradual, Timeline(21), min_plateau_epochs=4)
    with pytest.raises(PlanError, match=r"waits for 5 plateaus of the score, each of which takes at least 4 epochs"):
        check_timing(gradual, Timeline(20), min_plateau_epochs=4)


@pytest.mark.parametrize(
    ("head", "other", "message"),
    [
        ([[0, "plateau"]], [[5, None]], "nothing trains after 4 epochs, if the score plateaus after 4 epochs"),
        (
            [[0, None]],
            [[8, "plateau"]],
            "from 8 to plateau, if the score plateaus after 4 epochs, which covers no full epoch",
        ),
    ],
)
def test_a_plan_that_an_early_plateau_would_break_is_rejected(head: Any, other: Any, message: str) -> None:
    assigned = {"head": Assignment(Rule("head", train=head)), "b0": Assignment(Rule("backbone", train=other))}
    with pytest.raises(PlanError, match=message):
        check_timing(assigned, Timeline(20), min_plateau_epochs=4)
    if other[0][0] == 5:
        check_timing(assigned, Timeline(20), min_plateau_epochs=5)


def test_a_plan_that_never_changes_has_one_phase() -> None:
    assert phase_starts(backbone().values(), TEN) == [0]
    assert phase_starts(backbone(train=False).values(), TEN) == [0]


def test_adjacent_spans_do_not_begin_a_new_phase() -> None:
    assert phase_starts(backbone(train=[[0, 4], [4, None]]).values(), TEN) == [0]


def test_a_rule_that_never_starts_never_trains() -> None:
    (assignment,) = set(backbone(train=[["never", None]]).values()) - {HEAD}
    assert span_epochs(assignment, TEN) == [(NEVER, NEVER)]
    assert not any(trains(assignment, epoch, TEN) for epoch in range(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": [[10, None]]}, "which starts after 10 epochs, but the training has only 10. Start earlier"),
        ({"train": [[1.0, None]]}, "which starts after 10 epochs, but the training has only 10"),
        ({"train": [[4, None]], "stagger": 6}, "trains b0 from 4 to the end, which starts after 10 epochs"),
        ({"train": [[0, 5], [4, None]]}, "from 4 to the end, which overlaps the span before it. Start after 5 epochs"),
        ({"train": [[5, 5]]}, "from 5 to 5, which covers no full epoch of 10"),
        ({"train": [[0.51, 0.55]]}, "from 0.51 to 0.55, which covers no full epoch of 10"),
        ({"train": [[5, 2]]}, "which covers no full epoch"),
        ({"train": [[-1, None]]}, "start and stop must be 0 or more"),
        ({"train": [[1.5, None]]}, "a fraction of the training must be from 0 to 1. Write an epoch as a whole number"),
        ({"train": [["later", None]]}, "'later' is not a valid start or stop"),
        (
            {"train": [["plateau:10", None]]},
            "waits for 10 plateaus of the score, each of which takes at least 1 epochs to detect",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_training_is_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_timing(backbone(3, **options), TEN)


@pytest.mark.parametrize("options", [{}, {"train": [[0.1, None]], "stagger": 0.5}, {"train": [["never", None]]}])
def test_a_plan_that_fits_the_training_is_accepted(options: dict[str, Any]) -> None:
    check_timing(backbone(3, **options), TEN)


def test_an_epoch_in_which_nothing_trains_is_rejected() -> None:
    assigned = {"b0": Assignment(Rule("backbone", train=[[0, 4], [6, None]]))}
    with pytest.raises(PlanError, match="nothing trains after 4 epochs"):
        check_timing(assigned, TEN)
    with pytest.raises(PlanError, match="nothing trains after 0 epochs"):
        check_timing({"b0": Assignment(Rule("backbone", train=False))}, TEN)


def test_a_rule_that_never_trains_waits_for_no_plateau() -> None:
    never = backbone(3, train=[["never", None]], stagger="plateau")
    assert plateaus_awaited(never.values()) == 0
    assert by_epoch(never, Timeline(10, (1, 2, 3))) == list("0000000000")
