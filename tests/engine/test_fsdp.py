"""Sharded training (FSDP2) on two ranks against an unsharded training in one process."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import finetune
from finetune.builders.checks.training import check
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.trainer import build_trainer
from finetune.config.compose import compose, to_plain_dict
from finetune.config.errors import ConfigError
from finetune.engine.fsdp import full_model, shard, sharding_units
from finetune.engine.fsdp_strategy import FullySharded
from tests.end_to_end.test_distributed import written_matrix
from tests.engine import ddp_ranks
from tests.engine.ranks import run_ranks
from tests.engine.sharded_ranks import CLIPPED, GRADUAL, LIMITED, fit, run_jobs, task
from tests.samples import COMMAND, TINY, shell
from tests.tasks.tiny_run import tiny_model, tiny_trainer

PRESETS = [
    "gradual",
    "freeze_again",
    "full",
    "head_then_full",
]
PLAIN = ("gradual", "freeze_again", "uneven")
OTHERS = ("full", "head_then_full", "lora", "limited", "resumed", "inside", "apart")
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_ranks(run_jobs, 2, tmp_path_factory.mktemp("sharded"), *PLAIN)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded_slow")


@pytest.fixture(scope="module")
def more_ranks(home: Path) -> Results:
    return run_ranks(run_jobs, 2, home, *OTHERS)


def check_preset(ranks: Results, preset: str) -> None:
    made = ddp_ranks.task(ddp_ranks.settings(preset)).double()
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    alone = fit(made, 1)
    frozen = {name for name, tensor in alone.items() if torch.equal(tensor, start[name])}
    assert len(alone) - len(frozen) > 20
    for rank in ranks:
        held, whole = rank[preset]["held"]
        assert 0.4 * whole < held < 0.6 * whole
        for name, tensor in rank[preset]["state"].items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-9, atol=1e-11, msg=name)
            assert torch.equal(tensor, start[name]) == (name in frozen), name


@pytest.fixture
def preset_ranks(request: pytest.FixtureRequest, preset: str) -> Results:
    results: Results = request.getfixturevalue("ranks" if preset in PLAIN else "more_ranks")
    return results


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_sharded_ranks_end_with_the_weights_of_one_process(preset_ranks: Results, preset: str) -> None:
    check_preset(preset_ranks, preset)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_in_each_epoch_exactly_the_trainable_parameters_change(preset_ranks: Results, preset: str) -> None:
    first, second = (rank[preset]["moved"] for rank in preset_ranks)
    assert len(first) == ddp_ranks.EPOCHS
    for one, other in zip(first, second, strict=True):
        assert len(one["train"]) > 20
        assert set(one["train"]) == {*one["moved"], *other["moved"]}
    phases = [len(epoch["train"]) for epoch in first]
    assert len(set(phases)) == {"full": 1, "head_then_full": 2, "gradual": 3, "freeze_again": 2}[preset]


@pytest.mark.slow
def test_ranks_train_on_after_a_validation_without_images_on_one_of_them(ranks: Results) -> None:
    first, second = (rank["uneven"] for rank in ranks)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_layer_may_have_frozen_and_trainable_parameters(more_ranks: Results) -> None:
    check_preset(more_ranks, "lora")


@pytest.mark.slow
def test_clipping_accumulation_and_penalties_equal_those_of_one_process(more_ranks: Results) -> None:
    alone = fit(task(*LIMITED), 1, **CLIPPED)
    without = [fit(task(*LIMITED, f"tuning.{penalty}=0.0"), 1, **CLIPPED) for penalty in ("l1", "l2_sp")]
    without.append(fit(task(*LIMITED), 1, accumulate_grad_batches=2))
    assert all(any((state[name] - alone[name]).abs().max() > 1e-5 for name in alone) for state in without)
    for name, tensor in more_ranks[0]["limited"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_exactly_whether_sharded_or_not(home: Path, more_ranks: Results) -> None:
    alone = fit(task(*GRADUAL), 1)
    path = home / "stopped_2" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["epoch"] == 1
    finetune.load(path)
    for state in (more_ranks[0]["resumed"], fit(task(*GRADUAL), 1, resume=path)):
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_cut_off_inside_an_epoch_is_resumed_bit_for_bit(workers: int, more_ranks: Results) -> None:
    """The loader exists already when this strategy restores a checkpoint, and has to start at another batch."""
    for rank in more_ranks:
        whole, resumed = rank["inside"]["whole"], rank["inside"][f"{workers} workers"]
        assert (resumed["place"]["epoch"], resumed["place"]["batches"]) == (1, 2)  # all that was trained was saved
        assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed["end"][name])] == []


@pytest.mark.slow
def test_ranks_start_from_the_weights_of_rank_zero_and_end_with_equal_batch_norms(more_ranks: Results) -> None:
    start = task("tuning=full", backbone="test_resnet.r160_in1k").model.state_dict()
    first, second = (rank["apart"] for rank in more_ranks)
    assert sum("running" in name for name in first["end"]) > 10
    for name, tensor in start.items():
        for rank in (first, second):
            assert torch.equal(rank["begin"][name], tensor), name
        assert torch.equal(first["end"][name], second["end"][name]), name


@pytest.mark.slow
def test_the_saved_model_has_the_reported_scores(tmp_path: Path) -> None:
    overrides = ("trainer.strategy=fsdp2", "trainer.devices=2", "tuning=gradual", "data=synthetic", "data.size=32")
    done = shell(
        COMMAND, "train", *TINY, *overrides, "data.count=12", "trainer.max_epochs=2", "output=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "view tensor" not in done.stderr
    run = tmp_path / "run"
    matrix = written_matrix(run)
    assert matrix.sum() == 3 * 32 * 32
    assert torch.equal(finetune.evaluate(f"run={run}").matrix, matrix)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in load_file(run / "model" / "model.safetensors").items():
        assert torch.equal(tensor, best[f"model.{name}"]), name


def test_units_are_stages_or_blocks_that_timm_calls_as_modules() -> None:
    model = tiny_model(backbone="test_efficientnet.r160_in1k")
    names = {module: name for name, module in model.named_modules()}
    units = [names[unit] for unit in sharding_units(model)]
    assert "backbone.model.blocks" not in units  # timm iterates over it without calling it
    assert "backbone.model.blocks.3" in units
    assert "decoder" in units
    finer = [names[unit] for unit in sharding_units(model, largest=10_000)]
    assert "backbone.model.blocks.3.0" in finer
    assert finer.index("backbone.model.blocks.3.0") < finer.index("backbone.model.blocks.3")
    assert all(module.training for module in model.modules())


def test_parameters_that_cannot_be_sharded_are_named() -> None:
    model = tiny_model()
    model.head.gain = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"1 parameters are scalars.*: head\.gain"):
        shard(model, None)  # type: ignore[arg-type]  # never reached
    shared = tiny_model()
    shared.head.again = shared.head[0].weight
    with pytest.raises(ValueError, match=r"2 parameters are shared .*: head\.again, head\.0\.weight"):
        shard(shared, None)  # type: ignore[arg-type]


def test_settings_that_do_not_suit_sharding_are_rejected_together() -> None:
    overrides = ["trainer.precision=16-mixed", "optimizer.name=muon", "tuning.plateau.restore_best=true"]
    also = ["average=ema", "+trainer.sync_batchnorm=true"]
    with pytest.raises(ConfigError) as refused:
        check(config("trainer.strategy=fsdp2", *overrides, *also))
    for part in (*overrides, "average=none", "trainer.sync_batchnorm=true"):
        assert part in str(refused.value)
    assert str(refused.value).count("nor with") == 4
    check(config("trainer.strategy=fsdp2", "trainer.precision=bf16-mixed", "tuning=lora"))


def test_fsdp2_is_our_strategy_and_all_other_names_are_lightnings(tmp_path: Path) -> None:
    settings = with_placeholders_for_recipe(config("trainer.strategy=fsdp2", "trainer.devices=2"))
    made = build_trainer(settings, tmp_path)
    assert isinstance(made.strategy, FullySharded)
    assert made.world_size == 2
    with pytest.raises(ConfigError, match="invalid strategy name: `strategy='fsdp3'`"):
        build_trainer(with_placeholders_for_recipe(config("trainer.strategy=fsdp3")), tmp_path)


def config(*overrides: str) -> dict[str, Any]:
    return to_plain_dict(
        compose(*TINY, "data=synthetic", "data.size=32", "data.count=8", "trainer.precision=32-true", *overrides)
    )


def test_lightnings_own_strategy_is_rejected() -> None:
    class Mesh(pl.Callback):
        def setup(self, build_trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
            pl_module._device_mesh = {"data_parallel": None}

    with pytest.raises(TypeError, match=r"SingleDeviceStrategy cannot shard this task; use .*FullySharded\(\)"):
        tiny_trainer(Mesh()).fit(task("tuning=full"), datamodule=ddp_ranks.data(1))


def test_the_full_model_of_an_unsharded_model_is_itself() -> None:
    model = tiny_model()
    assert full_model(model) is model
