"""Two ranks against one process, through every preset and every moment at which something unfreezes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.engine.ddp import check_ranks_agree
from tests.engine.many_ranks import results
from tests.tasks.two_processes import run_two_ranks
from tests.tasks.two_ranks import EPOCHS, FIRST_NORM, LOSS_OPTIONS, PRESETS, fit, task


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks ended with."""
    return run_two_ranks("tests.tasks.two_ranks", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("preset", PRESETS)
def test_both_ranks_end_with_the_same_weights(ranks: list[dict[str, Any]], preset: str) -> None:
    first, second = (rank[preset]["state"] for rank in ranks)
    assert len(first) > 50
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("preset", PRESETS)
def test_two_ranks_end_with_the_weights_of_one_process(ranks: list[dict[str, Any]], preset: str) -> None:
    made = task(preset)
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    alone = fit(made, 1)
    moved = {name for name, tensor in alone.items() if not torch.equal(tensor, start[name])}
    assert len(moved) > 20
    for name, tensor in ranks[0][preset]["state"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(tensor, start[name]) == (name not in moved), name


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_gradients_of_what_trains_are_reduced(ranks: list[dict[str, Any]], preset: str) -> None:
    seen = ranks[0][preset]["reduced"]
    assert len(seen) == 4
    assert all(reduced == trains for reduced, trains in seen)
    changes = len({trains for _, trains in seen})
    assert changes == {"head_then_full": 2, "gradual": 3, "gradual_layer_decay": 3, "freeze_again": 2}.get(preset, 1)


@pytest.mark.parametrize("loss", LOSS_OPTIONS)
def test_two_ranks_learn_from_the_loss_of_the_whole_batch(ranks: list[dict[str, Any]], loss: str) -> None:
    alone = fit(task("full", loss=loss), 1)
    for name, tensor in ranks[0][loss].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-7, msg=name)


def test_batch_norm_statistics_are_those_of_the_images_of_both_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["batch_norm"] for rank in ranks)
    assert len(first["met"]) == len(second["met"]) > 4
    mean, variance = torch.zeros(1), torch.ones(1)
    for own, other in zip(first["met"], second["met"], strict=True):
        assert not torch.allclose(own, other)
        batch = (own + other) / 2
        mean, variance = 0.9 * mean + 0.1 * batch[0], 0.9 * variance + 0.1 * batch[1]
    torch.testing.assert_close(first["validated"][-1][f"{FIRST_NORM}.running_mean"], mean)
    torch.testing.assert_close(first["validated"][-1][f"{FIRST_NORM}.running_var"], variance)


def test_both_ranks_validate_with_the_same_batch_norm_statistics(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["batch_norm"]["validated"] for rank in ranks)
    assert len(first) == EPOCHS
    for one, other in zip(first, second, strict=True):
        assert len(one) > 10
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("size", [2, 3, 4])
def test_statistics_become_the_mean_of_all_ranks(size: int) -> None:
    for kind, dtype in enumerate((torch.float32, torch.float64)):
        ranks = [rank["averaged"][kind] for rank in results()[size]]
        mean = torch.stack([rank["own"].double() for rank in ranks]).mean(0).to(dtype)
        for rank in ranks:
            torch.testing.assert_close(rank["averaged"], mean)
            assert torch.equal(rank["averaged"], ranks[0]["averaged"])
            assert not torch.equal(rank["averaged"], rank["own"])


def test_without_wrapping_anew_the_ranks_would_drift_apart(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["diverged"] for rank in ranks)
    different = {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}
    assert any(name.startswith("backbone") for name in different)


def test_ranks_that_drift_apart_are_noticed(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "parameters differ between the ranks (backbone." in rank["noticed"]


def test_weights_that_are_nan_everywhere_are_no_drift() -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, float("nan"))
    alike: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    check_ranks_agree(alike, model)
    apart: Any = SimpleNamespace(reduce=lambda sums, reduce_op: sums + (reduce_op == "max"))
    with pytest.raises(RuntimeError, match=r"parameters differ between the ranks \(bias"):
        check_ranks_agree(SimpleNamespace(world_size=2, strategy=apart), model)  # type: ignore[arg-type]
