"""`trainer.deterministic`: whether it reaches torch, and the message if an operation cannot be deterministic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import finetune
from tests.runs.interrupted import same_weights
from tests.samples import SYNTHETIC, exit_code

pytestmark = pytest.mark.usefixtures("without_figures")

OVERRIDES = (*SYNTHETIC, "trainer.max_epochs=2", "augment=strong", "augment.crop=32", "callbacks.preview=null")
RECORD = "+callbacks.record._target_=tests.end_to_end.test_deterministic.RecordSettings"


class RecordSettings(pl.Callback):
    """Records at each step whether torch must be deterministic, and whether it only warns."""

    seen: list[tuple[bool, bool]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self.seen.append((torch.are_deterministic_algorithms_enabled(), only_warns))


class NotDeterministic(pl.Callback):
    """Runs an operation for which torch has no deterministic implementation, even on a CPU."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    RecordSettings.seen.clear()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_the_setting_reaches_torch_and_the_same_command_gives_the_same_weights(tmp_path: Path) -> None:
    one, other = (
        finetune.train(*OVERRIDES, "trainer.deterministic=true", RECORD, f"output={tmp_path / name}").folder
        for name in "ab"
    )
    assert same_weights(one, other)
    assert RecordSettings.seen == [(True, False)] * 8
    RecordSettings.seen.clear()
    finetune.train(*OVERRIDES, RECORD, f"output={tmp_path / 'c'}")
    assert RecordSettings.seen == [(False, False)] * 4


@pytest.mark.parametrize("head", ["unet", "deeplabv3plus"])
def test_heads_train_deterministically_on_a_cpu(head: str, tmp_path: Path) -> None:
    overrides = [override for override in OVERRIDES if not override.startswith("head")]
    RecordSettings.seen.clear()
    finetune.train(*overrides, f"head={head}", "trainer.deterministic=true", RECORD, f"output={tmp_path / 'run'}")
    assert set(RecordSettings.seen) == {(True, False)}


def test_an_operation_that_cannot_be_deterministic_is_refused_or_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*OVERRIDES, "+callbacks.custom._target_=tests.end_to_end.test_deterministic.NotDeterministic")
    assert exit_code("train", *overrides, "trainer.deterministic=true", f"output={tmp_path / 'refused'}") == 1
    message = capsys.readouterr().err
    assert "does not have a deterministic implementation" in message
    assert "try: trainer.deterministic=warn" in message
    assert "Traceback" not in message
    with pytest.warns(UserWarning, match="does not have a deterministic implementation"):
        assert exit_code("train", *overrides, "trainer.deterministic=warn", f"output={tmp_path / 'warned'}") == 0
