"""Two ranks against one process, for every preset, loss and time at which layers unfreeze."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.engine.ddp import check_ranks_agree, gather_rows
from tests.engine import ddp_ranks
from tests.engine.ddp_ranks import EPOCHS, FIRST_NORM, LOSS_OPTIONS, PRESETS, fit, settings, task
from tests.engine.ranks import run_ranks
from tests.tasks.tiny_run import tiny_trainer

# adapters, one unfreezing, several of them, and freezing again; the other presets are like one of these
FAST = ("lora", "gradual_layer_decay", "freeze_again")
EVERY = [pytest.param(preset, marks=() if preset in FAST else pytest.mark.slow) for preset in PRESETS]
Results = list[dict[str, Any]]


def trained(preset: str) -> Results:
    """Return the results of a preset on each of two ranks."""
    together = FAST if preset in FAST else tuple(name for name in PRESETS if name not in FAST)
    return [rank[preset] for rank in train(together)]


@cache
def train(presets: tuple[str, ...]) -> Results:
    return run_ranks(ddp_ranks.train_presets, 2, {preset: settings(preset) for preset in presets})


@pytest.mark.parametrize("preset", EVERY)
def test_both_ranks_end_with_the_same_weights(preset: str) -> None:
    first, second = (rank["state"] for rank in trained(preset))
    assert len(first) > 50
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("preset", EVERY)
def test_two_ranks_end_with_the_weights_of_one_process(preset: str) -> None:
    made = task(settings(preset))
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    alone = fit(made, 1)
    moved = {name for name, tensor in alone.items() if not torch.equal(tensor, start[name])}
    assert len(moved) > 20
    for name, tensor in trained(preset)[0]["state"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(tensor, start[name]) == (name not in moved), name


@pytest.mark.parametrize("preset", EVERY)
def test_only_gradients_of_trainable_parameters_are_reduced(preset: str) -> None:
    seen = trained(preset)[0]["reduced"]
    assert len(seen) == EPOCHS
    assert all(reduced == trainable for reduced, trainable in seen)
    changes = len({trainable for _, trainable in seen})
    assert changes == {"head_then_full": 2, "gradual": 3, "gradual_layer_decay": 3, "freeze_again": 2}.get(preset, 1)


@cache
def trained_losses() -> Results:
    return run_ranks(ddp_ranks.train_losses, 2, settings("full"))


@pytest.mark.parametrize("loss", LOSS_OPTIONS)
def test_two_ranks_learn_from_the_loss_of_the_whole_batch(loss: str) -> None:
    alone = fit(task(settings("full"), loss=loss), 1, max_epochs=1)
    for name, tensor in trained_losses()[0][loss].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-7, msg=name)


def test_batch_norm_statistics_are_those_of_the_images_of_both_ranks() -> None:
    first, second = run_ranks(ddp_ranks.train_batch_norm, 2, settings("head_then_full"))
    assert len(first["met"]) == len(second["met"]) > 4
    mean, variance = torch.zeros(1), torch.ones(1)
    for own, other in zip(first["met"], second["met"], strict=True):
        assert not torch.allclose(own, other)
        batch = (own + other) / 2
        mean, variance = 0.9 * mean + 0.1 * batch[0], 0.9 * variance + 0.1 * batch[1]
    torch.testing.assert_close(first["validated"][-1][f"{FIRST_NORM}.running_mean"], mean)
    torch.testing.assert_close(first["validated"][-1][f"{FIRST_NORM}.running_var"], variance)
    # and both ranks validate with the same statistics
    assert len(first["validated"]) == EPOCHS
    for one, other in zip(first["validated"], second["validated"], strict=True):
        assert len(one) > 10
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("size", [2, 3, 4])
def test_statistics_become_the_mean_of_all_ranks(size: int) -> None:
    for ranks in zip(*run_ranks(ddp_ranks.averaged_statistics, size), strict=True):
        own = torch.stack([rank["own"] for rank in ranks])
        for rank in ranks:
            torch.testing.assert_close(rank["averaged"], own.double().mean(0).to(own.dtype))
            assert torch.equal(rank["averaged"], ranks[0]["averaged"])
            assert not torch.equal(rank["averaged"], rank["own"])


@pytest.mark.parametrize("lengths", [(2, 5), (0, 3), (0, 0)], ids=str)
def test_rows_of_ranks_that_have_different_numbers_of_them_are_joined(lengths: tuple[int, int]) -> None:
    ranks = run_ranks(ddp_ranks.gathered_rows, 2, lengths)
    expected = torch.cat([rank["own"] for rank in ranks])
    assert expected.shape == (sum(lengths), 3)
    assert all(rank["all"].dtype == torch.int64 for rank in ranks)
    assert all(torch.equal(rank["all"], expected) for rank in ranks)


def test_one_process_keeps_its_rows() -> None:
    own = torch.arange(6).view(2, 3)
    assert torch.equal(gather_rows(tiny_trainer(), own), own)


def test_ranks_that_are_not_wrapped_again_drift_apart_and_are_noticed() -> None:
    ranks = run_ranks(ddp_ranks.unfreeze_without_wrapping, 2, settings("gradual"))
    first, second = (rank["diverged"] for rank in ranks)
    different = {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}
    assert any(name.startswith("backbone") for name in different)
    for rank in ranks:
        assert "parameters differ between the ranks (backbone." in rank["noticed"]


def test_weights_that_are_nan_on_all_ranks_agree() -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, float("nan"))
    alike: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    check_ranks_agree(alike, model)
    apart: Any = SimpleNamespace(reduce=lambda sums, reduce_op: sums + (reduce_op == "max"))
    with pytest.raises(RuntimeError, match=r"parameters differ between the ranks \(bias"):
        check_ranks_agree(SimpleNamespace(world_size=2, strategy=apart), model)  # type: ignore[arg-type]
