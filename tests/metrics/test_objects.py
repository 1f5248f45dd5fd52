"""Objects against a flood fill by hand, and sizes and shares right at their limits."""

import numpy as np
import pytest

from finetune.metrics.objects import detections, false_alarms


def flooded(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Return the pixels of each object, of which eight neighbors are one."""
    left, found = {tuple(at) for at in np.argwhere(mask).tolist()}, []
    while left:
        todo, pixels = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            pixels.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(pixels)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_objects_are_those_of_a_flood_fill(seed: int) -> None:
    random = np.random.default_rng(seed)
    true, predicted = random.random((2, 30, 25)) < 0.2
    guessed = {tuple(at) for at in np.argwhere(predicted).tolist()}
    objects = flooded(true)
    found = sum(2 * len(each & guessed) >= len(each) for each in objects)
    assert detections(true, predicted).tolist() == [[found, len(objects)], [0, 0], [0, 0]]
    assert 0 < found < len(objects)
    right = {tuple(at) for at in np.argwhere(true).tolist()}
    alarms = [each for each in flooded(predicted) if not each & right]
    assert false_alarms(true, predicted).tolist() == [len(alarms), len(flooded(predicted))]
    assert len(alarms) > 0


def test_half_of_an_object_is_enough_and_less_is_not() -> None:
    true, predicted = np.zeros((2, 5, 8), dtype=bool)
    true[1, :4] = predicted[1, :2] = True  # two of four
    true[3, :5] = predicted[3, :2] = True  # two of five
    assert detections(true, predicted)[0].tolist() == [1, 2]
    assert false_alarms(true, predicted).tolist() == [0, 2]


@pytest.mark.parametrize(("pixels", "kind"), [(1, 0), (1023, 0), (1024, 1), (9215, 1), (9216, 2), (20000, 2)])
def test_sizes_change_at_32_and_96_squared(pixels: int, kind: int) -> None:
    true = np.zeros((100, 200), dtype=bool)
    true.flat[:pixels] = True
    expected = np.zeros((3, 2), dtype=int)
    expected[kind] = 1
    assert np.array_equal(detections(true, true), expected)
    assert np.array_equal(detections(true, ~true), expected * [0, 1])


def test_nothing_has_no_objects() -> None:
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert detections(empty, full).tolist() == [[0, 0]] * 3
    assert false_alarms(empty, full).tolist() == [1, 1]
    assert false_alarms(full, empty).tolist() == [0, 0]
