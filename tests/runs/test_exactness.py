"""What is known of Lightning's options and callbacks on resume is complete, documented, and said by a resumed run."""

import inspect
from pathlib import Path

import lightning.pytorch as pl
import pytest

import finetune
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.runs.exactness import EXACT, EXACT_CALLBACKS, EXACT_OPTIONS, INEXACT, REFUSED, inexact_settings
from tests.samples import SYNTHETIC

pytestmark = pytest.mark.usefixtures("without_figures")

DOCS = Path(__file__).parents[2] / "docs" / "reproducibility.md"
GIVEN = {"self", "callbacks", "logger", "default_root_dir"}  # by finetune itself
UNKNOWN = {"plugins", "barebones", "model_registry"}


def test_every_option_of_the_trainer_is_in_a_table() -> None:
    options = set(inspect.signature(pl.Trainer.__init__).parameters) - GIVEN - UNKNOWN
    assert options == {*EXACT_OPTIONS, *(name.removeprefix("trainer.") for name in INEXACT if "." in name)}


def test_every_callback_in_a_table_is_one_of_lightning() -> None:
    names = {*EXACT_CALLBACKS, *REFUSED, *(name for name in INEXACT if "." not in name)}
    assert all(hasattr(pl.callbacks, name) for name in names)


@pytest.mark.parametrize("name", sorted({*EXACT, *INEXACT, *REFUSED} - {"trainer.fast_dev_run"}))
def test_the_documentation_has_it_in_the_right_row(name: str) -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith(("| exact |", "| inexact", "| refused"))]
    place = 0 if name in EXACT else 1 if name in INEXACT else 2
    assert f"`{name.removeprefix('trainer.')}`" in rows[place]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), []),
        (("+trainer.overfit_batches=2",), ["trainer.overfit_batches: not exactly as if it had never stopped"]),
        (("+trainer.overfit_batches=0",), []),
        (("+trainer.reload_dataloaders_every_n_epochs=1", "+trainer.limit_val_batches=2"), []),
        (("+trainer.barebones=true",), ["trainer.barebones: it is not known"]),
        (
            ("+callbacks.mine._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",),
            ["GradientAccumulationScheduler: not exactly"],
        ),
        (("+callbacks.mine._target_=lightning.pytorch.callbacks.Timer",), []),
        (("+callbacks.mine._target_=my_package.Mine",), ["callbacks.mine: it is not known"]),
        (("average=ema", "callbacks.preview=null"), []),
    ],
)
def test_what_is_not_exact_is_named(overrides: tuple[str, ...], expected: list[str]) -> None:
    lines = list(inexact_settings(load_config([*SYNTHETIC, *overrides], "train")))
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))


def test_a_resumed_run_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.train(*SYNTHETIC, "+trainer.overfit_batches=1", "output=run")
    capsys.readouterr()
    finetune.train("resume=run", "trainer.max_epochs=2")
    assert "trainer.overfit_batches: not exactly as if it had never stopped, because" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["BatchSizeFinder", "LearningRateFinder"])
def test_callbacks_that_search_are_refused_with_the_setting(name: str, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name} loads a checkpoint of its own.*=(auto|largest), which searches before"
    ):
        finetune.train(*SYNTHETIC, f"+callbacks.mine._target_=lightning.pytorch.callbacks.{name}")
    assert not list(folder.iterdir())


def test_lightnings_swa_is_refused_for_our_own(folder: Path) -> None:
    swa = "+callbacks.mine._target_=lightning.pytorch.callbacks.StochasticWeightAveraging"
    with pytest.raises(ConfigError, match=r"adds an epoch and has rates of its own. Set average=swa"):
        finetune.train(*SYNTHETIC, swa, "+callbacks.mine.swa_lrs=0.01")


def test_several_devices_do_not_overfit_the_same_images(folder: Path) -> None:
    with pytest.raises(ConfigError, match="all devices would train on the same images"):
        finetune.train(*SYNTHETIC, "+trainer.overfit_batches=1", "trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.slow
def test_a_training_with_reloaded_loaders_resumes_exactly_inside_an_epoch(folder: Path) -> None:
    data = (*SYNTHETIC, "data.count=24", "trainer.max_epochs=3")
    reload = ("+trainer.reload_dataloaders_every_n_epochs=1", "checkpoint.every_n_steps=1")
    crash = "+callbacks.crash._target_=tests.runs.test_exactness.Crash"
    whole = finetune.train(*data, *reload, "output=whole")
    with pytest.raises(RuntimeError, match="stopped on purpose"):
        finetune.train(*data, *reload, crash, "output=stopped")
    stopped = finetune.train("resume=stopped", "+callbacks.crash=null")
    assert stopped.scores == whole.scores
    weights = [path / "model" / "model.safetensors" for path in (whole.folder, stopped.folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


class Crash(pl.Callback):
    """Ends the training inside its second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, _: pl.LightningModule, batch: object, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 3):
            raise RuntimeError("stopped on purpose")
