"""One thread per test process: the models are tiny, and more threads only wait for each other."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis.configuration import set_hypothesis_home_dir

torch.set_num_threads(1)

_notes = TemporaryDirectory()  # of hypothesis, which would keep them in the working folder
set_hypothesis_home_dir(_notes.name)


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is known of files out of the user's own cache, in processes that a test starts, too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _give_memory_back() -> Iterator[None]:
    """Let a training in this process not change how it frees memory, which other tests measure."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.cli.keep_memory", lambda: None)
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _touch_curves(_: object, folder: Path) -> None:
    for name in ("iou.png", "loss.png"):
        (folder / name).touch()


def _touch_examples(folder: Path, *_: object) -> None:
    for name in ("worst.png", "best.png"):
        (folder / name).touch()


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Empty files instead of figures, which take two thirds of a tiny training; for modules that test other things."""
    with pytest.MonkeyPatch.context() as patched:
        figures = ("evaluation.confusion_figure", "evaluation.class_bars_figure", "tuning.timeline_figure")
        for name in (*figures, "calibration.reliability_figure", "calibration.thresholds_figure"):
            patched.setattr(f"finetune.reports.{name}", lambda *arguments: Path(arguments[-1]).touch())
        patched.setattr("finetune.reports.evaluation.curves_figure", _touch_curves)
        patched.setattr("finetune.commands.scoring.write_examples", _touch_examples)
        patched.setattr("finetune.commands.train.run_page", lambda folder: "")
        yield
