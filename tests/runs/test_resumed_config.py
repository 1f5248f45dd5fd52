"""What the overrides of a resumed training remove from the config of its run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.builders.discovery import work_out_data
from finetune.config.compose import compose, load_config
from finetune.config.errors import ConfigError
from finetune.runs.prepare import resolve_run_config
from finetune.runs.resumed_config import removed_keys, resumed_config
from tests.samples import SYNTHETIC, TINY, decided, draw_folder

OLD: dict[str, Any] = {
    "callbacks": {"iou": {}, "preview": {}, "average": {"decay": 0.9}},
    "logger": {"csv": {}},
    "trainer": {"gradient_clip_val": 1},
}


@pytest.mark.parametrize(
    ("overrides", "keys", "new", "removed"),
    [
        (["~callbacks.preview"], [], OLD, ["callbacks.preview"]),
        (["~callbacks"], [], {}, ["callbacks.iou", "callbacks.preview"]),  # the average goes on
        (["~logger"], [], {}, ["logger.csv"]),
        (["~trainer.gradient_clip_val"], [], OLD, ["trainer.gradient_clip_val"]),
        (["~callbacks.none"], [], OLD, []),
        (["logger=tensorboard"], ["logger"], {"logger": {"tensorboard": {}}}, ["logger.csv"]),
        (["average=none"], ["callbacks.average"], {"callbacks": {}}, ["callbacks.average"]),
        (["average=ema"], ["callbacks.average"], OLD, []),
    ],
)
def test_what_is_deleted_or_replaced_is_removed(
    overrides: list[str], keys: list[str], new: dict[str, Any], removed: list[str]
) -> None:
    assert removed_keys(OLD, new, keys, overrides) == removed


def test_a_new_run_may_have_no_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, point = resolve_run_config(["data=synthetic", "~logger"])
    assert (config["logger"], point) == ({}, None)


@pytest.mark.parametrize("data", ["folder", "auto"])
def test_the_command_that_started_a_run_changes_nothing(data: str, tmp_path: Path) -> None:
    overrides = [f"data={data}", f"data.root={draw_folder(tmp_path / 'photos')}", "resume=auto"]
    config, _ = work_out_data(load_config([*TINY, *overrides], "train"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    _, changed = resumed_config(compose(*TINY, *overrides), [*TINY, *overrides], run)
    assert changed == set()


def test_classes_that_are_typed_again_change_nothing_however_the_run_keeps_them(tmp_path: Path) -> None:
    overrides = [*TINY, f"data.root={draw_folder(tmp_path / 'photos')}", "data.classes={near: wall, far: [sea, sky]}"]
    config = load_config(overrides, "train")
    # as a run keeps names of a legend, and the label of what is ignored
    config["data"] |= {"format": "folder", "classes": ["near", "far"], "mask_values": [1, [2, 3]], "ignore_index": 255}
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"cannot have data\.classes\.near=wall"):
        resumed_config(compose(*overrides), overrides, run)
    for started in ({"command": ["script.py"], "overrides": overrides}, {"command": ["finetune", "train", *overrides]}):
        (run / "env.json").write_text(json.dumps(started))  # of a call in Python, and of an earlier version
        assert resumed_config(compose(*overrides), overrides, run)[1] == set()
    changes = {"data.root=elsewhere": {"data.root"}, "data.num_workers=1": {"data.num_workers"}}
    for change, changed in changes.items():
        assert resumed_config(compose(*overrides, change), [*overrides, change], run)[1] == changed
    with pytest.raises(ConfigError, match=r"cannot have data\.ignore_index=9"):
        resumed_config(compose(*overrides, "data.ignore_index=9"), [*overrides, "data.ignore_index=9"], run)


def test_a_command_that_a_stranger_has_written_is_no_reason_to_trust_the_config(tmp_path: Path) -> None:
    overrides = [*TINY, "data=folder", "data.format=folder", f"data.root={tmp_path}", "data.classes=2"]
    config = load_config(overrides, "train")
    config["data"]["format"] = "evil.module.Source"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for started in ({"command": ["finetune", "train", *overrides]}, {"overrides": overrides}):
        (tmp_path / "env.json").write_text(json.dumps(started))
        with pytest.raises(ConfigError, match=r"data\.format=evil\.module\.Source: its code would run"):
            resumed_config(compose(*overrides), overrides, tmp_path)


IN_STEPS = {"max_steps": 20, "max_epochs": 7, "check_val_every_n_epoch": None, "val_check_interval": 5}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # three steps an epoch, so 40 steps need 14 epochs
        ("+trainer.max_steps=40", {**IN_STEPS, "max_steps": 40, "max_epochs": 14}),
        ("+trainer.max_steps=18", {**IN_STEPS, "max_steps": 18}),
        # validations every five steps would miss the end
        ("trainer.max_epochs=13", {"max_epochs": 13, "check_val_every_n_epoch": 1, "val_check_interval": None}),
    ],
)
def test_a_new_length_is_the_whole_length_of_a_run_that_counts_steps(
    override: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    config = decided(SYNTHETIC)
    config["trainer"] |= IN_STEPS
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    resumed, _ = resumed_config(compose(*SYNTHETIC, override), [override], tmp_path)
    lengths = {key: value for key, value in resumed["trainer"].items() if key in IN_STEPS}
    assert lengths == expected


def test_what_is_monitored_cannot_change_as_the_best_score_so_far_is_of_it(tmp_path: Path) -> None:
    config = load_config([*SYNTHETIC], "train")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for key in ("checkpoint.monitor", "callbacks.checkpoint.monitor"):
        with pytest.raises(ConfigError, match=rf"{key}=val/loss, where the run has val/iou"):
            resumed_config(compose(*SYNTHETIC, f"{key}=val/loss"), [f"{key}=val/loss"], tmp_path)
    with pytest.raises(ConfigError, match=r"checkpoint\.monitor=val/loss, where the run has val/iou"):
        resumed_config(compose(*SYNTHETIC, "checkpoint.monitor=val/loss"), ["checkpoint.monitor=val/loss"], tmp_path)
    _, changed = resumed_config(compose(*SYNTHETIC, "checkpoint.keep_best=3"), ["checkpoint.keep_best=3"], tmp_path)
    assert changed == {"checkpoint.keep_best", "callbacks.checkpoint.keep_best"}
