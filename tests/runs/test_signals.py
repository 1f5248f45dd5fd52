"""Commands that are told to end before or behind the training: real processes, and signals as a cluster sends them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest

import finetune
from finetune.callbacks import IoU, TrainingInterrupted
from finetune.runs.signals import raise_on_signal
from tests.runs.test_resume import rows
from tests.samples import COMMAND, DRAWN, clean_environment

WORDS = (*DRAWN, "callbacks.preview=null", "data.num_workers=0")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """SIGINT is heard, also where a script has put these tests into its background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Tell(pl.Callback):
    """Sends this process a signal at the first call of a hook, on one rank or on all."""

    def __init__(self, hook: str, number: int, rank: int | None = None) -> None:
        self.number = number
        self.rank = rank
        setattr(self, hook, self._call)

    def _call(self, trainer: pl.Trainer, *_: object, **__: object) -> None:
        if self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), self.number)


def told(
    folder: Path, hook: str, number: int, *words: str, rank: int | None = None
) -> subprocess.CompletedProcess[str]:
    """A training that is told to end in a hook."""
    tell = ("+callbacks.tell._target_=tests.runs.test_signals.Tell", f"+callbacks.tell.hook={hook}")
    which = (f"+callbacks.tell.number={int(number)}", f"+callbacks.tell.rank={'null' if rank is None else rank}")
    return subprocess.run(
        [COMMAND, *WORDS, *words, *tell, *which, f"output={folder}"],
        cwd=folder.parent,
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_listens_leaves_at_once_and_once_and_puts_back_what_listened_before(number: signal.Signals) -> None:
    @raise_on_signal()
    def told_twice() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as caught:
        told_twice()
    assert (caught.value.code, caught.value.signal) == (143, number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("hook", "number", "code"),
    [
        ("on_test_start", signal.SIGTERM, 143),
        ("on_test_start", signal.SIGINT, 130),
        ("on_test_batch_end", signal.SIGTERM, 143),  # of the only batch
        ("on_fit_end", signal.SIGTERM, 143),
        ("on_fit_start", signal.SIGTERM, 143),
        ("on_fit_start", signal.SIGINT, 130),
    ],
)
def test_a_process_that_is_told_to_end_before_or_behind_the_training_says_so(
    hook: str, number: int, code: int, tmp_path: Path
) -> None:
    done = told(tmp_path / "run", hook, number)
    assert done.returncode == code, done.stderr
    assert ("nothing was saved yet" if hook == "on_fit_start" else "1 whole epochs, step 2") in done.stderr
    assert ("interrupted" if code == 130 else "stopped by SIGTERM") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()
    if hook != "on_fit_start":
        finetune.train(f"resume={tmp_path / 'run'}", "+callbacks.tell=null")
        assert len(rows(tmp_path / "run")) == 1
        assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, None])
@pytest.mark.parametrize("hook", ["on_test_start", "on_test_batch_end"])
def test_two_ranks_of_which_one_or_both_are_told_while_they_score_leave_together(
    hook: str, rank: int | None, tmp_path: Path
) -> None:
    two = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2")
    done = told(tmp_path / "run", hook, signal.SIGTERM, *two, rank=rank)
    assert done.returncode == 143, done.stderr
    assert "1 whole epochs, step 2" in done.stderr


def test_an_evaluation_is_ended_by_a_signal_too(tmp_path: Path) -> None:
    run = finetune.train(*WORDS, f"output={tmp_path / 'run'}")
    for number, expected in ((signal.SIGTERM, TrainingInterrupted), (signal.SIGINT, KeyboardInterrupt)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(IoU, "on_test_epoch_end", lambda *_, n=number: os.kill(os.getpid(), n))
            with pytest.raises(expected):
                finetune.evaluate(f"run={run.folder}")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
