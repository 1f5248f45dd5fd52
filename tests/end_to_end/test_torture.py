"""A few kills of the many that `python -m tests.end_to_end.torture` makes."""

from pathlib import Path

import pytest

from tests.end_to_end.torture import torture


@pytest.mark.parametrize(
    ("ranks", "workers", "kills"),
    [
        pytest.param(1, 0, 3, marks=pytest.mark.slow),
        pytest.param(1, 2, 6, marks=pytest.mark.slow),
        pytest.param(2, 0, 6, marks=pytest.mark.slow),
        pytest.param(2, 2, 6, marks=pytest.mark.slow),
    ],
)
def test_a_training_killed_many_times_ends_as_an_uninterrupted_one(
    ranks: int, workers: int, kills: int, tmp_path: Path
) -> None:
    trainings = list(torture(tmp_path, kills, ranks, workers, seed=0))
    assert sum(len(places.split(", ")) for places, _ in trainings) == kills
    assert [equal for _, equal in trainings] == [True] * len(trainings)
