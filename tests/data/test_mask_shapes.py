"""Widths and heights of classes, against shapes whose numbers are known."""

import math
from pathlib import Path

import pytest
import torch

from finetune.data.files import ImageFile
from finetune.data.mask_shapes import ClassShape, class_shapes, mask_shapes, summarize
from finetune.data.records import Record


class MemoryTarget:
    """A target in memory."""

    paths = ()
    description = "mask"

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def read(self) -> torch.Tensor:
        return self.labels


def stripes(height: int, width: int, thickness: int) -> torch.Tensor:
    """Return class 1 in horizontal stripes on class 0, with as much between them."""
    return (torch.arange(height) // thickness % 2).to(torch.uint8)[:, None].expand(height, width).contiguous()


@pytest.mark.parametrize("thickness", [1, 3, 8])
def test_the_width_of_stripes_is_their_thickness(thickness: int) -> None:
    shapes = dict(mask_shapes(stripes(16 * thickness, 200, thickness), 255))
    # the outermost stripe has one border only, so that it counts as a little wider
    assert shapes[1].width == pytest.approx(thickness, rel=0.1)


def test_heights_go_from_the_top_to_the_bottom() -> None:
    target = torch.full((8, 5), 255, dtype=torch.uint8)
    target[:2], target[6:] = 3, 7
    shapes = dict(mask_shapes(target, 255))
    assert (shapes[3].height, shapes[7].height) == (-0.75, 0.75)
    assert set(shapes) == {3, 7}  # the ignored label is no class


def test_channels_are_classes_of_their_own() -> None:
    target = torch.zeros(3, 8, 8, dtype=torch.uint8)
    target[0, :4], target[2] = 1, 255
    assert set(dict(mask_shapes(target, 255))) == {0}


def test_masks_are_looked_at_evenly_and_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.mask_shapes.MOST_MASKS", 2)
    records = [
        Record(str(n), ImageFile(Path("a.png")), MemoryTarget(stripes(20, 20, 1 + n % 2)), "train") for n in range(10)
    ]
    shapes, count = class_shapes(records, 255)
    assert count == 2
    assert shapes[1].width == pytest.approx(1.5, rel=0.2)  # the first and the sixth
    assert summarize([ClassShape(2, 0.0), ClassShape(4, 0.2), ClassShape(9, 0.4)]).width == 4
    assert summarize([ClassShape(2, 0.0), ClassShape(4, 0.2)]).height_error == pytest.approx(0.1)
    assert math.isinf(summarize([ClassShape(2, 0.0)]).height_error)
