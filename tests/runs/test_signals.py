"""Signals before, during and after the training: exit codes and saved checkpoints of real processes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune
from finetune.callbacks import IoU, TrainingInterrupted
from finetune.runs.signals import raise_on_signal
from tests import forked
from tests.runs.interrupted import rows
from tests.samples import COMMAND, SYNTHETIC, clean_environment

OVERRIDES = (*SYNTHETIC, "callbacks.preview=null", "data.num_workers=0")

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(autouse=True)
def _default_sigint() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also if a script runs these tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def overrides(folder: Path, hook: str, number: int, rank: int | None = None) -> tuple[str, ...]:
    """Return the overrides of a training that gets a signal in a hook."""
    callback = ("+callbacks.send._target_=tests.runs.interrupted.SendSignal", f"+callbacks.send.hook={hook}")
    which = (f"+callbacks.send.number={int(number)}", f"+callbacks.send.rank={'null' if rank is None else rank}")
    return (*OVERRIDES, *callback, *which, f"output={folder}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_raises_once_and_the_handler_before_is_restored(number: signal.Signals) -> None:
    @raise_on_signal()
    def gets_two_signals() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as caught:
        gets_two_signals()
    assert (caught.value.code, caught.value.signal) == (143, number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("hook", "number", "code"),
    [
        ("on_test_start", signal.SIGTERM, 143),
        pytest.param("on_test_start", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("on_test_batch_end", signal.SIGTERM, 143, marks=pytest.mark.slow),  # of the only batch
        pytest.param("on_fit_end", signal.SIGTERM, 143, marks=pytest.mark.slow),
        ("on_fit_start", signal.SIGTERM, 143),
        ("on_fit_start", signal.SIGINT, 130),
    ],
)
def test_a_signal_before_or_after_the_training_ends_the_command_and_the_run_resumes(
    hook: str, number: int, code: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    exit_code, message = forked.start(*overrides(folder, hook, number), cwd=tmp_path, logs=tmp_path).wait()
    assert exit_code == code, message
    assert ("nothing was saved yet" if hook == "on_fit_start" else "1 whole epochs, step 2") in message
    assert ("interrupted" if code == 130 else "stopped by SIGTERM") in message
    assert "Traceback" not in message
    assert not (folder / "model").exists()
    if hook != "on_fit_start":
        finetune.train(f"resume={folder}", "+callbacks.send=null")
        assert len(rows(folder)) == 1
        assert (folder / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, None])
@pytest.mark.parametrize("hook", ["on_test_start", "on_test_batch_end"])
def test_two_ranks_end_together_if_one_or_both_get_a_signal_in_the_test(
    hook: str, rank: int | None, tmp_path: Path
) -> None:
    two_ranks = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2")
    done = subprocess.run(
        [COMMAND, *overrides(tmp_path / "run", hook, signal.SIGTERM, rank), *two_ranks],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 143, done.stderr
    assert "1 whole epochs, step 2" in done.stderr


def test_a_signal_ends_an_evaluation(tmp_path: Path) -> None:
    run = finetune.train(*OVERRIDES, f"output={tmp_path / 'run'}")
    for number, expected in ((signal.SIGTERM, TrainingInterrupted), (signal.SIGINT, KeyboardInterrupt)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(IoU, "on_test_epoch_end", lambda *_, n=number: os.kill(os.getpid(), n))
            with pytest.raises(expected):
                finetune.evaluate(f"run={run.folder}")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
