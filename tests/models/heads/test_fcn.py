"""The map that FCN reads."""

import pytest
import torch

from finetune.models.heads import levels_read
from tests.models.heads.pyramids import build, draw, pyramid_for


@pytest.mark.parametrize(
    ("dilated", "stride", "level"), [(True, None, 5), (False, None, 5), (True, 8, 5), (False, 8, 3)]
)
def test_fcn_reads_the_deepest_map_or_the_deepest_of_a_stride(dilated: bool, stride: int | None, level: int) -> None:
    decoder, _ = build("fcn", pyramid_for("fcn", dilated=dilated), stride=stride)
    assert levels_read(decoder) == (level,)


def test_the_map_is_concatenated_with_its_convolutions() -> None:
    pyramid = pyramid_for("fcn")
    decoder, _ = build("fcn", pyramid)
    features = draw(pyramid, 32, 64)
    expected = decoder.join(torch.cat([features[5], decoder.convolutions(features[5])], dim=1))
    assert torch.equal(decoder(features), expected)
