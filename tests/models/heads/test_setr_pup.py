"""Progressive upsampling to the full size."""

import pytest

from finetune.models.heads import levels_read
from tests.models.heads.pyramids import build, draw, logits, pyramid_for


@pytest.mark.parametrize(
    ("dilated", "stride", "level", "steps"), [(True, 16, 5, 4), (False, 16, 4, 4), (False, 32, 5, 5), (True, 8, 3, 3)]
)
def test_there_is_one_convolution_per_doubling(dilated: bool, stride: int, level: int, steps: int) -> None:
    pyramid = pyramid_for("setr_pup", dilated=dilated)
    parts = build("setr_pup", pyramid, stride=stride)
    assert levels_read(parts[0]) == (level,)
    assert len(parts[0].convolutions) == steps
    assert logits(parts, draw(pyramid, 32, 96)).shape == (1, 3, 32, 96)
