"""The command `predict`: a folder that is half done, and one that holds something else."""

from pathlib import Path

import pytest

import finetune
from finetune.config.errors import ConfigError
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune.train(*on_folder(photos), f"output={tmp_path_factory.mktemp('run')}").folder


def test_the_same_command_goes_on_with_a_half_done_folder(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = (f"run={run}", f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    written = finetune.predict(*command)
    before = {path: path.read_bytes() for path in written}
    kept = written[0].stat().st_mtime_ns
    written[3].unlink()
    with caplog.at_level("INFO", "finetune"):
        assert finetune.predict(*command) == written
    assert "going on with the predictions" in caplog.text
    assert {path: path.read_bytes() for path in written} == before
    assert written[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("other", ["tta=flip", "write=[]", "run"])
def test_other_predictions_are_never_mixed_with_those_of_a_folder(
    run: Path, photos: Path, tmp_path: Path, other: str
) -> None:
    common = (f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    finetune.predict(f"run={run}", *common)
    changed = (f"run={run / 'model'}",) if other == "run" else (f"run={run}", other)
    with pytest.raises(ConfigError, match="exists and is not empty; nothing is ever overwritten"):
        finetune.predict(*changed, *common)
