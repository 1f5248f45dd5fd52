"""Schedules against closed formulas and the schedulers of torch."""

import inspect
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from finetune.tuning.lr_curves import (
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    linear,
    multi_step,
    one_cycle,
    poly,
    step,
    steps_of,
    warmup_stable_decay,
)
from finetune.tuning.schedules import SCHEDULES, Plateau, Schedule, schedule

TOTAL = 50
STARTING_AT_ONE = sorted(set(SCHEDULES) - {"one_cycle", "cyclic"})
FALLING = ["linear", "cosine", "poly", "exponential", "cosine_restarts", "cyclic", "warmup_stable_decay"]


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


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cosine(TOTAL, min_lr_ratio=0.1), lambda o: CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1)),
        (poly(TOTAL), lambda o: PolynomialLR(o, total_iters=TOTAL, power=0.9)),
        (poly(TOTAL, power=2.5), lambda o: PolynomialLR(o, total_iters=TOTAL, power=2.5)),
        (linear(TOTAL, min_lr_ratio=0.1), lambda o: LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=TOTAL)),
        (exponential(TOTAL, min_lr_ratio=0.01), lambda o: ExponentialLR(o, gamma=0.01 ** (1 / TOTAL))),
        (step(TOTAL, step_size=13, gamma=0.3), lambda o: StepLR(o, step_size=13, gamma=0.3)),
        (step(TOTAL, step_size=0.26, gamma=0.3), lambda o: StepLR(o, step_size=13, gamma=0.3)),
        (multi_step(TOTAL, milestones=[20, 35], gamma=0.3), lambda o: MultiStepLR(o, [20, 35], gamma=0.3)),
        (multi_step(TOTAL, milestones=[0.7, 0.4], gamma=0.3), lambda o: MultiStepLR(o, [20, 35], gamma=0.3)),
        (
            cosine_restarts(TOTAL, cycles=5, min_lr_ratio=0.1),
            lambda o: CosineAnnealingWarmRestarts(o, T_0=10, T_mult=1, eta_min=0.1),
        ),
        (cosine_restarts(70, cycles=3, cycle_mult=2), lambda o: CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2)),
        (cyclic(TOTAL, cycles=5), lambda o: CyclicLR(o, 0.1, 1.0, step_size_up=5, cycle_momentum=False)),
        (
            cyclic(TOTAL, cycles=5, gamma=0.5, min_lr_ratio=0.2),
            lambda o: CyclicLR(o, 0.2, 1.0, step_size_up=5, mode="triangular2", cycle_momentum=False),
        ),
        (constant(TOTAL, warmup=10), lambda o: LinearLR(o, start_factor=0.1, total_iters=9)),
    ],
)
def test_the_curve_equals_that_of_the_scheduler_in_torch(ours: Schedule, theirs: Callable[..., LRScheduler]) -> None:
    assert values(ours, TOTAL) == pytest.approx(learning_rates(theirs(optimizer()), TOTAL))


@pytest.mark.parametrize("total", [10, 50, 137])
def test_one_cycle_equals_one_cycle_in_torch(total: int) -> None:
    warmup = round(0.3 * total)
    theirs = OneCycleLR(optimizer(), max_lr=1.0, total_steps=total, pct_start=warmup / total, cycle_momentum=False)
    assert values(one_cycle(total), total - 1) == pytest.approx(learning_rates(theirs, total - 1))
    assert one_cycle(total)(total - 1) == pytest.approx(theirs.get_last_lr()[0]) == 1 / (25 * 1e4)


def test_one_cycle_peaks_at_one_on_the_last_step_of_its_warmup() -> None:
    curve = values(one_cycle(TOTAL, warmup=20), TOTAL)
    assert curve[0] == pytest.approx(1 / 25)
    assert curve[19] == 1.0 == max(curve)


@pytest.mark.parametrize("warmup", [0, 1, TOTAL])
def test_one_cycle_takes_the_shortest_and_the_longest_warmup(warmup: int) -> None:
    assert all(0 < value <= 1 for value in values(one_cycle(TOTAL, warmup), 2 * TOTAL))


@pytest.mark.parametrize("name", STARTING_AT_ONE)
def test_the_warmup_rises_linearly_and_does_not_start_at_zero(name: str) -> None:
    assert values(schedule(name, TOTAL, warmup=4), 5) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_warmup_of_a_cyclic_schedule_rises_to_min_lr_ratio() -> None:
    curve = values(cyclic(24, warmup=4, cycles=2, min_lr_ratio=0.2), 25)
    assert curve[:5] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])
    assert [curve[step] for step in (9, 14, 19, 24)] == pytest.approx([1.0, 0.2, 1.0, 0.2])


@pytest.mark.parametrize("name", FALLING)
def test_min_lr_ratio_is_reached_at_total_and_kept(name: str) -> None:
    curve = schedule(name, TOTAL, warmup=5, min_lr_ratio=0.02)
    assert curve(TOTAL - 1) > 0.02
    assert [curve(TOTAL), curve(TOTAL + 1), curve(10 * TOTAL)] == pytest.approx([0.02] * 3)


@pytest.mark.parametrize("name", ["linear", "cosine", "poly", "exponential", "cosine_restarts", "cyclic"])
def test_the_decay_takes_the_steps_after_the_warmup(name: str) -> None:
    without = schedule(name, TOTAL - 10)
    assert values(schedule(name, TOTAL, warmup=10), TOTAL)[10:] == values(without, TOTAL - 10)


def test_cosine_follows_its_formula_after_a_warmup() -> None:
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (23 - 10) / (50 - 10))) / 2
    assert cosine(50, warmup=10, min_lr_ratio=0.1)(23) == pytest.approx(expected)


def test_step_size_counts_from_the_end_of_the_warmup_and_milestones_from_the_start() -> None:
    assert values(step(10, warmup=2, step_size=4, gamma=0.5), 12) == [0.5] + [1.0] * 5 + [0.5] * 4 + [0.25] * 2
    assert (
        values(multi_step(10, warmup=2, milestones=[0.4, 8], gamma=0.5), 10)
        == [0.5] + [1.0] * 3 + [0.5] * 4 + [0.25] * 2
    )


def test_a_milestone_beyond_the_end_has_no_effect() -> None:
    assert values(multi_step(10, milestones=[5, 20], gamma=0.5), 10) == [1.0] * 5 + [0.5] * 5


def test_every_cycle_restarts_at_one_and_is_longer_by_cycle_mult() -> None:
    curve = values(cosine_restarts(140, cycles=3, cycle_mult=2.0), 140)
    assert [step for step, value in enumerate(curve) if value == 1.0] == [0, 20, 60]


@pytest.mark.parametrize(
    ("shape", "down"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]),
        ("sqrt", [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]),
    ],
)
def test_warmup_stable_decay_is_flat_until_its_decay(shape: str, down: list[float]) -> None:
    curve = warmup_stable_decay(10, warmup=2, decay=4, shape=shape, min_lr_ratio=0.5)
    assert values(curve, 11) == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, *[(1 + v) / 2 for v in down], 0.5])


def test_warmup_and_decay_may_cover_all_of_a_short_training() -> None:
    for total in range(1, 40):
        for warmup in (0.1, 0.5, 0.9):
            curve = warmup_stable_decay(total, warmup, decay=round(1 - warmup, 1))
            first = steps_of("warmup", warmup, total)
            assert curve(first) == (1.0 if first < total else 0.0)
            assert curve(total) == 0.0


def test_a_warmup_over_all_steps_ends_on_min_lr_ratio() -> None:
    assert values(cosine(4, warmup=4), 6) == [0.25, 0.5, 0.75, 1.0, 0.0, 0.0]


def test_constant_stays_at_one() -> None:
    assert values(constant(3), 10) == [1.0] * 10


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), (0.0, 0), (7, 7), (1, 1), (None, 0)])
def test_the_warmup_is_a_number_of_steps_or_a_fraction(warmup: float | None, steps: int) -> None:
    assert values(schedule("cosine", 100, warmup), 100) == values(cosine(100, steps), 100)


@pytest.mark.parametrize(
    ("name", "fraction", "steps"),
    [
        ("step", {"step_size": 0.25}, {"step_size": 20}),
        ("multi_step", {"milestones": [0.25, 0.5]}, {"milestones": [20, 40]}),
        ("warmup_stable_decay", {"decay": 0.25}, {"decay": 20}),
    ],
)
def test_every_length_is_a_number_of_steps_or_a_fraction(name: str, fraction: dict, steps: dict) -> None:
    assert values(schedule(name, 80, 0.1, **fraction), 80) == values(schedule(name, 80, 8, **steps), 80)


def test_one_cycle_without_a_warmup_uses_its_default() -> None:
    assert values(schedule("one_cycle", 100), 100) == values(one_cycle(100, warmup=30), 100)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_stays_between_zero_and_one_at_any_length_and_warmup(name: str) -> None:
    for total in range(1, 25):
        for warmup in (None, 0, 0.05, 0.3, 0.75, 1):
            curve = values(schedule(name, total, warmup), total + 3)
            assert 0 < curve[0] <= 1
            assert all(0 <= value <= 1 for value in curve)


def test_there_are_12_schedules_and_each_has_a_warmup() -> None:
    assert len(SCHEDULES) == 12
    assert {name for name, factory in SCHEDULES.items() if "warmup" in inspect.signature(factory).parameters} == set(
        SCHEDULES
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin", "total": 9}, "no schedule 'cosin'. Did you mean cosine?"),
        ({"name": "poly", "total": 9, "powr": 2.0}, "no option 'powr'. Did you mean power?"),
        (
            {"name": "constant", "total": 9, "min_lr_ratio": 0.1},
            "no option 'min_lr_ratio'. There are none",
        ),
        ({"name": "plateau", "total": 9, "patients": 3}, "no option 'patients'. Did you mean patience?"),
        ({"name": "poly", "total": 9, "warmup": 10}, "warmup of 10 steps does not fit into 9 steps"),
        ({"name": "plateau", "total": 9, "warmup": 10}, "warmup of 10 steps does not fit into 9 steps"),
        ({"name": "one_cycle", "total": 9, "warmup": -1}, "warmup is -1, expected 0 steps or more"),
        ({"name": "poly", "total": 9, "warmup": 3.0}, "Write 3 for that many steps"),
        ({"name": "poly", "total": 9, "warmup": math.nan}, "warmup is nan"),
        ({"name": "poly", "total": 9, "warmup": "1k"}, "warmup is '1k', expected a number of steps"),
        ({"name": "poly", "total": 0}, "runs over 0 steps"),
        ({"name": "poly", "total": 9, "power": -1}, "power is -1, expected a number of 0 or more"),
        ({"name": "cosine", "total": 9, "min_lr_ratio": 1.5}, "min_lr_ratio is 1.5, expected a number from 0 to 1"),
        ({"name": "linear", "total": 9, "min_lr_ratio": "low"}, "min_lr_ratio is 'low', expected a number from 0 to 1"),
        (
            {"name": "exponential", "total": 9, "min_lr_ratio": 0.0},
            "min_lr_ratio is 0.0, expected a number from 1e-09 to 1",
        ),
        ({"name": "step", "total": 9, "step_size": 2.0}, "step_size is 2.0, but a float is a fraction"),
        ({"name": "step", "total": 9, "gamma": 2}, "gamma is 2, expected a number from 0 to 1"),
        ({"name": "multi_step", "total": 9, "milestones": 0.5}, "milestones is 0.5, expected a list"),
        ({"name": "multi_step", "total": 9, "milestones": []}, "milestones is [], expected a list of one or more"),
        ({"name": "multi_step", "total": 9, "milestones": [0.5, 1.5]}, "milestones is 1.5, but a float is a fraction"),
        ({"name": "cosine_restarts", "total": 9, "cycles": 0}, "cycles is 0, expected a whole number of 1 or more"),
        ({"name": "cyclic", "total": 9, "cycles": 1.5}, "cycles is 1.5, expected a whole number of 1 or more"),
        (
            {"name": "cosine_restarts", "total": 9, "cycle_mult": 0.5},
            "cycle_mult is 0.5, expected a number of 1 or more",
        ),
        ({"name": "one_cycle", "total": 9, "div_factor": 0}, "div_factor is 0, expected a number of 1 or more"),
        ({"name": "warmup_stable_decay", "total": 9, "shape": "cos"}, "no decay shape 'cos'. Did you mean cosine?"),
        (
            {"name": "warmup_stable_decay", "total": 9, "warmup": 5, "decay": 6},
            "of 5 and a decay of 6 steps do not fit",
        ),
        ({"name": "plateau", "total": 9, "factor": 1.0}, "factor is 1.0, expected a number from 0 to 0.99"),
        ({"name": "plateau", "total": 9, "patience": 0}, "patience is 0, expected a whole number"),
        ({"name": "plateau", "total": 9, "mode": "up"}, "choose auto, max"),
        ({"name": "plateau", "total": 9, "cooldown": -1}, "cooldown is -1, expected a whole number of 0 or more"),
    ],
)
def test_invalid_arguments_are_reported_with_a_fix(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        schedule(**arguments)
    assert message in str(error.value)


def test_a_fraction_is_rounded_to_the_nearest_step() -> None:
    assert [steps_of("step_size", fraction, 10) for fraction in (0.0, 0.04, 0.06, 0.99)] == [0, 0, 1, 10]


def scores(seed: int) -> list[float]:
    """Return scores of 60 epochs that rise ever more slowly, with noise and a few NaNs."""
    rng = random.Random(seed)
    noisy = [1 - 1 / (1 + epoch / 5) + rng.gauss(0, 0.05) for epoch in range(60)]
    return [math.nan if rng.random() < 0.05 else score for score in noisy]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 3, "factor": 0.5},
        {"patience": 2, "cooldown": 2, "factor": 0.7},
        {"patience": 2, "factor": 0.3, "min_lr_ratio": 0.01},
        {"patience": 2, "min_delta": 0.05},
        {"patience": 1, "cooldown": 3},
    ],
    ids=str,
)
def test_plateau_equals_reduce_on_plateau_in_torch(options: dict[str, Any], mode: str, seed: int) -> None:
    per_epoch = 4
    ours = Plateau(total=60 * per_epoch, monitor="val/score", mode=mode, **options)
    sgd = optimizer()
    theirs = ReduceLROnPlateau(
        sgd,
        mode=mode,
        factor=options.get("factor", 0.1),
        patience=options["patience"] - 1,  # torch reduces after one validation more than its patience
        threshold=options.get("min_delta", 0.0),
        threshold_mode="abs",
        cooldown=options.get("cooldown", 0),
        min_lr=options.get("min_lr_ratio", 0.0),
        eps=0.0,
    )
    expected, actual, reductions = [], [], 0
    for epoch, score in enumerate(scores(seed)):
        for position in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            expected.append(sgd.param_groups[0]["lr"])
            actual.append(ours(position))
        before = sgd.param_groups[0]["lr"]
        theirs.step(score if mode == "max" else -score)
        reduced = ours.report(score if mode == "max" else -score, (epoch + 1) * per_epoch)
        assert reduced is (sgd.param_groups[0]["lr"] < before)
        reductions += reduced
    assert actual == pytest.approx(expected, rel=1e-9)
    assert values(ours, len(actual)) == actual  # later reductions do not change earlier multipliers
    assert reductions == len(ours.reductions) > 1


def test_plateau_reduces_from_the_reported_step_on_even_during_its_warmup() -> None:
    curve = Plateau(total=10, warmup=4, patience=1, factor=0.5)
    assert [curve.report(score, step) for score, step in ((0.5, 1), (0.5, 3), (0.6, 5), (0.4, 7))] == [
        False,
        True,
        False,
        True,
    ]
    assert values(curve, 9) == [0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert (curve.monitor, curve.reductions) == ("val/iou", [3, 7])


@pytest.mark.parametrize("cut", [0, 7, 20, 33])
def test_a_restored_plateau_schedule_continues_as_if_it_had_not_stopped(cut: int, tmp_path) -> None:
    options = {"patience": 2, "cooldown": 2, "factor": 0.7}
    uninterrupted, first, second = (Plateau(total=240, warmup=9, **options) for _ in range(3))
    for epoch, score in enumerate(scores(1)):
        uninterrupted.report(score, 4 * epoch)
        (first if epoch < cut else second).report(score, 4 * epoch)
        if epoch == cut - 1:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            assert second.state_dict() == first.state_dict()
    assert len(uninterrupted.reductions) > 3
    assert second.state_dict() == uninterrupted.state_dict()
    assert values(second, 240) == values(uninterrupted, 240)


def test_a_saved_state_does_not_change_with_later_scores() -> None:
    curve = Plateau(total=10, patience=1)
    state = curve.state_dict()
    curve.report(1.0, 1)
    curve.report(1.0, 2)
    assert state == Plateau(total=10, patience=1).state_dict()
    assert curve.reductions == [2]


def test_plateau_works_in_a_torch_lambda_scheduler_without_being_pickled(tmp_path) -> None:
    curve = Plateau(total=10, patience=1, factor=0.5)
    scheduler = LambdaLR(optimizer(), lambda step: curve(step))
    curve.report(1.0, 1)
    curve.report(1.0, 2)
    assert learning_rates(scheduler, 4) == [1.0, 1.0, 0.5, 0.5]
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    assert torch.load(tmp_path / "scheduler.pt", weights_only=True)["last_epoch"] == 4
