"""Moments, spans and phases, worked by hand."""

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
    """Layer groups `b0` (the stem) and up, and a head that always trains."""
    rule = Rule("backbone", **options)
    return {f"b{i}": Assignment(rule, groups - 1 - i, groups) for i in range(groups)} | {"head": HEAD}


def by_epoch(assigned: dict[str, Assignment], timeline: Timeline = TEN) -> list[str]:
    """How many of the backbone's groups train in each epoch, as far as this is a number of the topmost ones."""
    counts = []
    for epoch in range(timeline.epochs):
        names = sorted(trainable(assigned, epoch, timeline) - {"head"})
        assert names == [f"b{i}" for i in range(len(assigned) - 1 - len(names), len(assigned) - 1)]
        counts.append(str(len(names)))
    return counts


@pytest.mark.parametrize(
    ("moment", "epochs", "expected"),
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
def test_moments_are_epochs(moment: Any, epochs: int, expected: float) -> None:
    assert epoch_of(moment, Timeline(epochs)) == expected


@pytest.mark.parametrize(("epochs", "counts"), [(1, "3"), (2, "03"), (3, "013"), (5, "01123")])
def test_shares_fit_a_training_of_any_length(epochs: int, counts: str) -> None:
    assigned = backbone(3, train=[[0.1, None]], stagger=0.8)
    check_timing(assigned, Timeline(epochs))
    assert "".join(by_epoch(assigned, Timeline(epochs))) == counts


def test_a_share_that_is_the_end_is_still_too_late() -> None:
    with pytest.raises(PlanError, match="only 10"):
        check_timing(backbone(2, train=[[0.5, None]], stagger=0.5), TEN)


def test_shares_of_a_training_that_has_been_made_longer_are_those_of_the_shorter_one() -> None:
    assigned = backbone(3, train=[[0.2, None]], stagger=0.4)
    before, longer = Timeline(10), Timeline(40, shortest=10)
    assert by_epoch(assigned, longer)[:10] == by_epoch(assigned, before)
    assert set(by_epoch(assigned, longer)[10:]) == {"3"}
    shorter = Timeline(5, shortest=10)
    assert by_epoch(assigned, shorter) == by_epoch(assigned, Timeline(5))


def test_what_begins_later_rests_while_the_length_of_the_training_is_unknown() -> None:
    assigned = backbone(2, train=[[0.1, None]])
    assert trainable(assigned, 0, Timeline()) == {"head"}


def test_every_share_of_a_training_is_the_whole_number_that_it_means() -> None:
    for epochs in range(1, 60):
        for epoch in range(epochs + 1):
            assert epoch_of(epoch / epochs, Timeline(epochs)) == epoch


def test_plateaus_are_the_epochs_that_began_after_them() -> None:
    timeline = Timeline(10, plateaus=(4, 7))
    assert [epoch_of(m, timeline) for m in ("plateau", "plateau:1", "plateau:2", "plateau:3")] == [4, 4, 7, NEVER]


@pytest.mark.parametrize("moment", ["soon", "plateau:0", "plateau:x", "plateau 2", "plateaued", ""])
def test_words_that_are_no_moment_are_refused(moment: str) -> None:
    with pytest.raises(PlanError, match="is no moment of a training"):
        epoch_of(moment, TEN)


def test_a_span_begins_with_its_first_epoch_and_ends_before_its_last() -> None:
    assert by_epoch(backbone(train=[[0.2, 5]])) == list("0011100000")


def test_what_trained_may_freeze_and_train_again() -> None:
    assert by_epoch(backbone(train=[[0, 0.3], [0.8, None]])) == list("1110000011")
    assert phase_starts(backbone(train=[[0, 0.3], [0.8, None]]).values(), TEN) == [0, 3, 8]


def test_layer_groups_unfreeze_from_the_top_over_the_spread() -> None:
    assert by_epoch(backbone(4, train=[[2, None]], stagger=6)) == list("0011223344")
    assert by_epoch(backbone(4, train=[[0.2, None]], stagger=0.6)) == list("0011223344")
    assert phase_starts(backbone(4, train=[[2, None]], stagger=6).values(), TEN) == [0, 2, 4, 6, 8]


def test_a_spread_over_fewer_epochs_than_groups_unfreezes_several_at_once() -> None:
    assert by_epoch(backbone(8, train=[[1, None]], stagger=2), Timeline(4)) == list("0148")


def test_with_plateaus_each_group_waits_for_one_more() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert by_epoch(gradual) == list("0000000000")
    assert by_epoch(gradual, Timeline(10, (3, 5))) == list("0001122222")
    assert plateaus_awaited(gradual.values()) == 3
    assert plateaus_awaited(backbone(3, train=[[1, None]], stagger="plateau").values()) == 2
    assert plateaus_awaited(backbone(3, train=[[1, "plateau:4"]]).values()) == 4
    assert plateaus_awaited(backbone(3).values()) == 0


def test_a_first_group_at_an_epoch_and_the_others_at_plateaus() -> None:
    mixed = backbone(3, train=[[1, None]], stagger="plateau")
    assert by_epoch(mixed, Timeline(6, (3,))) == list("011222")


def test_plateaus_before_the_first_group_has_unfrozen_unfreeze_none_below_it() -> None:
    mixed = backbone(3, train=[[5, None]], stagger="plateau")
    assert by_epoch(mixed, Timeline(10, (2, 4, 7, 8))) == list("0000011233")
    assert [waits_for_plateau(mixed.values(), epoch, TEN) for epoch in (0, 4, 5, 9)] == [False, False, True, True]


def test_a_plan_waits_for_a_plateau_until_the_last_one_has_come() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    came = [waits_for_plateau(gradual.values(), 0, Timeline(10, plateaus)) for plateaus in ((), (2, 4), (2, 4, 6))]
    assert came == [True, True, False]
    until = backbone(train=[[0, "plateau"]])
    assert [waits_for_plateau(until.values(), 0, Timeline(10, plateaus)) for plateaus in ((), (3,))] == [True, False]
    assert not waits_for_plateau(backbone(3).values(), 0, TEN)


def test_plateaus_come_at_the_soonest_after_the_patience_for_each() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert earliest_plateaus(gradual.values(), Timeline(20), pace=4).plateaus == (4, 8, 12)
    assert earliest_plateaus(gradual.values(), Timeline(10), pace=4).plateaus == (4, 8)
    late = backbone(3, train=[[6, None]], stagger="plateau")
    assert earliest_plateaus(late.values(), Timeline(20), pace=4).plateaus == (10, 14)
    assert earliest_plateaus(backbone(3).values(), Timeline(20), pace=4).plateaus == ()


def test_plateaus_are_assumed_evenly_but_no_sooner_than_they_can_come() -> None:
    gradual = backbone(3, train=[["plateau", None]], stagger="plateau")
    assert evenly_spaced_plateaus(gradual.values(), Timeline(20), pace=2).plateaus == (5, 10, 15)
    assert evenly_spaced_plateaus(gradual.values(), Timeline(20), pace=6).plateaus == (6, 12, 18)
    late = backbone(3, train=[[6, None]], stagger="plateau")
    assert evenly_spaced_plateaus(late.values(), Timeline(20), pace=4).plateaus == (10, 14)


def test_a_plan_for_which_too_few_plateaus_can_come_is_refused() -> None:
    gradual = backbone(5, train=[["plateau", None]], stagger="plateau")
    check_timing(gradual, Timeline(21), pace=4)
    with pytest.raises(PlanError, match=r"waits for 5 plateaus of the score, each taking 4 epochs at least"):
        check_timing(gradual, Timeline(20), pace=4)


@pytest.mark.parametrize(
    ("head", "other", "message"),
    [
        ([[0, "plateau"]], [[5, None]], "after 4 epochs nothing trains, if the score plateaus after 4 epochs"),
        (
            [[0, None]],
            [[8, "plateau"]],
            "from 8 to plateau, if the score plateaus after 4 epochs, which is no whole epoch",
        ),
    ],
)
def test_a_plan_that_an_early_plateau_would_break_is_refused(head: Any, other: Any, message: str) -> None:
    assigned = {"head": Assignment(Rule("head", train=head)), "b0": Assignment(Rule("backbone", train=other))}
    with pytest.raises(PlanError, match=message):
        check_timing(assigned, Timeline(20), pace=4)
    if other[0][0] == 5:
        check_timing(assigned, Timeline(20), pace=5)


def test_what_always_trains_makes_one_phase() -> None:
    assert phase_starts(backbone().values(), TEN) == [0]
    assert phase_starts(backbone(train=False).values(), TEN) == [0]


def test_spans_that_touch_make_no_phase_of_their_own() -> None:
    assert phase_starts(backbone(train=[[0, 4], [4, None]]).values(), TEN) == [0]


def test_never_is_no_span_of_the_training() -> None:
    (assignment,) = set(backbone(train=[["never", None]]).values()) - {HEAD}
    assert span_epochs(assignment, TEN) == [(NEVER, NEVER)]
    assert not any(trains(assignment, epoch, TEN) for epoch in range(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": [[10, None]]}, "that is after 10 epochs, but the training has only 10. Begin earlier"),
        ({"train": [[1.0, None]]}, "that is after 10 epochs, but the training has only 10"),
        ({"train": [[4, None]], "stagger": 6}, "trains b0 from 4 to the end, that is after 10 epochs"),
        ({"train": [[0, 5], [4, None]]}, "from 4 to the end, which overlaps the span before it. Begin it after 5"),
        ({"train": [[5, 5]]}, "from 5 to 5, which is no whole epoch out of 10"),
        ({"train": [[0.51, 0.55]]}, "from 0.51 to 0.55, which is no whole epoch out of 10"),
        ({"train": [[5, 2]]}, "which is no whole epoch"),
        ({"train": [[-1, None]]}, "moments are 0 or more"),
        ({"train": [[1.5, None]]}, "a share of training lies in 0..1. Write an epoch as a whole number"),
        ({"train": [["later", None]]}, "'later' is no moment of a training"),
        (
            {"train": [["plateau:10", None]]},
            "waits for 10 plateaus of the score, each taking 1 epochs at least to show",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_training_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_timing(backbone(3, **options), TEN)


@pytest.mark.parametrize("options", [{}, {"train": [[0.1, None]], "stagger": 0.5}, {"train": [["never", None]]}])
def test_a_plan_that_fits_passes(options: dict[str, Any]) -> None:
    check_timing(backbone(3, **options), TEN)


def test_an_epoch_in_which_nothing_trains_is_refused() -> None:
    assigned = {"b0": Assignment(Rule("backbone", train=[[0, 4], [6, None]]))}
    with pytest.raises(PlanError, match="after 4 epochs nothing trains"):
        check_timing(assigned, TEN)
    with pytest.raises(PlanError, match="after 0 epochs nothing trains"):
        check_timing({"b0": Assignment(Rule("backbone", train=False))}, TEN)


def test_what_never_trains_waits_for_no_plateau() -> None:
    never = backbone(3, train=[["never", None]], stagger="plateau")
    assert plateaus_awaited(never.values()) == 0
    assert by_epoch(never, Timeline(10, (1, 2, 3))) == list("0000000000")
