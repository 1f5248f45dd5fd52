"""Settings of loggers, and what their services show of a training that was killed and resumed."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.utilities import rank_zero_only

from finetune.engine.loggers import MLflow, for_resumed_run, with_run_ids
from tests.samples import SYNTHETIC, clean_environment

TENSORBOARD = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "runs"}
WANDB = {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "pets"}
MLFLOW = {"_target_": "finetune.engine.loggers.MLflow", "experiment_name": "pets", "save_dir": "runs"}
Points = list[tuple[int, float]]


def test_a_wandb_run_is_found_again_by_its_id() -> None:
    first, second = (with_run_ids({"wandb": WANDB})["wandb"] for _ in range(2))
    assert first["resume"] == "allow"
    assert first["id"] != second["id"]
    assert with_run_ids({"wandb": {**WANDB, "id": "mine"}})["wandb"]["id"] == "mine"
    assert "id" not in WANDB


def test_an_mlflow_run_is_found_again_by_its_key() -> None:
    first, second = (with_run_ids({"mlflow": MLFLOW})["mlflow"] for _ in range(2))
    assert first["key"] != second["key"]
    assert with_run_ids({"mlflow": first})["mlflow"] == first
    assert with_run_ids({"t": TENSORBOARD}) == {"t": TENSORBOARD}


def test_a_removed_logger_is_skipped() -> None:
    assert with_run_ids({"wandb": None}) == for_resumed_run({"wandb": None}, 3) == {}


def test_tensorboard_hides_steps_after_the_checkpoint() -> None:
    assert for_resumed_run({"t": TENSORBOARD, "w": WANDB}, 7) == {"t": {**TENSORBOARD, "purge_step": 7}, "w": WANDB}


class FakeClient:
    """The part of `mlflow.MlflowClient` that the logger uses; all clients of one address share their runs."""

    stores: dict[str, dict[str, Any]] = {}

    def __init__(self, address: str) -> None:
        self.runs = self.stores.setdefault(address, {})

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        return name

    def search_runs(self, experiments: list[str], wanted: str) -> list[Any]:
        return [
            run for run in self.runs.values() if f"tags.`finetune.run` = '{run.data.tags['finetune.run']}'" == wanted
        ]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run {len(self.runs)}", status="RUNNING", experiment_id=experiment)
        data = SimpleNamespace(tags=tags, params={}, metrics={}, history=[])
        return self.runs.setdefault(info.run_id, SimpleNamespace(info=info, data=data))

    def get_run(self, name: str) -> Any:
        return self.runs[name]

    def log_batch(self, name: str, metrics: Any = (), params: Any = ()) -> None:
        data = self.runs[name].data
        data.history += metrics
        data.metrics |= {metric.key: metric.value for metric in metrics}
        assert not {param.key for param in params} & set(data.params)
        data.params |= {param.key: param.value for param in params}

    def get_metric_history(self, name: str, key: str) -> list[Any]:
        return [metric for metric in self.runs[name].data.history if metric.key == key]

    def update_run(self, name: str, status: str) -> None:
        self.runs[name].info.status = status

    set_terminated = update_run


def fake_module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(content)
    return module


@pytest.fixture(params=["fake", "real"])
def mlflow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a fake MLflow, and the real one if it is installed."""
    if request.param == "real":
        pytest.importorskip("alembic", reason="the real MLflow: pip install 'finetune-seg[mlflow]'")
        yield pytest.importorskip("mlflow", reason="the real MLflow: pip install 'finetune-seg[mlflow]'")
        return
    metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # noqa: E731
    param = lambda key, value: SimpleNamespace(key=key, value=value)  # noqa: E731
    monkeypatch.setattr(FakeClient, "stores", {})
    monkeypatch.setitem(sys.modules, "alembic", fake_module("alembic"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake_module("mlflow.entities", Metric=metric, Param=param))
    fake = fake_module("mlflow", MlflowClient=FakeClient)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    yield fake


def stored(module: Any, folder: Path, key: str) -> Any:
    """Return the one run with a tag, and a function that returns the points of a metric."""
    client = module.MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("pets")
    (run,) = client.search_runs([experiment.experiment_id if experiment else "pets"], f"tags.`finetune.run` = '{key}'")
    return run, lambda name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def test_mlflow_continues_the_same_run_and_logs_no_step_twice(mlflow: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = MLflow("pets", str(folder), key="a")
    first.log_metrics({"val/loss": 3.0, "epoch": 0}, 1)
    first.log_metrics({"train/loss": 4.0, "epoch": 0}, 1)
    first.log_metrics({"val/loss": 2.0, "epoch": 1}, 3)  # then it is killed
    assert stored(mlflow, folder, "a")[0].info.status == "RUNNING"
    second = MLflow("pets", str(folder), key="a")
    second.log_metrics({"val/loss": 2.5, "epoch": 1}, 3)
    second.log_metrics({"train/loss": 3.5, "epoch": 1}, 3)
    second.log_metrics({"val/loss": 1.0, "epoch": 2}, 5)
    second.finalize("success")
    MLflow("pets", str(folder), key="b").log_metrics({"val/loss": 9.0}, 1)
    run, points = stored(mlflow, folder, "a")
    assert run.info.status == "FINISHED"
    assert points("val/loss") == [(1, 3), (3, 2), (5, 1)]
    assert points("train/loss") == [(1, 4), (3, 3.5)]
    assert points("epoch") == [(1, 0), (3, 1), (5, 2)]


def test_a_failed_mlflow_run_is_set_to_running_again(mlflow: Any, tmp_path: Path) -> None:
    for status, shown in (("failed", "FAILED"), ("success", "FINISHED")):
        logger = MLflow("pets", str(tmp_path), key="a")
        logger.log_hyperparams({"lr": 0.1})
        assert stored(mlflow, tmp_path, "a")[0].info.status == "RUNNING"
        logger.finalize(status)
        assert stored(mlflow, tmp_path, "a")[0].info.status == shown
    assert stored(mlflow, tmp_path, "a")[0].data.params == {"lr": "0.1"}


def test_mlflow_gets_valid_names_and_counted_steps(mlflow: Any, tmp_path: Path) -> None:
    logger = MLflow("pets", str(tmp_path), key="a")
    for value in (0.5, float("nan")):
        logger.log_metrics({"val/iou/grün (nass)": value})
    assert [step for step, _ in stored(mlflow, tmp_path, "a")[1]("val/iou/grün _nass_")] == [0, 1]


def test_mlflow_writes_nothing_before_the_first_value(mlflow: Any, tmp_path: Path) -> None:
    logger = MLflow("pets", str(tmp_path / "run"))
    logger.finalize("failed")
    assert (logger.name, len(logger.version)) == ("pets", 8)
    assert list(tmp_path.iterdir()) == []


def test_only_rank_zero_logs_to_mlflow(mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = MLflow("pets", str(tmp_path / "run"))
    logger.log_metrics({"val/loss": 1.0}, 1)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_of_mlflow_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "finetune.engine.loggers.find_spec", lambda name: None if name == "alembic" else ModuleSpec(name, None)
    )
    with pytest.raises(
        ModuleNotFoundError, match=r"logger=mlflow needs alembic, not installed: pip install 'finetune-seg\[mlflow\]'"
    ):
        MLflow("pets", str(tmp_path))
    assert MLflow("pets", str(tmp_path), "http://localhost:5000").tracking_uri == "http://localhost:5000"


class Kill(pl.Callback):
    """Kills the process in its second epoch: when a step starts, or after the validation before the epoch is saved."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.number == signal.SIGTERM and trainer.global_step == 3:
            os.kill(os.getpid(), self.number)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.number == signal.SIGKILL and trainer.current_epoch == 1:
            os.kill(os.getpid(), self.number)


def finetune(*overrides: str, cwd: Path) -> int:
    environment = clean_environment(WANDB_MODE="offline", PYTHONPATH=str(Path(__file__).parents[2]))
    return subprocess.run(
        [sys.executable, "-m", "finetune", *overrides], cwd=cwd, env=environment, timeout=600
    ).returncode


def killed_and_resumed(folder: Path, logger: str, number: int) -> Path:
    """Return a run of three epochs that was killed in its second one and resumed in another process."""
    stop = ("+callbacks.stop._target_=tests.engine.test_loggers.Kill", f"+callbacks.stop.number={int(number)}")
    overrides = (*SYNTHETIC, "trainer.max_epochs=3", "checkpoint.every_n_steps=1", "callbacks.preview=null")
    assert finetune("train", *overrides, f"logger={logger}", f"output={folder}", *stop, cwd=folder.parent) in (-9, 143)
    assert finetune("train", f"resume={folder}", "+callbacks.stop=null", cwd=folder.parent) == 0
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}
    return folder


def rows(folder: Path, name: str) -> Points:
    """Return the points in `metrics.csv`, which are those of an uninterrupted run; loggers count steps from 0."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]) - 1, pytest.approx(float(row[name]), rel=1e-5)) for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_tensorboard_shows_a_killed_run_as_one(number: int, tmp_path: Path) -> None:
    name = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(name, reason="pip install 'finetune-seg[tensorboard]'")
    folder = killed_and_resumed(tmp_path / "run", "tensorboard", number)
    shown = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    for metric in ("train/loss", "val/loss"):
        assert [(event.step, event.value) for event in shown.Scalars(metric)] == rows(folder, metric)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mlflow_shows_a_killed_run_as_one(number: int, tmp_path: Path) -> None:
    pytest.importorskip("alembic", reason="pip install 'finetune-seg[mlflow]'")
    module = pytest.importorskip("mlflow", reason="pip install 'finetune-seg[mlflow]'")
    folder = killed_and_resumed(tmp_path / "run", "mlflow", number)
    client = module.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("run").experiment_id])
    assert run.info.status == "FINISHED"
    for metric in ("train/loss", "val/loss"):
        history = client.get_metric_history(run.info.run_id, metric)
        assert [(point.step, point.value) for point in history] == rows(folder, metric)


@pytest.mark.slow
def test_wandb_gets_a_stopped_run_as_one(tmp_path: Path) -> None:
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="pip install 'finetune-seg[wandb]'")
    folder = killed_and_resumed(tmp_path / "run", "wandb", signal.SIGTERM)
    runs = [list(wandb_records(path, records.Record)) for path in sorted(folder.glob("wandb/*run-*/*.wandb"))]
    names = [{record.run.run_id for record in part if record.WhichOneof("record_type") == "run"} for part in runs]
    assert len(names) == 2
    assert names[0] == names[1]
    histories = [record.history for part in runs for record in part if record.WhichOneof("record_type") == "history"]
    points = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in h.item} for h in histories
    ]
    for metric in ("train/loss", "val/loss"):
        found = [(point["trainer/global_step"], point[metric]) for point in points if metric in point]
        assert found == rows(folder, metric)


def wandb_records(path: Path, record: Any) -> Iterator[Any]:
    """Read the records of an offline W&B file: a log in the format of LevelDB, in blocks of 32 KiB."""
    data, at, content = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        content += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole record, or its last part
            yield record.FromString(content)
            content = b""
