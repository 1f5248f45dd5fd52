import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import finetune
from finetune.builders.checks.training import check
from finetune.builders.discovery import work_out_data
from finetune.builders.settings import DataSettings
from finetune.config.compose import load_config, packaged_options
from finetune.config.errors import ConfigError
from finetune.data import SOURCES
from tests.samples import TINY, draw_folder, exit_code

pytestmark = pytest.mark.usefixtures("without_figures")


def config(*overrides: str) -> dict[str, Any]:
    return load_config([*TINY, *overrides], "train")


def test_the_settings_of_auto_are_options_of_sources() -> None:

    options = {name for source in SOURCES.values() for name in inspect.signature(source).parameters}
    settings = packaged_options("data")["auto"]
    assert set(settings) <= options | {"format"} | set(vars(DataSettings()))
    assert all(settings[name] is None for name in options & set(settings))


def test_common_settings_are_kept(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    found, lines = work_out_data(config(f"data.root={tmp_path}", "data.val=0.4", "data.batch_size=2"))
    assert (found["data"]["val"], found["data"]["batch_size"], found["data"]["format"]) == (0.4, 2, "folder")
    assert lines


def test_what_was_worked_out_is_stored_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = draw_folder(tmp_path / "photos", values=(0, 100, 200))
    (root / "masks").rename(root / "labels")
    (root / "images").rename(root / "pictures")
    run = finetune.train(*TINY, "data.root=photos", "output=run")
    stored = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert stored["data"]["mask_values"] == [0, 100, 200]
    assert (stored["data"]["images"], stored["data"]["masks"]) == ("pictures", "labels")
    assert stored["task"]["name"] == "semantic"
    assert "(data.classes)" in (tmp_path / "run" / "train.log").read_text()
    assert finetune.evaluate("run=run").scores == run.scores
    other = draw_folder(tmp_path / "other", values=(0, 1, 2), seed=1)
    assert finetune.evaluate("run=run", f"data.root={other}", "data.format=auto").matrix.sum() == 12 * 32 * 40
    finetune.train("resume=run", "trainer.max_epochs=2")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def overlapping(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(8):
        save(tmp_path / "images" / f"{number}.jpg", random.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        for name, rows in (("leaf", slice(0, 20)), ("stone", slice(12, 32))):
            mask = np.zeros((32, 32), np.uint8)
            mask[rows] = 255
            save(tmp_path / "masks" / name / f"{number}.png", mask)
    return tmp_path


def test_overlapping_classes_choose_the_task_and_its_loss(overlapping: Path) -> None:
    resolved, data = check(config(f"data.root={overlapping}"))
    assert (resolved["task"]["name"], resolved["loss"]["name"]) == ("multilabel", "bce_dice")
    assert data.classes == ("leaf", "stone")
    resolved, data = check(config(f"data.root={overlapping}", "task=semantic"))
    assert (resolved["task"]["name"], resolved["loss"]["name"]) == ("semantic", "ce_dice")
    assert data.classes == ("background", "leaf", "stone")


def test_a_loss_that_was_chosen_is_kept_and_refused_where_it_does_not_fit(overlapping: Path) -> None:
    with pytest.raises(ConfigError, match="loss=focal does not fit task=multilabel"):
        check(config(f"data.root={overlapping}", "loss=focal"))
    assert check(config(f"data.root={overlapping}", "loss=bce", "task=multilabel"))[0]["loss"]["name"] == "bce"


def test_what_leaves_a_doubt_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(tmp_path / "data")
    for path in (tmp_path / "data" / "masks").iterdir():
        save(tmp_path / "data" / "labels" / path.name, np.asarray(Image.open(path)))
    assert exit_code("train", *TINY, f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}") == 2
    assert "- data.masks=labels: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("answer", ["data.format=folder", "data.format=csv", "data.format=csv data.classes=3"])
def test_the_format_alone_answers_which_of_two_it_is(tmp_path: Path, answer: str) -> None:
    draw_folder(tmp_path)
    rows = [f"images/{path.name},masks/{path.name}" for path in sorted((tmp_path / "masks").iterdir())]
    (tmp_path / "labels.csv").write_text("\n".join(["image,mask", *rows]))
    found, data = check(config(f"data.root={tmp_path}", *answer.split()))
    assert len(data.classes) == 3
    assert found["data"]["format"] in answer


def test_file_values_alone_say_the_classes(tmp_path: Path) -> None:
    draw_folder(tmp_path, values=(0, 100, 200))
    found, data = check(config(f"data.root={tmp_path}", "data.mask_values=[0,200]", "data.snap=true"))
    assert data.classes == ("background", "foreground")
    assert found["data"]["mask_values"] == [0, 200]


@pytest.mark.parametrize("name", ["folder", "auto"])
def test_black_and_white_masks_are_read_whether_or_not_their_format_is_said(tmp_path: Path, name: str) -> None:
    draw_folder(tmp_path, values=(0, 255))
    found, data = check(config(f"data={name}", f"data.root={tmp_path}"))
    assert data.classes == ("background", "foreground")
    assert (found["data"]["ignore_index"], found["data"]["snap"]) == (255, False)


def test_settings_of_masks_that_are_not_said_are_stored_as_they_are_taken(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    found, _ = work_out_data(config("data=folder", f"data.root={tmp_path}", "data.classes=3"))
    assert (found["data"]["ignore_index"], found["data"]["snap"], found["data"]["mask_values"]) == (255, False, None)


def test_masks_with_soft_edges_are_not_snapped_against_the_setting(tmp_path: Path) -> None:
    draw_folder(tmp_path, values=(0, 255))
    for path in (tmp_path / "masks").iterdir():
        mask = Image.open(path)
        larger = mask.resize((mask.width * 3 // 2, mask.height * 3 // 2), Image.Resampling.BILINEAR)
        larger.resize(mask.size, Image.Resampling.BILINEAR).save(path)
    with pytest.raises(ConfigError, match=r"data\.snap=false, but"):
        check(config(f"data.root={tmp_path}", "data.snap=false"))
