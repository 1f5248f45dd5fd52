"""Moments, spans and phases, worked by hand."""

from typing import Any

import pytest

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment, Rule
from finetune.tuning.plan_feasibility import assumed, check_timing, soonest
from finetune.tuning.timing import (
    NEVER,
    Timeline,
    epoch_of,
    phase_starts,
    span_epochs,
    stalls_awaited,
    trainable,
    trains,
    waits_for_stall,
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
        ("stall", 10, NEVER),
    ],
)
def test_moments_are_epochs(moment: Any, epochs: int, expected: float) -> None:
    assert epoch_of(moment, Timeline(epochs)) == expected


@pytest.mark.parametrize(("epochs", "counts"), [(1, "3"), (2, "03"), (3, "013"), (5, "01123")])
def test_shares_fit_a_training_of_any_length(epochs: int, counts: str) -> None:
    assigned = backbone(3, trains=[[0.1, None]], spread=0.8)
    check_timing(assigned, Timeline(epochs))
    assert "".join(by_epoch(assigned, Timeline(epochs))) == counts


def test_a_share_that_is_the_end_is_still_too_late() -> None:
    with pytest.raises(PlanError, match="only 10"):
        check_timing(backbone(2, trains=[[0.5, None]], spread=0.5), TEN)


def test_shares_of_a_training_that_has_been_made_longer_are_those_of_the_shorter_one() -> None:
    assigned = backbone(3, trains=[[0.2, None]], spread=0.4)
    before, longer = Timeline(10), Timeline(40, shortest=10)
    assert by_epoch(assigned, longer)[:10] == by_epoch(assigned, before)
    assert set(by_epoch(assigned, longer)[10:]) == {"3"}
    shorter = Timeline(5, shortest=10)
    assert by_epoch(assigned, shorter) == by_epoch(assigned, Timeline(5))


def test_what_begins_later_rests_while_the_length_of_the_training_is_unknown() -> None:
    assigned = backbone(2, trains=[[0.1, None]])
    assert trainable(assigned, 0, Timeline()) == {"head"}


def test_every_share_of_a_training_is_the_whole_number_that_it_means() -> None:
    for epochs in range(1, 60):
        for epoch in range(epochs + 1):
            assert epoch_of(epoch / epochs, Timeline(epochs)) == epoch


def test_stalls_are_the_epochs_that_began_after_them() -> None:
    timeline = Timeline(10, stalls=(4, 7))
    assert [epoch_of(m, timeline) for m in ("stall", "stall:1", "stall:2", "stall:3")] == [4, 4, 7, NEVER]


@pytest.mark.parametrize("moment", ["soon", "stall:0", "stall:x", "stall 2", "stalled", ""])
def test_words_that_are_no_moment_are_refused(moment: str) -> None:
    with pytest.raises(PlanError, match="is no moment of a training"):
        epoch_of(moment, TEN)


def test_a_span_begins_with_its_first_epoch_and_ends_before_its_last() -> None:
    assert by_epoch(backbone(trains=[[0.2, 5]])) == list("0011100000")


def test_what_trained_may_freeze_and_train_again() -> None:
    assert by_epoch(backbone(trains=[[0, 0.3], [0.8, None]])) == list("1110000011")
    assert phase_starts(backbone(trains=[[0, 0.3], [0.8, None]]).values(), TEN) == [0, 3, 8]


def test_layer_groups_thaw_from_the_top_over_the_spread() -> None:
    assert by_epoch(backbone(4, trains=[[2, None]], spread=6)) == list("0011223344")
    assert by_epoch(backbone(4, trains=[[0.2, None]], spread=0.6)) == list("0011223344")
    assert phase_starts(backbone(4, trains=[[2, None]], spread=6).values(), TEN) == [0, 2, 4, 6, 8]


def test_a_spread_over_fewer_epochs_than_groups_thaws_several_at_once() -> None:
    assert by_epoch(backbone(8, trains=[[1, None]], spread=2), Timeline(4)) == list("0148")


def test_with_stalls_each_group_waits_for_one_more() -> None:
    gradual = backbone(3, trains=[["stall", None]], spread="stall")
    assert by_epoch(gradual) == list("0000000000")
    assert by_epoch(gradual, Timeline(10, (3, 5))) == list("0001122222")
    assert stalls_awaited(gradual.values()) == 3
    assert stalls_awaited(backbone(3, trains=[[1, None]], spread="stall").values()) == 2
    assert stalls_awaited(backbone(3, trains=[[1, "stall:4"]]).values()) == 4
    assert stalls_awaited(backbone(3).values()) == 0


def test_a_first_group_at_an_epoch_and_the_others_at_stalls() -> None:
    mixed = backbone(3, trains=[[1, None]], spread="stall")
    assert by_epoch(mixed, Timeline(6, (3,))) == list("011222")


def test_stalls_before_the_first_group_has_thawed_thaw_none_below_it() -> None:
    mixed = backbone(3, trains=[[5, None]], spread="stall")
    assert by_epoch(mixed, Timeline(10, (2, 4, 7, 8))) == list("0000011233")
    assert [waits_for_stall(mixed.values(), epoch, TEN) for epoch in (0, 4, 5, 9)] == [False, False, True, True]


def test_a_plan_waits_for_a_stall_until_the_last_one_has_come() -> None:
    gradual = backbone(3, trains=[["stall", None]], spread="stall")
    came = [waits_for_stall(gradual.values(), 0, Timeline(10, stalls)) for stalls in ((), (2, 4), (2, 4, 6))]
    assert came == [True, True, False]
    until = backbone(trains=[[0, "stall"]])
    assert [waits_for_stall(until.values(), 0, Timeline(10, stalls)) for stalls in ((), (3,))] == [True, False]
    assert not waits_for_stall(backbone(3).values(), 0, TEN)


def test_stalls_come_at_the_soonest_after_the_patience_for_each() -> None:
    gradual = backbone(3, trains=[["stall", None]], spread="stall")
    assert soonest(gradual.values(), Timeline(20), pace=4).stalls == (4, 8, 12)
    assert soonest(gradual.values(), Timeline(10), pace=4).stalls == (4, 8)
    late = backbone(3, trains=[[6, None]], spread="stall")
    assert soonest(late.values(), Timeline(20), pace=4).stalls == (10, 14)
    assert soonest(backbone(3).values(), Timeline(20), pace=4).stalls == ()


def test_stalls_are_assumed_evenly_but_no_sooner_than_they_can_come() -> None:
    gradual = backbone(3, trains=[["stall", None]], spread="stall")
    assert assumed(gradual.values(), Timeline(20), pace=2).stalls == (5, 10, 15)
    assert assumed(gradual.values(), Timeline(20), pace=6).stalls == (6, 12, 18)
    late = backbone(3, trains=[[6, None]], spread="stall")
    assert assumed(late.values(), Timeline(20), pace=4).stalls == (10, 14)


def test_a_plan_for_which_too_few_stalls_can_come_is_refused() -> None:
    gradual = backbone(5, trains=[["stall", None]], spread="stall")
    check_timing(gradual, Timeline(21), pace=4)
    with pytest.raises(PlanError, match=r"waits for 5 stalls of the score, each of which takes 4 epochs at least"):
        check_timing(gradual, Timeline(20), pace=4)


@pytest.mark.parametrize(
    ("head", "other", "message"),
    [
        ([[0, "stall"]], [[5, None]], "after 4 epochs nothing trains, if the score stalls after 4 epochs"),
        ([[0, None]], [[8, "stall"]], "from 8 to stall, if the score stalls after 4 epochs, which is no whole epoch"),
    ],
)
def test_a_plan_that_an_early_stall_would_break_is_refused(head: Any, other: Any, message: str) -> None:
    assigned = {"head": Assignment(Rule("head", trains=head)), "b0": Assignment(Rule("backbone", trains=other))}
    with pytest.raises(PlanError, match=message):
        check_timing(assigned, Timeline(20), pace=4)
    if other[0][0] == 5:
        check_timing(assigned, Timeline(20), pace=5)


def test_what_always_trains_makes_one_phase() -> None:
    assert phase_starts(backbone().values(), TEN) == [0]
    assert phase_starts(backbone(trains=False).values(), TEN) == [0]


def test_spans_that_touch_make_no_phase_of_their_own() -> None:
    assert phase_starts(backbone(trains=[[0, 4], [4, None]]).values(), TEN) == [0]


def test_never_is_no_span_of_the_training() -> None:
    (assignment,) = set(backbone(trains=[["never", None]]).values()) - {HEAD}
    assert span_epochs(assignment, TEN) == [(NEVER, NEVER)]
    assert not any(trains(assignment, epoch, TEN) for epoch in range(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trains": [[10, None]]}, "that is after 10 epochs, but the training has only 10. Begin earlier"),
        ({"trains": [[1.0, None]]}, "that is after 10 epochs, but the training has only 10"),
        ({"trains": [[4, None]], "spread": 6}, "trains b0 from 4 to the end, that is after 10 epochs"),
        ({"trains": [[0, 5], [4, None]]}, "from 4 to the end, which overlaps the span before it. Begin it after 5"),
        ({"trains": [[5, 5]]}, "from 5 to 5, which is no whole epoch out of 10"),
        ({"trains": [[0.51, 0.55]]}, "from 0.51 to 0.55, which is no whole epoch out of 10"),
        ({"trains": [[5, 2]]}, "which is no whole epoch"),
        ({"trains": [[-1, None]]}, "moments are 0 or more"),
        ({"trains": [[1.5, None]]}, "a share of training lies in 0..1. Write an epoch as a whole number"),
        ({"trains": [["later", None]]}, "'later' is no moment of a training"),
        (
            {"trains": [["stall:10", None]]},
            "waits for 10 stalls of the score, each of which takes 1 epochs at least to show",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_training_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_timing(backbone(3, **options), TEN)


@pytest.mark.parametrize("options", [{}, {"trains": [[0.1, None]], "spread": 0.5}, {"trains": [["never", None]]}])
def test_a_plan_that_fits_passes(options: dict[str, Any]) -> None:
    check_timing(backbone(3, **options), TEN)


def test_an_epoch_in_which_nothing_trains_is_refused() -> None:
    assigned = {"b0": Assignment(Rule("backbone", trains=[[0, 4], [6, None]]))}
    with pytest.raises(PlanError, match="after 4 epochs nothing trains"):
        check_timing(assigned, TEN)
    with pytest.raises(PlanError, match="after 0 epochs nothing trains"):
        check_timing({"b0": Assignment(Rule("backbone", trains=False))}, TEN)


def test_what_never_trains_waits_for_no_stall() -> None:
    never = backbone(3, trains=[["never", None]], spread="stall")
    assert stalls_awaited(never.values()) == 0
    assert by_epoch(never, Timeline(10, (1, 2, 3))) == list("0000000000")
