"""A plan in words."""

from typing import Any

import pytest
import torch

from finetune.tuning.describe import describe, describe_change
from finetune.tuning.parameter_info import Place, layout
from finetune.tuning.plan import Plan, Rule
from finetune.tuning.timing import Timeline

LAYERS = [["backbone.stem"], ["backbone.low"], ["backbone.top"]]
SIZES = {"backbone.stem": 1_000, "backbone.low": 20_000, "backbone.top": 300_000, "head.0": 4_000_000, "head.1": 7}


@pytest.fixture(scope="module")
def places() -> dict[str, Place]:
    return layout({name: torch.empty(size, 1, device="meta") for name, size in SIZES.items()}, LAYERS)


def lines(places: dict[str, Place], epochs: int = 10, **options: Any) -> list[str]:
    return describe(Plan((Rule("backbone", **options), Rule("."))).assign(places), places, Timeline(epochs))


def test_each_rule_has_a_line_and_the_whole_has_one(places: dict[str, Place]) -> None:
    assert lines(places, lr_scale=0.1) == [
        "tuning rule 'backbone': 321,000 parameters in 3 tensors, train at 0.1 x lr",
        "tuning rule '.': 4,000,007 parameters in 2 tensors, train at 1 x lr",
        "4.32M of 4.32M parameters train",
    ]


@pytest.mark.parametrize(
    ("options", "fate"),
    [
        ({"trains": False}, "frozen"),
        ({"trains": [["never", None]]}, "frozen"),
        ({"trains": False, "norms": "adapt"}, "frozen but for the norms' statistics"),
        ({"trains": [[2, None]]}, "train at 1 x lr from epoch 3 on"),
        ({"trains": [[0, 0.3]]}, "train at 1 x lr until epoch 3"),
        ({"trains": [[0, 2], [0.5, None]]}, "train at 1 x lr until epoch 2 and from epoch 6 on"),
        ({"lr_decay": 0.5}, "train at 0.25 to 1 x lr"),
        ({"norms": "eval"}, "train at 1 x lr, norms keep their statistics"),
        (
            {"trains": [[1, None]], "spread": 4},
            "train at 1 x lr, one layer group after another, top down, from epoch 2 to 6",
        ),
        ({"trains": [[2, 5]]}, "train at 1 x lr from epoch 3 to epoch 5"),
        ({"trains": [["stall", None]]}, "train at 1 x lr from the first stall on"),
        (
            {"trains": [["stall", None]], "spread": "stall"},
            "train at 1 x lr, one layer group after another, top down, from the first stall on, at each stall",
        ),
    ],
)
def test_the_fate_of_a_rule_is_said_in_words(places: dict[str, Place], options: dict[str, Any], fate: str) -> None:
    assert lines(places, **options)[0] == f"tuning rule 'backbone': 321,000 parameters in 3 tensors, {fate}"


def test_phases_are_counted_through(places: dict[str, Place]) -> None:
    assert lines(places, trains=[[1, None]], spread=4)[-1] == (
        "4.00M of 4.32M parameters train at first, 4.30M from epoch 2, 4.32M from epoch 4, 4.32M from epoch 6"
    )


def test_a_change_names_what_thawed_and_what_froze(places: dict[str, Place]) -> None:
    assert describe_change({"head.0"}, {"head.0", "backbone.top", "backbone.low"}, places) == (
        "thawed backbone[2], backbone[1]; 4.32M of 4.32M parameters train"
    )
    assert describe_change({"head.0", "backbone.top"}, {"head.0"}, places) == (
        "froze backbone[2]; 4.00M of 4.32M parameters train"
    )
