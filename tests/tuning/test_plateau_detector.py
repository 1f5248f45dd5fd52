"""The plateau detector against counting by hand and against a search of the full history."""

import random

import pytest
import torch

from finetune.tuning.plateau_detector import PlateauDetector

NAN = float("nan")


@pytest.mark.parametrize(
    ("patience", "mode", "scores", "expected"),
    [
        (1, "max", [1, 2, 2, 3, 2], [0, 0, 1, 0, 1]),
        (2, "max", [5, 4, 4, 4, 4, 4], [0, 0, 1, 0, 1, 0]),
        (3, "max", [5, 4, 4, 6, 4, 4, 4], [0, 0, 0, 0, 0, 0, 1]),
        (2, "min", [5, 6, 4, 4, 4], [0, 0, 0, 0, 1]),
        (2, "max", [NAN, NAN, 1, NAN, NAN], [0, 1, 0, 0, 1]),
    ],
)
def test_a_plateau_is_a_number_of_consecutive_updates_without_improvement(
    patience: int, mode: str, scores: list[float], expected: list[int]
) -> None:
    detector = PlateauDetector(patience, mode)
    assert [detector.update(score) for score in scores] == [bool(value) for value in expected]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_plateaus_of_random_scores_agree_with_a_search_of_the_full_history(mode: str, patience: int) -> None:
    rng = random.Random(patience)
    scores = [round(rng.random(), 1) for _ in range(200)]
    sign = 1 if mode == "max" else -1
    detector = PlateauDetector(patience, mode, min_delta=0.05)
    best, since = None, 0
    for number, score in enumerate(scores):
        plateaued = detector.update(score)
        improved = best is None or sign * score > sign * best + 0.05
        best, since = (score, number) if improved else (best, since)
        assert detector.improved is improved
        assert detector.best == best
        assert plateaued is (number > since and (number - since) % patience == 0)


def test_an_improvement_must_exceed_min_delta() -> None:
    detector = PlateauDetector(patience=9, min_delta=0.5)
    assert [(detector.update(score), detector.improved)[1] for score in (1.0, 1.5, 1.75, 2.0, 2.5)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_plateau_keeps_the_best_score_and_a_reset_forgets_it() -> None:
    detector = PlateauDetector(patience=1)
    assert [detector.update(0.9), detector.update(0.5), detector.update(0.6)] == [False, True, True]
    detector.reset()
    assert (detector.best, detector.waited, detector.improved) == (None, 0, False)
    assert not detector.update(0.5)
    assert detector.improved


@pytest.mark.parametrize("cut", range(8))
def test_a_restored_detector_continues_as_if_it_had_not_stopped(cut: int, tmp_path) -> None:
    scores = [0.1, 0.3, 0.2, 0.3, 0.1, 0.4, 0.2, 0.2]
    uninterrupted = PlateauDetector(patience=2)
    expected = [uninterrupted.update(score) for score in scores]
    first, second = PlateauDetector(patience=2), PlateauDetector(patience=2)
    before = [first.update(torch.tensor(score)) for score in scores[:cut]]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.state_dict() == first.state_dict()
    assert before + [second.update(score) for score in scores[cut:]] == expected


def test_the_state_is_plain_data_even_if_scores_are_tensors() -> None:
    detector = PlateauDetector(patience=2)
    detector.update(torch.tensor(0.5))
    assert {type(value) for value in detector.state_dict().values()} == {float, int, bool}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience is 0, expected a whole number of validations, 1 or more"),
        ({"patience": 2.5}, "patience is 2.5"),
        ({"patience": True}, "patience is True"),
        ({"patience": 3, "mode": "maximum"}, "choose 'max' if a higher score is better"),
        ({"patience": 3, "min_delta": -0.1}, "min_delta is -0.1, expected 0 or more"),
        ({"patience": 3, "min_delta": NAN}, "min_delta is nan"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlateauDetector(**arguments)
