"""Whose words are followed: a user's own `_target_`, and nothing of the kind from a stranger's config."""

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger

from finetune.builders.targets import check_target
from finetune.config.compose import compose, to_plain_dict
from finetune.config.errors import ConfigError
from finetune.runs.saved_config import read_config
from finetune.runs.untrusted_config import OFFERED, check_stranger

CODE = [
    "torch.load",
    "torch.hub.load",
    "torch.utils.collect_env.run",
    "os.system",
    "builtins.open",
    "builtins.eval",
    "builtins.exec",
    "pathlib.Path.unlink",
    "numpy.load",
    "subprocess.Popen",
    "shutil.rmtree",
    "importlib.import_module",
    "functools.partial",
    "hydra.utils.instantiate",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.model_checkpoint.os.remove",
    "finetune.train",
    "finetune.callbacks.TrainingInterrupted",
    "torch.nn.Linear",
]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("finetune.callbacks.IoU", pl.Callback),
        ("lightning.pytorch.callbacks.LearningRateMonitor", pl.Callback),
        ("tests.samples.Breaks", pl.Callback),
        ("lightning.pytorch.loggers.CSVLogger", Logger),
        ("lightning.pytorch.loggers.tensorboard.TensorBoardLogger", Logger),
        ("torch.optim.AdamW", torch.optim.Optimizer),
    ],
)
def test_a_users_own_class_of_the_right_kind_is_taken(target: str, kind: type) -> None:
    check_target({"_target_": target, "anything": 3}, kind, "callbacks.mine")


@pytest.mark.parametrize("target", CODE)
@pytest.mark.parametrize(("kind", "name"), [(pl.Callback, "Callback"), (Logger, "Logger")])
def test_what_is_no_class_of_that_kind_is_refused_by_name(
    target: str, kind: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"callbacks\.mine\._target_={target} is .*; expected .*\.{name}\."):
        check_target({"_target_": target, "path": "x", "_args_": ["touch canary"]}, kind, "callbacks.mine")
    assert list(tmp_path.iterdir()) == []


def test_a_callback_is_no_logger() -> None:
    with pytest.raises(ConfigError, match=r"logger\.a\._target_=finetune\.callbacks\.IoU is another class; expected"):
        check_target({"_target_": "finetune.callbacks.IoU"}, Logger, "logger.a")


@pytest.mark.parametrize(
    "target", ["nowhere.Thing", "finetune.callbacks.Nothing", "os", "..os.system", "", "a..b", "x y"]
)
def test_a_target_that_is_not_there_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine") as error:
        check_target({"_target_": target}, pl.Callback, "callbacks.mine")
    assert target in str(error.value)


def test_a_module_that_fails_when_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('half finished')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_module\.Mine: .* cannot be imported: half finished"):
        check_target({"_target_": "broken_module.Mine"}, pl.Callback, "callbacks.mine")


@pytest.mark.parametrize("entry", [{}, {"monitor": "x"}, None, "finetune.callbacks.IoU", ["_target_"], {"_target_": 3}])
def test_an_entry_without_a_target_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine=.*expected settings that include _target_"):
        check_target(entry, pl.Callback, "callbacks.mine")


def own_config(*words: str) -> dict[str, Any]:
    """The config of an ordinary run."""
    return copy.deepcopy(composed(words))


@cache
def composed(words: tuple[str, ...]) -> dict[str, Any]:
    return to_plain_dict(compose("data=synthetic", "output=outputs/mine", *words))


ORDINARY = [
    (),
    ("logger=tensorboard",),
    ("logger=mlflow", "+logger.mlflow.key=1a2b3c4d"),
    ("logger=wandb", "+logger.wandb.tags=[a,b]", "+logger.wandb.offline=true"),
    ("average=ema", "tuning=gradual"),
    ("tuning=lora", "backbone.weights=/data/weights/mine.safetensors"),
    ("data=folder", "data.root=/data/photos", "data.splits=/data/splits.csv", "data.classes=[sky,land]"),
    (
        "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor",
        "+callbacks.rate.logging_interval=step",
    ),
    ("+logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "+logger.csv.save_dir=${output}/csv"),
    (
        "+callbacks.keep._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.keep.dirpath=${output}/more",
        "+callbacks.keep.filename='{epoch}-{val/iou:.3f}'",
    ),
    ("init_from=/data/runs/1",),
]


@pytest.mark.parametrize("words", ORDINARY, ids=" ".join)
def test_an_ordinary_run_goes_on(words: tuple[str, ...]) -> None:
    check_stranger(own_config(*words))


def planted(place: str, value: Any) -> dict[str, Any]:
    """An ordinary config with one more setting."""
    config = own_config("logger=tensorboard")
    *groups, name = place.split(".")
    inner = config
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[name] = value
    return config


TARGETS = [
    *(("callbacks.mine._target_", target) for target in CODE),
    ("callbacks.mine._target_", "tests.samples.Breaks"),
    ("callbacks.mine._target_", "finetune.callbacks.iou.torch.load"),
    ("callbacks.mine._target_", "lightning.pytorch.loggers.CSVLogger"),
    ("callbacks.mine._target_", "lightning.pytorch.callbacks"),
    ("callbacks.mine._target_", ["finetune.callbacks.IoU"]),
    ("callbacks.mine._target_", None),
    ("logger.mine._target_", "finetune.callbacks.IoU"),
    ("logger.mine._target_", "os.system"),
    ("callbacks._target_", "finetune.callbacks.IoU"),
    ("callbacks.iou.inner._target_", "finetune.callbacks.IoU"),
    ("callbacks.iou.inner._target_", "os.system"),
    ("trainer.profiler._target_", "lightning.pytorch.profilers.AdvancedProfiler"),
    ("optimizer.options._target_", "torch.optim.AdamW"),
    ("_target_", "os.system"),
    ("data._target_", "os.system"),
    ("more._target_", "finetune.callbacks.IoU"),
]


@pytest.mark.parametrize(("place", "target"), TARGETS, ids=str)
def test_a_strangers_target_is_refused_and_named(place: str, target: Any) -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted(place, target))
    assert f"- {place}={target}: the code behind it would be run" in str(error.value)
    assert "only if you say them yourself" in str(error.value)


def test_a_target_in_a_list_is_refused() -> None:
    config = planted("callbacks.iou.more", [{"a": [{"_target_": "os.system", "_args_": ["touch canary"]}]}])
    with pytest.raises(ConfigError) as error:
        check_stranger(config)
    assert "- callbacks.iou.more.0.a.0._target_=os.system: the code" in str(error.value)
    assert "- callbacks.iou.more.0.a.0._args_=['touch canary']: it changes how" in str(error.value)


def test_a_list_is_no_group_of_callbacks() -> None:
    config = {**own_config(), "callbacks": [{"_target_": "finetune.callbacks.IoU"}]}
    with pytest.raises(ConfigError, match=r"callbacks\.0\._target_"):
        check_stranger(config)


@pytest.mark.parametrize("name", ["_partial_", "_args_", "_recursive_", "_convert_", "_self_"])
@pytest.mark.parametrize("group", ["callbacks.iou", "trainer", "optimizer.options"])
def test_what_changes_how_a_target_is_run_is_refused(name: str, group: str) -> None:
    with pytest.raises(ConfigError, match=rf"- {group}\.{name}=.*it changes how the code"):
        check_stranger(planted(f"{group}.{name}", True))


@pytest.mark.parametrize("place", ["name", "data.root", "callbacks.iou.table", "trainer.precision"])
@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${name}b", "${now:%Y}", "\\${x}"])
def test_references_are_refused(place: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted(place, text))
    assert f"- {place}=" in str(error.value)
    assert "a reference" in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("logger.tensorboard.save_dir", "/etc"),
        ("logger.tensorboard.save_dir", "outputs/other"),
        ("logger.tensorboard.save_dir", "outputs/mine/../other"),
        ("logger.tensorboard.save_dir", "outputs/mine2"),
        ("logger.tensorboard.save_dir", "~/.ssh"),
        ("logger.tensorboard.save_dir", "."),
        ("logger.tensorboard.save_dir", "src"),
        ("logger.tensorboard.save_dir", "a\0b"),
        ("logger.tensorboard.name", "../../other"),
        ("logger.tensorboard.version", "/etc"),
        ("logger.tensorboard.sub_dir", ".."),
        ("logger.tensorboard.filename_suffix", "/../../x"),
        ("logger.tensorboard.prefix", "C:\\Windows"),
        ("callbacks.keep.dirpath", ".git/hooks"),
        ("callbacks.keep.filename", "..\\x"),
        ("callbacks.spikes.exclude_batches_path", "x.json"),
        ("trainer.default_root_dir", "/"),
        ("logger.ml.tracking_uri", "file:/etc"),
        ("logger.ml.artifact_location", "elsewhere"),
    ],
)
def test_what_would_be_written_outside_the_run_is_refused(place: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted(place, value))
    assert f"- {place}=" in str(error.value).replace("'", "")
    assert "it leads out of the run's folder" in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("logger.wandb.entity", "a stranger"),
        ("logger.wandb.settings", {"base_url": "somewhere.example"}),
        ("logger.comet.api_key", "abc"),
        ("logger.comet.workspace", "a stranger"),
        ("logger.lit.teamspace", "a stranger"),
        ("trainer.model_registry", "stranger/models"),
    ],
)
def test_what_would_be_sent_to_somebody_is_refused(place: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted(place, value))
    assert f"- {place}={value}: it says who is sent" in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("logger.ml.tracking_uri", "http://somewhere.example"),
        ("logger.wandb.base_url", "https://somewhere.example"),
        ("backbone.weights", "https://somewhere.example/weights.pth"),
        ("data.root", "s3://bucket/photos"),
        ("data.splits", "\\\\somewhere.example\\share"),
        ("init_from", "http://somewhere.example/model"),
    ],
)
def test_addresses_are_refused(place: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted(place, value))
    assert f"- {place}=" in str(error.value).replace("'", "")
    assert "an address" in str(error.value)


@pytest.mark.parametrize("place", ["hydra.launcher.n_jobs", "defaults"])
def test_settings_of_hydra_are_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=rf"- {place.partition('.')[0]}.*that is for Hydra"):
        check_stranger(planted(place, 3))


def test_everything_found_is_said_together() -> None:
    config = planted("callbacks.mine", {"_target_": "os.system", "_partial_": True})
    config["logger"]["tensorboard"]["save_dir"] = "/etc"
    with pytest.raises(ConfigError) as error:
        check_stranger(config)
    assert str(error.value).count("\n- ") == 3


def test_an_error_cannot_move_the_cursor_of_a_terminal() -> None:
    with pytest.raises(ConfigError) as error:
        check_stranger(planted("callbacks.mine._target_", "os.system\x1b[2J\n"))
    assert "\x1b" not in str(error.value)


def test_what_the_user_says_again_is_followed() -> None:
    config = planted("callbacks.mine", {"_target_": "tests.samples.Breaks", "dirpath": "/elsewhere"})
    check_stranger(config, {"callbacks.mine._target_", "callbacks.mine.dirpath"})
    check_stranger(config, {"callbacks.mine", "callbacks.mine.dirpath"})
    with pytest.raises(ConfigError, match=r"- callbacks\.mine\.dirpath"):
        check_stranger(config, {"callbacks.mine._target_"})


def test_what_is_said_stands_for_nothing_else() -> None:
    config = planted("callbacks.mine", {"_target_": "tests.samples.Breaks", "inner": {"_target_": "os.system"}})
    for said in ("callbacks", "callbacks.mine", "callbacks.mine._target_", "callbacks.mine.inner.x", "callbacks.other"):
        with pytest.raises(ConfigError, match=r"- callbacks\.mine\.inner\._target_=os\.system"):
            check_stranger(config, {said})


def test_a_key_with_dots_in_it_is_not_what_the_user_said() -> None:
    config = own_config()
    config["callbacks.mine"] = {"_target_": "os.system"}
    config["callbacks"]["a.b"] = {"_target_": "os.system"}
    config["callbacks"]["a"] = {"b": {"_target_": "finetune.callbacks.IoU"}}
    with pytest.raises(ConfigError) as error:
        check_stranger(config, {"callbacks.mine._target_", "callbacks.a.b._target_"})
    assert str(error.value).count("=os.system: ") == 2


def test_a_list_is_said_as_a_whole() -> None:
    config = planted("callbacks.iou.more", [{"_target_": "os.system"}])
    check_stranger(config, {"callbacks.iou.more"})


def test_a_bomb_of_shared_lists_is_refused() -> None:
    shared: list[Any] = ["x"]
    for _ in range(60):
        shared = [shared, shared]
    with pytest.raises(ConfigError, match=r"config\.yaml' cannot be read: it holds more than"):
        check_stranger({**own_config(), "more": shared})


def test_the_offered_classes_are_ours_and_lightnings_alone() -> None:
    assert "finetune.callbacks.IoU" in OFFERED["callbacks"]
    assert "finetune.callbacks.iou.IoU" in OFFERED["callbacks"]
    assert "lightning.pytorch.loggers.WandbLogger" in OFFERED["logger"]
    assert "finetune.callbacks.TrainingInterrupted" not in OFFERED["callbacks"]  # an exception, no callback
    everything = OFFERED["callbacks"] | OFFERED["logger"]
    assert "finetune.engine.loggers.MLflow" in OFFERED["logger"]
    ours = ("finetune.callbacks.", "finetune.engine.loggers.", "lightning.pytorch.")
    assert all(name.startswith(ours) for name in everything)


def written(folder: Path, text: str | dict[str, Any]) -> Path:
    """A run folder with a config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return folder


def test_a_run_that_was_moved_writes_where_it_is_now(tmp_path: Path) -> None:
    words = ("logger=tensorboard", "+callbacks.keep._target_=lightning.pytorch.callbacks.ModelCheckpoint")
    config = own_config(*words, "+callbacks.keep.dirpath=${output}/more")
    moved = read_config(written(tmp_path / "moved", config))
    assert moved["output"] == str(tmp_path / "moved")
    assert moved["logger"]["tensorboard"]["save_dir"] == str(tmp_path / "moved")
    assert moved["callbacks"]["keep"]["dirpath"] == str(tmp_path / "moved" / "more")
    assert {**moved, "output": 0, "logger": 0, "callbacks": 0} == {**config, "output": 0, "logger": 0, "callbacks": 0}
    check_stranger(moved)


@pytest.mark.parametrize("old", ["/", ".", "", "/etc", "outputs/.."])
@pytest.mark.parametrize("place", ["/etc/x", "x", "../x", "outputs/../../x"])
def test_wherever_a_stranger_says_the_run_was_it_writes_below_its_folder_or_not_at_all(
    old: str, place: str, tmp_path: Path
) -> None:
    config = planted("logger.tensorboard.save_dir", place)
    moved = read_config(written(tmp_path / "run", {**config, "output": old}))
    try:
        check_stranger(moved)
    except ConfigError as error:
        assert "logger.tensorboard.save_dir" in str(error)  # noqa: PT017  # either is right
    else:
        target = Path(moved["logger"]["tensorboard"]["save_dir"]).resolve()
        assert target.is_relative_to((tmp_path / "run").resolve())


BOMB = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!python/object/apply:os.system ['touch canary']", "is no YAML.*python/object"),
        ("a: !!python/name:os.system", "is no YAML"),
        ("a: &a [*a]", "more than"),
        ("[" * 5000, "is no YAML"),
        ("x" * 300_000, "bytes"),
        (BOMB, "is no YAML.*merge"),
        ("a: !!binary aGVsbG8=", "holds a bytes"),
        ("a: 2026-01-01", "holds a date"),
        ("a: [", "is no YAML"),
        ("output: [1]", "has no output"),
        ("- 1", "has no output"),
        ("", "has no output"),
    ],
    ids=range(12),
)
def test_a_config_file_that_is_no_config_is_refused(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"(?s)config\.yaml'.*{reason}"):
        read_config(written(tmp_path / "run", text))
    assert not (tmp_path / "canary").exists()


def test_shared_settings_are_read_all_the_same(tmp_path: Path) -> None:
    shared = {"a": [1, 2]}
    folder = written(tmp_path / "run", {"output": "x", "one": shared, "other": shared})
    assert "&id" in (folder / "config.yaml").read_text()
    assert read_config(folder)["other"] == shared


@pytest.mark.parametrize("name", ["train.log", "config.yaml", "checkpoints", "plots/preview"])
def test_a_run_folder_with_a_link_out_of_it_is_refused(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", own_config())
    (tmp_path / "elsewhere").mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"{name}' cannot be read: it leads out of the folder"):
        read_config(folder)


def test_links_inside_a_run_and_a_link_to_a_run_are_followed(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", own_config("logger=wandb"))
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "latest").symlink_to(folder)
    assert read_config(tmp_path / "latest")["output"] == str(tmp_path / "latest")
    check_stranger(read_config(tmp_path / "latest"))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml' cannot be read: there is no such file"):
        read_config(tmp_path)
    assert os.listdir(tmp_path) == []
