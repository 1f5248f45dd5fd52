"""A few kills of `python -m tests.end_to_end.torture`, which makes as many as one likes."""

from pathlib import Path

import pytest

from tests.end_to_end.torture import torture


@pytest.mark.parametrize(
    ("ranks", "workers", "kills"),
    [
        (1, 0, 3),
        pytest.param(1, 2, 6, marks=pytest.mark.slow),
        pytest.param(2, 0, 6, marks=pytest.mark.slow),
        pytest.param(2, 2, 6, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_killed_again_and_again_ends_as_one_in_peace(
    ranks: int, workers: int, kills: int, tmp_path: Path
) -> None:
    found = list(torture(tmp_path, kills, ranks, workers, seed=0))
    assert sum(len(places.split(", ")) for places, _ in found if places) == kills
    assert [equal for _, equal in found] == [True] * len(found)
