"""Schedules against closed formulas and torch's own schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, PolynomialLR

from finetune.tuning.schedules import SCHEDULES, Schedule, constant, cosine, one_cycle, poly, schedule

TOTAL = 50


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def learning_rates(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def values(curve: Schedule, steps: int) -> list[float]:
    return [curve(step) for step in range(steps)]


def test_cosine_is_torchs_cosine_annealing() -> None:
    theirs = learning_rates(CosineAnnealingLR(optimizer(), T_max=TOTAL, eta_min=0.1), TOTAL + 1)
    assert values(cosine(TOTAL, floor=0.1), TOTAL + 1) == pytest.approx(theirs)


def test_poly_is_torchs_polynomial() -> None:
    theirs = learning_rates(PolynomialLR(optimizer(), total_iters=TOTAL, power=0.9), TOTAL + 5)
    assert values(poly(TOTAL), TOTAL + 5) == pytest.approx(theirs)


@pytest.mark.parametrize("total", [10, 50, 137])
def test_one_cycle_is_torchs_one_cycle(total: int) -> None:
    warmup = round(0.3 * total)
    theirs = OneCycleLR(optimizer(), max_lr=1.0, total_steps=total, pct_start=warmup / total, cycle_momentum=False)
    assert values(one_cycle(total), total - 1) == pytest.approx(learning_rates(theirs, total - 1))
    assert one_cycle(total)(total - 1) == pytest.approx(theirs.get_last_lr()[0]) == 1 / (25 * 1e4)


def test_one_cycle_peaks_at_one_on_the_last_step_of_its_warmup() -> None:
    curve = values(one_cycle(TOTAL, warmup=20), TOTAL)
    assert curve[0] == pytest.approx(1 / 25)
    assert curve[19] == 1.0 == max(curve)


@pytest.mark.parametrize("warmup", [0, 1, TOTAL])
def test_one_cycle_runs_at_both_ends_of_its_warmup(warmup: int) -> None:
    assert all(0 < value <= 1 for value in values(one_cycle(TOTAL, warmup), 2 * TOTAL))


@pytest.mark.parametrize("factory", [constant, cosine, poly])
def test_warmup_climbs_in_equal_parts_from_one_part_to_one(factory) -> None:
    assert values(factory(TOTAL, warmup=4), 4) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_the_floor_is_reached_at_total_and_kept(name: str) -> None:
    curve = schedule(name, TOTAL, warmup=5, floor=0.02)
    assert curve(TOTAL - 1) > 0.02
    assert [curve(TOTAL), curve(TOTAL + 1), curve(10 * TOTAL)] == [0.02] * 3


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_the_way_down_takes_the_steps_after_the_warmup(name: str) -> None:
    without = schedule(name, TOTAL - 10)
    assert values(schedule(name, TOTAL, warmup=10), TOTAL)[10:] == values(without, TOTAL - 10)


def test_cosine_follows_its_formula_after_a_warmup() -> None:
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (23 - 10) / (50 - 10))) / 2
    assert cosine(50, warmup=10, floor=0.1)(23) == pytest.approx(expected)


def test_a_warmup_of_every_step_ends_on_the_floor() -> None:
    assert values(cosine(4, warmup=4), 6) == [0.25, 0.5, 0.75, 1.0, 0.0, 0.0]


def test_constant_stays_at_one() -> None:
    assert values(constant(3), 10) == [1.0] * 10


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), (0.0, 0), (7, 7), (1, 1), (None, 0)])
def test_warmup_counts_steps_or_is_a_share_of_them(warmup: float | None, steps: int) -> None:
    assert values(schedule("cosine", 100, warmup), 100) == values(cosine(100, steps), 100)


def test_one_cycle_without_a_warmup_takes_its_own() -> None:
    assert values(schedule("one_cycle", 100), 100) == values(one_cycle(100, warmup=30), 100)


def test_every_schedule_starts_above_zero_and_takes_a_warmup() -> None:
    assert len(SCHEDULES) == 4
    for name in SCHEDULES:
        assert schedule(name, TOTAL, warmup=5)(0) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin", "total": 9}, "no schedule 'cosin'. Did you mean 'cosine'?"),
        ({"name": "poly", "total": 9, "powr": 2.0}, "no option 'powr'. Did you mean 'power'?"),
        ({"name": "constant", "total": 9, "floor": 0.1}, "no option 'floor'. Choose from: (it has none)"),
        ({"name": "poly", "total": 9, "warmup": 10}, "warmup of 10 steps does not fit into 9 steps"),
        ({"name": "one_cycle", "total": 9, "warmup": -1}, "warmup of -1 steps does not fit"),
        ({"name": "poly", "total": 9, "warmup": 3.0}, "Write 3 for that many steps"),
        ({"name": "poly", "total": 0}, "runs over 0 steps"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        schedule(**arguments)
    assert message in str(error.value)
