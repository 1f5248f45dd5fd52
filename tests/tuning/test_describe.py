"""Descriptions of a plan for the log."""

from typing import Any

import pytest
import torch

from finetune.tuning.describe import describe, describe_change
from finetune.tuning.parameter_info import ParameterInfo, parameter_infos
from finetune.tuning.plan import Plan, Rule
from finetune.tuning.timing import Timeline

LAYERS = [["backbone.stem"], ["backbone.low"], ["backbone.top"]]
SIZES = {"backbone.stem": 1_000, "backbone.low": 20_000, "backbone.top": 300_000, "head.0": 4_000_000, "head.1": 7}


@pytest.fixture(scope="module")
def infos() -> dict[str, ParameterInfo]:
    return parameter_infos({name: torch.empty(size, 1, device="meta") for name, size in SIZES.items()}, LAYERS)


def lines(infos: dict[str, ParameterInfo], epochs: int = 10, **options: Any) -> list[str]:
    return describe(Plan((Rule("backbone", **options), Rule("."))).assign(infos), infos, Timeline(epochs))


def test_each_rule_has_a_line_and_the_model_has_one(infos: dict[str, ParameterInfo]) -> None:
    assert lines(infos, lr_scale=0.1) == [
        "tuning rule 'backbone': 321,000 parameters in 3 tensors, train at 0.1 x lr",
        "tuning rule '.': 4,000,007 parameters in 2 tensors, train at 1 x lr",
        "4.32M of 4.32M parameters train",
    ]


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ({"train": False}, "frozen"),
        ({"train": [["never", None]]}, "frozen"),
        ({"train": False, "norms": "adapt"}, "frozen except for the batch-norm statistics"),
        ({"train": [[2, None]]}, "train at 1 x lr from epoch 3 on"),
        ({"train": [[0, 0.3]]}, "train at 1 x lr until epoch 3"),
        ({"train": [[0, 2], [0.5, None]]}, "train at 1 x lr until epoch 2 and from epoch 6 on"),
        ({"layer_lr_decay": 0.5}, "train at 0.25 to 1 x lr"),
        ({"norms": "eval"}, "train at 1 x lr, batch norms keep their statistics"),
        (
            {"train": [[1, None]], "stagger": 4},
            "train at 1 x lr, one layer group after another, top down, from epoch 2 to 6",
        ),
        ({"train": [[0, "never"]]}, "train at 1 x lr"),
        ({"train": [["never", None], [5, None]]}, "train at 1 x lr from epoch 6 on"),
        ({"train": [[2, 5]]}, "train at 1 x lr from epoch 3 to epoch 5"),
        ({"train": [["plateau", None]]}, "train at 1 x lr from the first plateau on"),
        (
            {"train": [["plateau", None]], "stagger": "plateau"},
            "train at 1 x lr, one layer group at each plateau, top down, from the first plateau on",
        ),
    ],
)
def test_the_line_of_a_rule_says_when_its_parameters_train(
    infos: dict[str, ParameterInfo], options: dict[str, Any], effect: str
) -> None:
    assert lines(infos, **options)[0] == f"tuning rule 'backbone': 321,000 parameters in 3 tensors, {effect}"


def test_the_last_line_counts_the_trainable_parameters_of_each_phase(infos: dict[str, ParameterInfo]) -> None:
    assert lines(infos, train=[[1, None]], stagger=4)[-1] == (
        "4.00M of 4.32M parameters train at first, 4.30M from epoch 2, 4.32M from epoch 4, 4.32M from epoch 6"
    )


def test_a_change_names_the_layer_groups_that_were_unfrozen_and_frozen(infos: dict[str, ParameterInfo]) -> None:
    assert describe_change({"head.0"}, {"head.0", "backbone.top", "backbone.low"}, infos) == (
        "unfroze backbone[2], backbone[1]; 4.32M of 4.32M parameters train"
    )
    assert describe_change({"head.0", "backbone.top"}, {"head.0"}, infos) == (
        "froze backbone[2]; 4.00M of 4.32M parameters train"
    )
