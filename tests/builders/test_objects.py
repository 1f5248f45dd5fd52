import pytest

from finetune.builders.objects import object_facts
from finetune.data.objects import ObjectSizes


def test_facts_of_objects_are_quantiles_over_all_of_them_by_hand() -> None:
    sides = [4, 9, 16, 25, 36]  # square roots of the areas are 2, 3, 4, 5, 6
    images = [
        ObjectSizes(sides[:3], [10, 10, 40], [20, 10, 10]),
        ObjectSizes([], [], []),
        ObjectSizes(sides[3:], [9] * 2, [3] * 2),
    ]
    facts = object_facts(images)
    assert (facts.count, facts.most, facts.empty) == (5, 3, 1)
    assert facts.sizes == (2, 3, 4, 5, 6)
    assert facts.ratios == pytest.approx((1, 3, 4))  # the second, third and fifth of 0.5, 1, 3, 3, 4
    assert object_facts(images[1:2]).sizes == (1,) * 5
