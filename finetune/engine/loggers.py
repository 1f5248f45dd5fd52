"""Loggers in addition to `metrics.csv`, configured so that a resumed training continues the same logger run."""

import re
import time
import uuid
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["MLflow", "for_resumed_run", "with_run_ids"]

Entries = dict[str, dict[str, Any]]
RUN_ID_SETTINGS = {"WandbLogger": "id", "MLflow": "key"}  # the setting by which a service finds a run again
RUN_TAG = "finetune.run"


def with_run_ids(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    """Return the loggers' settings with ids by which their services find the run again on resume.

    Args:
        entries: by name, each with its `_target_`.
    """
    named = _copied(entries)
    for entry in named.values():
        if (logger := _class_name(entry)) in RUN_ID_SETTINGS:
            entry.setdefault(RUN_ID_SETTINGS[logger], _new_id())
        if logger == "WandbLogger":
            entry.setdefault("resume", "allow")
    return named


def for_resumed_run(entries: Mapping[str, Mapping[str, Any] | None], step: int) -> Entries:
    """Return the loggers' settings for a resumed training, which logs the steps after its checkpoint again.

    Args:
        entries: by name, each with its `_target_`.
        step: optimizer steps of the checkpoint.
    """
    named = _copied(entries)
    for entry in named.values():
        if _class_name(entry) == "TensorBoardLogger":
            entry["purge_step"] = step  # hides what was logged from this step on
    return named


def _copied(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    if wrong := {name: entry for name, entry in entries.items() if not isinstance(entry, Mapping | None)}:
        raise ValueError(f"logger={wrong}: expected settings that include _target_, the name of a class.")
    return {name: dict(entry) for name, entry in entries.items() if entry}


def _class_name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("_target_", "")).rpartition(".")[2]


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


class MLflow(Logger):
    """A logger that writes to one MLflow run, which a resumed training finds again by a tag.

    Lightning's `MLFlowLogger` creates its store in the constructor, on all ranks at once and before the run folder
    exists, and starts a new run each time. MLflow cannot overwrite a value, so steps that it has are not logged again.

    Args:
        experiment_name: name of the experiment, which groups runs in MLflow.
        save_dir: folder of the store, `mlflow.db`, and of artifacts, `mlflow/`; created with the first value.
        tracking_uri: address of a server to use instead of a store in `save_dir`.
        key: value of the run's tag; None for a new one.

    Raises:
        ModuleNotFoundError: MLflow or a package that its store needs is not installed.
    """

    def __init__(
        self, experiment_name: str, save_dir: str, tracking_uri: str | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        missing = [name for name in ("mlflow", "alembic") if find_spec(name) is None]
        if missing and not (tracking_uri and missing == ["alembic"]):
            raise ModuleNotFoundError(
                f"logger=mlflow needs {', '.join(missing)}, not installed: pip install 'finetune-seg[mlflow]'"
            )
        self.experiment_name = experiment_name
        self.folder = Path(save_dir).resolve()
        self.is_remote = bool(tracking_uri)
        self.tracking_uri = tracking_uri or f"sqlite:///{(self.folder / 'mlflow.db').as_posix()}"
        self.key = key or _new_id()
        self._client: Any = None
        self._run = ""
        self._steps: dict[str, int] = {}  # last step of each metric

    @property
    def name(self) -> str:
        """Return the name of the experiment."""
        return self.experiment_name

    @property
    def version(self) -> str:
        """Return the value of the run's tag; the run's id is in the store, to which only rank 0 connects."""
        return self.key

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values, except for steps that the run already has."""
        from mlflow.entities import Metric

        self._connect()
        new, now = [], int(time.time() * 1000)
        for name, value in metrics.items():
            accepted = re.sub(r"[^\w/. -]", "_", name)  # MLflow rejects other characters
            last = self._steps.get(accepted, -1)
            at = last + 1 if step is None else step
            if at > last:
                new.append(Metric(accepted, float(value), now, at))
        self._client.log_batch(self._run, metrics=new)
        self._steps |= {metric.key: metric.step for metric in new}

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log settings, except for those that the run already has, which MLflow would reject."""
        from mlflow.entities import Param

        self._connect()
        known = self._client.get_run(self._run).data.params
        settings = vars(params) if isinstance(params, Namespace) else params
        new = [Param(name, str(value)) for name, value in settings.items() if name not in known]
        self._client.log_batch(self._run, params=new)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Set the status of the run."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")

    def _connect(self) -> None:
        """Find the run, or create it."""
        if self._client is not None:
            return
        from mlflow import MlflowClient

        self.folder.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(self.tracking_uri)
        experiment = self._experiment(client)
        if runs := client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self.key}'"):
            self._run = runs[0].info.run_id
            histories = {name: client.get_metric_history(self._run, name) for name in runs[0].data.metrics}
            self._steps = {name: max(metric.step for metric in history) for name, history in histories.items()}
            client.update_run(self._run, "RUNNING")
        else:
            self._run = client.create_run(experiment, tags={RUN_TAG: self.key}, run_name=self.folder.name).info.run_id
        self._client = client

    def _experiment(self, client: Any) -> str:
        if (experiment := client.get_experiment_by_name(self.experiment_name)) is not None:
            return str(experiment.experiment_id)
        # MLflow's default for artifacts is the current folder
        artifacts = None if self.is_remote else (self.folder / "mlflow").as_uri()
        return str(client.create_experiment(self.experiment_name, artifact_location=artifacts))
