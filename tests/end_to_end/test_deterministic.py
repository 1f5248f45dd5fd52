"""`trainer.deterministic`: whether torch keeps to it, and what is said where it cannot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import finetune
from tests.runs.test_resume import same_weights
from tests.samples import DRAWN, exit_code

WORDS = (*DRAWN, "trainer.max_epochs=2", "augment=strong", "augment.crop=32", "callbacks.preview=null")
WATCH = "+callbacks.watch._target_=tests.end_to_end.test_deterministic.Watch"


class Watch(pl.Callback):
    """Notes at each step whether torch is to be deterministic, and whether it only warns."""

    seen: list[tuple[bool, bool]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self.seen.append((torch.are_deterministic_algorithms_enabled(), only_warns))


class Unsettled(pl.Callback):
    """Does what torch has no deterministic way for, not even on a CPU."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    Watch.seen.clear()
    yield
    torch.use_deterministic_algorithms(False)


def test_the_same_command_twice_gives_the_same_weights_and_torch_is_told(tmp_path: Path) -> None:
    one, other = (
        finetune.train(*WORDS, "trainer.deterministic=true", WATCH, f"output={tmp_path / name}").folder for name in "ab"
    )
    assert same_weights(one, other)
    assert Watch.seen == [(True, False)] * 8
    Watch.seen.clear()
    finetune.train(*WORDS, WATCH, f"output={tmp_path / 'c'}")
    assert Watch.seen == [(False, False)] * 4


@pytest.mark.parametrize("head", ["unet", "deeplabv3plus"])
def test_every_head_trains_so_on_a_cpu(head: str, tmp_path: Path) -> None:
    words = [word for word in WORDS if not word.startswith("head")]
    finetune.train(*words, f"head={head}", "trainer.deterministic=true", f"output={tmp_path / 'run'}")


def test_what_torch_cannot_do_so_is_said_with_a_way_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*WORDS, "+callbacks.unsettled._target_=tests.end_to_end.test_deterministic.Unsettled")
    assert exit_code("train", *words, "trainer.deterministic=true", f"output={tmp_path / 'refused'}") == 1
    told = capsys.readouterr().err
    assert "does not have a deterministic implementation" in told
    assert "try: trainer.deterministic=warn" in told
    assert "Traceback" not in told
    with pytest.warns(UserWarning, match="does not have a deterministic implementation"):
        assert exit_code("train", *words, "trainer.deterministic=warn", f"output={tmp_path / 'warned'}") == 0
