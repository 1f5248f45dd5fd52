"""Loggers beside `metrics.csv`, set up so that a training that goes on continues what they show."""

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
NAMES = {"WandbLogger": "id", "MLflow": "key"}  # the setting by which a service knows a run again
TAG = "finetune.run"


def with_run_ids(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    """The loggers' settings with names by which their services know the run again.

    Args:
        entries: by name, each with its `_target_`.
    """
    named = _copied(entries)
    for entry in named.values():
        if (kind := _kind(entry)) in NAMES:
            entry.setdefault(NAMES[kind], _new_name())
        if kind == "WandbLogger":
            entry.setdefault("resume", "allow")
    return named


def for_resumed_run(entries: Mapping[str, Mapping[str, Any] | None], step: int) -> Entries:
    """The settings of a training that goes on: what was logged behind its checkpoint is logged again.

    Args:
        entries: by name, each with its `_target_`.
        step: optimizer steps that lie behind.
    """
    named = _copied(entries)
    for entry in named.values():
        if _kind(entry) == "TensorBoardLogger":
            entry["purge_step"] = step  # it hides what is there from this step on
    return named


def _copied(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    return {name: dict(entry) for name, entry in entries.items() if entry}


def _kind(entry: Mapping[str, Any]) -> str:
    return str(entry.get("_target_", "")).rpartition(".")[2]


def _new_name() -> str:
    return uuid.uuid4().hex[:8]


class MLflow(Logger):
    """Logs to one run of MLflow, which a training that goes on finds again by a tag.

    Lightning's own `MLFlowLogger` makes its store when it is built, on all ranks at once and before the run folder is
    there, and begins a new run each time. MLflow keeps whatever it is told, so a step that it has is not logged again.

    Args:
        experiment_name: the group of runs in MLflow.
        save_dir: folder of the store, `mlflow.db`, and of artifacts, `mlflow/`; made with the first value.
        tracking_uri: of a server, to be used instead of a store in `save_dir`.
        key: the run's tag; a new one if it is left out.

    Raises:
        ModuleNotFoundError: MLflow, or what its store needs, is not installed.
    """

    def __init__(
        self, experiment_name: str, save_dir: str, tracking_uri: str | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        missing = [name for name in ("mlflow", "alembic") if find_spec(name) is None]
        if missing and not (tracking_uri and missing == ["alembic"]):
            raise ModuleNotFoundError(f"no {', '.join(missing)} here: pip install 'finetune-seg[mlflow]'")
        self.experiment_name = experiment_name
        self.folder = Path(save_dir).resolve()
        self.is_remote = bool(tracking_uri)
        self.tracking_uri = tracking_uri or f"sqlite:///{(self.folder / 'mlflow.db').as_posix()}"
        self.key = key or _new_name()
        self._client: Any = None
        self._run = ""
        self._steps: dict[str, int] = {}  # the last one of each metric

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment_name

    @property
    def version(self) -> str:
        """The run's tag; its id is the store's, which only the first rank talks to."""
        return self.key

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values, but for those of steps that the run has already."""
        from mlflow.entities import Metric

        self._connect()
        new, now = [], int(time.time() * 1000)
        for name, value in metrics.items():
            known = re.sub(r"[^\w/. -]", "_", name)  # MLflow refuses other signs
            at = self._steps.get(known, -1) + 1 if step is None else step
            if at > self._steps.get(known, -1):
                new.append(Metric(known, float(value), now, at))
        self._client.log_batch(self._run, metrics=new)
        self._steps |= {metric.key: metric.step for metric in new}

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log settings, but for those that the run has: MLflow takes none twice."""
        from mlflow.entities import Param

        self._connect()
        known = self._client.get_run(self._run).data.params
        settings = vars(params) if isinstance(params, Namespace) else params
        new = [Param(name, str(value)) for name, value in settings.items() if name not in known]
        self._client.log_batch(self._run, params=new)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Tell MLflow how it ended."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")

    def _connect(self) -> None:
        """Find the run, or begin it."""
        if self._client is not None:
            return
        from mlflow import MlflowClient

        self.folder.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(self.tracking_uri)
        experiment = self._experiment(client)
        if found := client.search_runs([experiment], f"tags.`{TAG}` = '{self.key}'"):
            self._run = found[0].info.run_id
            histories = {name: client.get_metric_history(self._run, name) for name in found[0].data.metrics}
            self._steps = {name: max(metric.step for metric in history) for name, history in histories.items()}
            client.update_run(self._run, "RUNNING")
        else:
            self._run = client.create_run(experiment, tags={TAG: self.key}, run_name=self.folder.name).info.run_id
        self._client = client

    def _experiment(self, client: Any) -> str:
        if (found := client.get_experiment_by_name(self.experiment_name)) is not None:
            return str(found.experiment_id)
        # where MLflow would put artifacts otherwise is the folder that the command was given in
        place = None if self.is_remote else (self.folder / "mlflow").as_uri()
        return str(client.create_experiment(self.experiment_name, artifact_location=place))
