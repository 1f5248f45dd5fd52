"""Trust in configs: a `_target_` of the user is followed, one of an untrusted config is not."""

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
from finetune.runs.untrusted_config import OFFERED, check_untrusted_config

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
def test_a_class_of_the_user_is_accepted(target: str, kind: type) -> None:
    check_target({"_target_": target, "anything": 3}, kind, "callbacks.mine")


@pytest.mark.parametrize("target", CODE)
@pytest.mark.parametrize(("kind", "name"), [(pl.Callback, "Callback"), (Logger, "Logger")])
def test_anything_but_a_subclass_is_refused_by_name(
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
def test_a_missing_target_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine") as error:
        check_target({"_target_": target}, pl.Callback, "callbacks.mine")
    assert target in str(error.value)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('half finished')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_module\.Mine: .* cannot be imported: half finished"):
        check_target({"_target_": "broken_module.Mine"}, pl.Callback, "callbacks.mine")


@pytest.mark.parametrize("entry", [{}, {"monitor": "x"}, None, "finetune.callbacks.IoU", ["_target_"], {"_target_": 3}])
def test_an_entry_without_a_target_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine=.*expected settings that include _target_"):
        check_target(entry, pl.Callback, "callbacks.mine")


def own_config(*overrides: str) -> dict[str, Any]:
    """Return the config of an ordinary run."""
    return copy.deepcopy(composed(overrides))


@cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return to_plain_dict(compose("data=synthetic", "output=outputs/mine", *overrides))


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
    ("init_from=hf://user/name@v1",),  # not read by a resumed run
]


@pytest.mark.parametrize("overrides", ORDINARY, ids=" ".join)
def test_the_config_of_an_ordinary_run_is_accepted(overrides: tuple[str, ...]) -> None:
    check_untrusted_config(own_config(*overrides))


def planted(place: str, value: Any) -> dict[str, Any]:
    """Return an ordinary config with one more setting."""
    config = own_config("logger=tensorboard")
    *groups, name = place.split(".")
    inner = config
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[name] = value
    return config


TARGETS: list[tuple[str, Any]] = [
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


def test_a_target_in_a_list_is_refused() -> None:
    config = planted("callbacks.iou.more", [{"a": [{"_target_": "os.system", "_args_": ["touch canary"]}]}])
    with pytest.raises(ConfigError) as error:
        check_untrusted_config(config)
    assert "- callbacks.iou.more.0.a.0._target_=os.system: its code" in str(error.value)
    assert "- callbacks.iou.more.0.a.0._args_=['touch canary']: it changes how" in str(error.value)


def test_a_list_of_callbacks_is_refused() -> None:
    config = {**own_config(), "callbacks": [{"_target_": "finetune.callbacks.IoU"}]}
    with pytest.raises(ConfigError, match=r"callbacks\.0\._target_"):
        check_untrusted_config(config)


OUTSIDE: list[tuple[str, Any]] = [
    *(("logger.tensorboard.save_dir", path) for path in ("/etc", "outputs/other", "outputs/mine/../other")),
    *(("logger.tensorboard.save_dir", path) for path in ("outputs/mine2", "~/.ssh", ".", "src", "a\0b")),
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
]
RECEIVERS: list[tuple[str, Any]] = [
    ("logger.wandb.entity", "somebody"),
    ("logger.wandb.settings", {"base_url": "somewhere.example"}),
    ("logger.comet.api_key", "abc"),
    ("logger.comet.workspace", "somebody"),
    ("logger.lit.teamspace", "somebody"),
    ("trainer.model_registry", "somebody/models"),
]
URLS: list[tuple[str, Any]] = [
    ("logger.ml.tracking_uri", "http://somewhere.example"),
    ("logger.wandb.base_url", "https://somewhere.example"),
    ("backbone.weights", "https://somewhere.example/weights.pth"),
    ("data.root", "s3://bucket/photos"),
    ("data.splits", "\\\\somewhere.example\\share"),
    ("init_from", "http://somewhere.example/model"),
]
HYDRA_KEYWORDS = ("_partial_", "_args_", "_recursive_", "_convert_", "_self_")
REFERENCES = ("${oc.env:HOME}", "a${name}b", "${now:%Y}", "\\${x}")
REFUSED: dict[str, list[tuple[str, Any]]] = {
    "its code would run": TARGETS,
    "it leads out of the run's folder": OUTSIDE,
    "it names who receives": RECEIVERS,
    "it is a URL": URLS,
    "it changes how the code": [
        (f"{group}.{name}", True) for name in HYDRA_KEYWORDS for group in ("callbacks.iou", "optimizer.options")
    ],
    "it is a reference": [(key, text) for text in REFERENCES for key in ("name", "callbacks.iou.table")],
    "it is for Hydra": [("hydra.launcher.n_jobs", 3), ("defaults", 3)],
}


@pytest.mark.parametrize(
    ("reason", "key", "value"), [(reason, *setting) for reason, settings in REFUSED.items() for setting in settings]
)
def test_an_unsafe_setting_is_refused_with_its_reason(reason: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"only if you give them again") as error:
        check_untrusted_config(planted(key, value))
    line = f"- {key}={value}" if str(value).isprintable() else f"- {f'{key}={value}'!r}"
    assert any(text.startswith(line) and reason in text for text in str(error.value).splitlines())


def test_all_refused_settings_are_reported_together() -> None:
    config = planted("callbacks.mine", {"_target_": "os.system", "_partial_": True})
    config["logger"]["tensorboard"]["save_dir"] = "/etc"
    with pytest.raises(ConfigError) as error:
        check_untrusted_config(config)
    assert str(error.value).count("\n- ") == 3


def test_an_error_has_no_control_characters() -> None:
    with pytest.raises(ConfigError) as error:
        check_untrusted_config(planted("callbacks.mine._target_", "os.system\x1b[2J\n"))
    assert "\x1b" not in str(error.value)


def test_overrides_of_the_user_are_followed() -> None:
    config = planted("callbacks.mine", {"_target_": "tests.samples.Breaks", "dirpath": "/elsewhere"})
    check_untrusted_config(config, {"callbacks.mine._target_", "callbacks.mine.dirpath"})
    check_untrusted_config(config, {"callbacks.mine", "callbacks.mine.dirpath"})
    with pytest.raises(ConfigError, match=r"- callbacks\.mine\.dirpath"):
        check_untrusted_config(config, {"callbacks.mine._target_"})


def test_an_override_covers_only_itself() -> None:
    config = planted("callbacks.mine", {"_target_": "tests.samples.Breaks", "inner": {"_target_": "os.system"}})
    for key in ("callbacks", "callbacks.mine", "callbacks.mine._target_", "callbacks.mine.inner.x", "callbacks.other"):
        with pytest.raises(ConfigError, match=r"- callbacks\.mine\.inner\._target_=os\.system"):
            check_untrusted_config(config, {key})


def test_a_key_that_contains_dots_is_not_overridden() -> None:
    config = own_config()
    config["callbacks.mine"] = {"_target_": "os.system"}
    config["callbacks"]["a.b"] = {"_target_": "os.system"}
    config["callbacks"]["a"] = {"b": {"_target_": "finetune.callbacks.IoU"}}
    with pytest.raises(ConfigError) as error:
        check_untrusted_config(config, {"callbacks.mine._target_", "callbacks.a.b._target_"})
    assert str(error.value).count("=os.system: ") == 2


def test_a_list_is_overridden_as_a_unit() -> None:
    config = planted("callbacks.iou.more", [{"_target_": "os.system"}])
    check_untrusted_config(config, {"callbacks.iou.more"})


def test_lists_that_share_lists_are_refused() -> None:
    shared: list[Any] = ["x"]
    for _ in range(60):
        shared = [shared, shared]
    with pytest.raises(ConfigError, match=r"config\.yaml' cannot be read: it holds more than"):
        check_untrusted_config({**own_config(), "more": shared})


def test_only_classes_of_this_toolkit_and_of_lightning_are_offered() -> None:
    assert "finetune.callbacks.IoU" in OFFERED["callbacks"]
    assert "finetune.callbacks.iou.IoU" in OFFERED["callbacks"]
    assert "lightning.pytorch.loggers.WandbLogger" in OFFERED["logger"]
    assert "finetune.callbacks.TrainingInterrupted" not in OFFERED["callbacks"]  # an exception, no callback
    everything = OFFERED["callbacks"] | OFFERED["logger"]
    assert "finetune.engine.loggers.MLflow" in OFFERED["logger"]
    ours = ("finetune.callbacks.", "finetune.engine.loggers.", "lightning.pytorch.")
    assert all(name.startswith(ours) for name in everything)


def written(folder: Path, text: str | dict[str, Any]) -> Path:
    """Return a run folder with a config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return folder


def test_a_moved_run_writes_to_its_new_folder(tmp_path: Path) -> None:
    overrides = ("logger=tensorboard", "+callbacks.keep._target_=lightning.pytorch.callbacks.ModelCheckpoint")
    config = own_config(*overrides, "+callbacks.keep.dirpath=${output}/more")
    moved = read_config(written(tmp_path / "moved", config))
    assert moved["output"] == str(tmp_path / "moved")
    assert moved["logger"]["tensorboard"]["save_dir"] == str(tmp_path / "moved")
    assert moved["callbacks"]["keep"]["dirpath"] == str(tmp_path / "moved" / "more")
    assert {**moved, "output": 0, "logger": 0, "callbacks": 0} == {**config, "output": 0, "logger": 0, "callbacks": 0}
    check_untrusted_config(moved)


@pytest.mark.parametrize("old", ["/", ".", "", "/etc", "outputs/.."])
@pytest.mark.parametrize("place", ["/etc/x", "x", "../x", "outputs/../../x"])
def test_a_false_output_cannot_lead_out_of_the_run(old: str, place: str, tmp_path: Path) -> None:
    config = planted("logger.tensorboard.save_dir", place)
    moved = read_config(written(tmp_path / "run", {**config, "output": old}))
    try:
        check_untrusted_config(moved)
    except ConfigError as error:
        assert "logger.tensorboard.save_dir" in str(error)  # noqa: PT017  # both outcomes are right
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
def test_an_invalid_config_file_is_refused(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"(?s)config\.yaml'.*{reason}"):
        read_config(written(tmp_path / "run", text))
    assert not (tmp_path / "canary").exists()


def test_yaml_aliases_are_read(tmp_path: Path) -> None:
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
    check_untrusted_config(read_config(tmp_path / "latest"))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml' cannot be read: there is no such file"):
        read_config(tmp_path)
    assert os.listdir(tmp_path) == []


def test_data_on_the_hub_is_fetched_only_if_it_is_named_again(tmp_path: Path) -> None:
    config = own_config("data=hf", "data.root=user/photos")
    with pytest.raises(ConfigError, match=r"data\.root=user/photos: it would be downloaded"):
        check_untrusted_config(config)
    check_untrusted_config(config, {"data.root"})
    check_untrusted_config(own_config("data=hf", f"data.root={tmp_path}"))
