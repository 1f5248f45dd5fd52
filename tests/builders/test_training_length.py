"""Steps and devices of a training, counted by hand."""

from typing import Any

import pytest

from finetune.builders.devices import device_count
from finetune.builders.training_length import min_plateau_epochs, step_counts, with_length
from finetune.recipe.budget import Length


def config(batch_size: int = 4, patience: int = 3, **trainer: Any) -> dict[str, Any]:
    usual = {"devices": 1, "accelerator": "cpu", "max_epochs": 10, "accumulate_grad_batches": 1}
    return {
        "trainer": usual | trainer,
        "data": {"batch_size": batch_size},
        "tuning": {"plateau": {"patience": patience}},
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (25, 250)),  # 103 images in batches of 4, the rest left for another epoch
        ({"devices": 2}, (12, 120)),  # 51 images each
        ({"accumulate_grad_batches": 4}, (7, 70)),  # the last step of an epoch has one batch
        ({"limit_train_batches": 10}, (10, 100)),
        ({"limit_train_batches": 0.5}, (12, 120)),
        ({"overfit_batches": 3}, (3, 30)),  # takes the place of limit_train_batches, in Lightning too
        ({"overfit_batches": 0.0, "limit_train_batches": 10}, (10, 100)),
        ({"max_steps": 60}, (25, 60)),
        ({"max_steps": 600}, (25, 250)),
        ({"batch_size": 200}, (1, 10)),  # fewer images than a batch make one all the same
    ],
)
def test_steps_of_an_epoch_and_of_the_training(settings: dict[str, Any], expected: tuple[int, int]) -> None:
    assert step_counts(config(**settings), 103) == expected


@pytest.mark.parametrize(
    ("settings", "length", "expected"),
    [
        # 103 images make 25 batches of 4
        ({}, Length(100, 5), (4, 100, None, 20)),
        ({}, Length(10, 2), (1, 10, None, 5)),
        ({"accumulate_grad_batches": 5}, Length(100, 10), (20, 100, None, 50)),
        # 24 of the 25 batches, so that each step has four
        ({"accumulate_grad_batches": 4}, Length(100, 5), (17, 100, None, 80)),
        ({"accumulate_grad_batches": 4}, Length(30, 10), (5, 30, None, 12)),
        ({"accumulate_grad_batches": 4}, Length(6, 3), (1, 6, None, 8)),
        ({"accumulate_grad_batches": 40}, Length(6, 3), (6, 6, None, 50)),  # a step an epoch, of all its batches
        ({"check_val_every_n_epoch": 2}, Length(100, 5), (4, 100, 2, None)),  # as the user says
        ({"val_check_interval": 0.5}, Length(100, 5), (4, 100, 1, 0.5)),
        ({"val_check_interval": 25, "accumulate_grad_batches": 4}, Length(70, 5), (10, 70, 1, 25)),  # 7 steps an epoch
    ],
)
def test_a_length_in_steps_becomes_settings_of_the_trainer(
    settings: dict[str, Any], length: Length, expected: tuple[object, ...]
) -> None:
    trainer = with_length(config(**{"check_val_every_n_epoch": "auto", **settings}), length, 103)["trainer"]
    keys = ("max_epochs", "max_steps", "check_val_every_n_epoch", "val_check_interval")
    assert tuple(trainer.get(key) for key in keys) == expected


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 4}, {"limit_train_batches": 24}),
        ({"accumulate_grad_batches": 4, "limit_train_batches": 10}, {"limit_train_batches": 8}),
        ({"accumulate_grad_batches": 4, "overfit_batches": 6}, {"overfit_batches": 4}),
        ({"accumulate_grad_batches": 4, "val_check_interval": 25}, {"limit_train_batches": None}),
    ],
)
def test_batches_that_do_not_fill_a_step_are_left_out(settings: dict[str, Any], limit: dict[str, int]) -> None:
    made = with_length(config(check_val_every_n_epoch="auto", **settings), Length(60, 5), 103)
    assert {key: made["trainer"].get(key) for key in limit} == limit
    assert step_counts(made, 103)[1] == 60


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, 4),  # the best score, and three that are no better
        ({"patience": 1}, 2),
        ({"check_val_every_n_epoch": 2}, 8),
        ({"val_check_interval": 0.5}, 2),
        ({"val_check_interval": 5}, 1),  # five validations of five batches in each epoch
    ],
)
def test_a_plateau_is_seen_after_its_patience_and_one_more_validation(settings: dict[str, Any], epochs: int) -> None:
    assert min_plateau_epochs(config(**settings), 103) == epochs


def test_on_a_cpu_auto_is_one_device_a_node() -> None:
    assert device_count({"devices": "auto", "accelerator": "cpu", "num_nodes": 2}) == 2
