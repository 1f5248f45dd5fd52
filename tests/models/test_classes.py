"""Names of the classes: given, or numbered."""

from typing import Any

import pytest

from finetune.models import Segmenter
from finetune.models.classes import class_names
from tests.models.test_segmenter import TINY


def test_class_names_are_the_given_ones_or_numbered() -> None:
    assert class_names(["sky", "sea"]) == ("sky", "sea")
    assert class_names(3) == ("class_0", "class_1", "class_2")
    assert len(class_names(255)) == 255
    assert Segmenter(TINY, "fpn", ["sky", "sea"], weights="none").class_names == ("sky", "sea")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (0, "0 classes: expected 1 to 255"),
        ([], "0 classes: expected 1 to 255"),
        (256, "256 classes: expected 1 to 255"),
        (["sky", "sea", "sky"], "class names repeat: sky, sea, sky"),
    ],
)
def test_invalid_classes_are_an_error(classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(TINY, "fpn", classes, weights="none")
