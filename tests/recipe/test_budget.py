"""Budgets: what a text says, and the length that fits into a time."""

import pytest

from finetune.recipe.budget import Budget, Length, Pace, fit_budget, read_budget, with_validations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90)),
        ("10m", Budget(seconds=600)),
        ("1.5h", Budget(seconds=5400)),
        ("1h30m", Budget(seconds=5400)),
        ("2000steps", Budget(steps=2000)),
        ("1 step", Budget(steps=1)),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_steps(text: str, expected: Budget) -> None:
    assert read_budget(text) == expected


@pytest.mark.parametrize("text", ["10", "m", "10 minutes", "-5m", "0s", "0steps", "", "10m30", "nan"])
def test_another_text_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=f"budget={text}: expected a time such as 10m"):
        read_budget(text)


def test_validations_divide_the_steps_and_take_a_small_share_of_the_time() -> None:
    for steps in (1, 2, 7, 19, 100, 1234, 100_000):
        for validation_steps in (0.0, 0.3, 5, 80, 10_000):
            length = with_validations(steps, validation_steps)
            assert 1 <= length.validations <= 20
            assert length.steps == length.validations * length.steps_between
            assert 0.85 * steps < length.steps <= steps
            if length.validations > 1:
                assert length.validations * validation_steps <= 0.16 * steps
            if length.validations > 2:
                assert length.validations * validation_steps <= 0.08 * steps + validation_steps / 2


@pytest.mark.parametrize(("steps", "expected"), [(37, (36, 18)), (59, (57, 19)), (29, (28, 14)), (1, (1, 1))])
def test_few_steps_are_lost_because_validations_divide_them(steps: int, expected: tuple[int, int]) -> None:
    length = with_validations(steps, 0)
    assert (length.steps, length.validations) == expected


def test_a_validation_that_costs_much_comes_once() -> None:
    assert fit_budget(600, Pace(before=20, step=1, validation=100, after=30)) == Length(450, 1)


def test_a_training_ends_in_time_and_uses_it() -> None:
    pace = Pace(before=8, step=0.5, validation=3, after=10)
    length = fit_budget(300, pace)
    # of 282 s, 7 validations take 21 s, which leaves 522 steps; 8 % of their time are 6.96 validations
    assert length == Length(518, 7)
    assert pace.seconds(length) == 298
    for seconds in range(30, 2000, 37):
        for step, validation in ((0.1, 0.2), (0.5, 3), (1.3, 40), (0.01, 4)):
            pace = Pace(5, step, validation, 3)
            try:
                length = fit_budget(seconds, pace)
            except ValueError:
                assert 8 + 10 * step + validation > seconds
                continue
            assert length.steps >= 10
            assert length.steps % length.validations == 0
            assert pace.seconds(length) <= seconds
            lost = seconds - pace.seconds(length)
            assert lost < max(0.1 * length.steps * step, length.validations * step) + step + validation


def test_a_budget_without_time_for_steps_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"start and end take 30 s, a step 2 s, a validation 5 s\. Set 55s or more\."):
        fit_budget(40, Pace(before=20, step=2, validation=5, after=10))
    assert fit_budget(55, Pace(before=20, step=2, validation=5, after=10)) == Length(10, 1)
