"""Pictures of objects: colors where masks are, outlines, names, scaled pages."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.instances import Objects, objects_of
from finetune.plots.objects import COLORS, draw_objects, object_page

GRAY = torch.full((3, 60, 80), 120, dtype=torch.uint8)


def squares(*boxes: tuple[int, int, int], scores: list[float] | None = None) -> Objects:
    masks = torch.zeros(len(boxes), 60, 80, dtype=torch.bool)
    for mask, (top, left, side) in zip(masks, boxes, strict=True):
        mask[top : top + side, left : left + side] = True
    return objects_of(masks, torch.zeros(len(boxes)).long(), None if scores is None else torch.tensor(scores))


def test_a_mask_is_tinted_outlined_and_nothing_else_changes() -> None:
    pixels = draw_objects(GRAY, squares((20, 30, 15)), ["cell"])
    changed = (pixels != 120).any(-1)
    assert np.array_equal(changed, squares((20, 30, 15)).masks[0].numpy())
    assert pixels[20, 30].tolist() == list(COLORS[0])
    assert pixels[27, 37].tolist() == np.rint(0.55 * 120 + 0.45 * np.array(COLORS[0])).astype(int).tolist()


def test_the_object_with_the_higher_score_is_on_top() -> None:
    overlapping = squares((20, 30, 15), (25, 35, 15), scores=[0.9, 0.6])
    inside_both = draw_objects(GRAY, overlapping, ["cell"])[30, 40]
    alone = draw_objects(GRAY, overlapping[torch.tensor([1])], ["cell"])[30, 40]
    assert inside_both.tolist() != alone.tolist()
    flipped = draw_objects(GRAY, replace(overlapping, scores=torch.tensor([0.6, 0.9])), ["cell"])[30, 40]
    assert inside_both.tolist() != flipped.tolist()


def test_names_are_written_for_several_classes_and_scores_for_predictions() -> None:
    drawn = [
        (draw_objects(GRAY, squares((30, 20, 20), scores=scores), names) != 120).any(-1).sum()
        for names, scores in ((["cell"], None), (["cell", "fiber"], None), (["cell", "fiber"], [0.5]))
    ]
    assert drawn[0] < drawn[1] < drawn[2]


def test_ignored_pixels_are_hatched_and_no_object_is_no_change() -> None:
    ignored = torch.zeros(60, 80, dtype=torch.bool)
    ignored[:20] = True
    empty = replace(squares(), ignored=ignored)
    assert np.array_equal((draw_objects(GRAY, empty, ["cell"]) != 120).any(-1), ignored.numpy())
    assert np.array_equal(draw_objects(GRAY, squares(), ["cell"]), GRAY.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("columns", [1, 3])
def test_a_page_has_a_column_for_each_picture(columns: int) -> None:
    row = [(GRAY, squares((20, 30, 15)) if column else None) for column in range(columns)]
    page = object_page([row, row], ["cell"], width=160)
    assert page.width == columns * 166 - 6 + 28
    assert page.height > 2 * 120
