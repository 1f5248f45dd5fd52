"""The command `train`: fine-tune a model, or resume a training."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from finetune.builders.checks.trainer import check_length
from finetune.builders.checks.training import check
from finetune.builders.data import build_datamodule, read_at_own_size
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.inspection import file_cache
from finetune.builders.pace import with_budget
from finetune.builders.task import build_task, check_plan_timing
from finetune.builders.trainer import build_trainer, find_callback
from finetune.builders.views import build_views
from finetune.callbacks import ApplyTuningPlan
from finetune.checkpoints.adapters import save_adapters
from finetune.checkpoints.saved_model import save_model
from finetune.commands.auto_search import resolve_auto, save_lr_figure, searched_setting, with_placeholders
from finetune.commands.final_weights import load_best, load_soup
from finetune.commands.scoring import score, write_found
from finetune.config.errors import usage
from finetune.config.nested import select
from finetune.data.augmentation.device_color import with_colors
from finetune.data.module import SegmentationData, collate
from finetune.engine.command_line import command_started
from finetune.engine.fsdp import full_model
from finetune.engine.launcher import check_launcher, end_launched_rank, report_killed_ranks
from finetune.engine.rank_zero import is_first_process
from finetune.instances import from_planes
from finetune.io.atomic_write import replace_text
from finetune.io.messages import html_table
from finetune.metrics.evaluator import summary
from finetune.plots import augmentation_figure
from finetune.plots.objects import object_page
from finetune.reports.evaluation import write_curves, write_rows
from finetune.reports.run_page import run_page
from finetune.reports.training import closing_lines, fast_dev_run_lines
from finetune.reports.tuning import timeline_rows, write_timeline
from finetune.runs.console import configure_logging
from finetune.runs.error_hints import error_hints
from finetune.runs.folder import close_log, mark_finished, open_run_folder
from finetune.runs.prepare import (
    describe_resumption,
    initial_model,
    note_data,
    note_facts,
    resolve_run_config,
    with_splits,
)
from finetune.runs.resume import ResumePoint, resume_hints
from finetune.runs.resumed_config import known_overrides
from finetune.runs.signals import raise_on_signal, shut_down_ranks_on_exit
from finetune.runs.slurm import requeue
from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        folder: the run folder.
        best: checkpoint of the best epoch, without views, calibration or a mean of checkpoints; `folder` has the
            finished model, which `finetune.load` takes.
        score: the best monitored value, `val/iou` unless the config says otherwise.
        scores: name -> value of the best weights on the test split, or on the validation split if there is no test.
    """

    folder: Path
    best: Path
    score: float
    scores: dict[str, float]

    def _repr_html_(self) -> str:
        rows = [("run folder", str(self.folder)), ("best validation score", f"{self.score:.4f}")]
        return html_table([*rows, *((name, f"{value:.4f}") for name, value in self.scores.items())])


@raise_on_signal()
def train(*overrides: str | DictConfig) -> TrainResult:
    """Fine-tune a model, or resume a training that was stopped.

    Args:
        overrides: of `finetune train`, such as `data.root=photos` or `resume=outputs/...`; or one composed config.

    Returns:
        The run folder and the scores. With `trainer.fast_dev_run`, which tries one batch of everything, no files stay.

    Raises:
        ConfigError: with every mistake found, before anything is written.
        TrainingInterrupted: a signal ended the process; everything has been saved.
    """
    configure_logging()
    with usage():
        config, point = resolve_run_config(overrides)
    given = known_overrides(overrides) or []
    if not config["trainer"].get("fast_dev_run"):
        return _train(config, point, given)
    with TemporaryDirectory() as temporary:
        return _train({**config, "output": str(Path(temporary) / "run")}, point, given)


def _train(config: dict[str, Any], point: ResumePoint | None, overrides: Sequence[str]) -> TrainResult:
    """Train, and score and write the model.

    Args:
        config: of the training.
        point: where it resumes; None for a new run.
        overrides: of the command or call; with `resume=auto` among them, the same one resumes a training that a signal
            has ended.
    """
    folder, started = Path(config["output"]), command_started()
    with usage():
        config, searched = with_placeholders(config)
        # a rate that is searched is for the batch that it is searched with
        may_shrink = config["data"]["batch_size"] == "auto" and "optimizer.lr" not in searched
        settles_length = "data.batch_size" not in searched
        config, data = check(config if point is None else with_splits(config, folder), settles_length)
        config, finding = resolve_auto(config, data, searched)
        config, about_budget = with_budget(config, data, started, may_shrink)
        data.reasons = (*data.reasons, *about_budget)
        check_length(config, data)
        pl.seed_everything(config["seed"], verbose=False)
        model, lines = initial_model(config, data, point)
        model.takes_reduced = True
        task = build_task(config, model, data)
        check_plan_timing(task, config, data.sizes()["train"])
        trainer = build_trainer(config, folder, point.step if point else None)
        check_launcher(trainer)
        loaders = build_datamodule(config, data)
        if is_first_process():
            open_run_folder(folder, config, point is not None, overrides)
    try:
        if is_first_process():
            note_data(folder, data.records, point, file_cache(config["data"]))
            if point is None:
                note_facts(folder, config["data"], data)
                _draw_augmentation(data, folder / "plots" / "augmentation.png")
            if finding is not None:
                save_lr_figure(finding, folder / "plots" / "lr_finder.png")
        data.records.clear()  # a gigabyte for a million; the datasets have them in a fifth, which workers share
        lines += [f"{searched_setting(key)}: {select(config, key)} was found" for key in searched]
        for line in (*lines, *(describe_resumption(point, trainer, config) if point is not None else ())):
            logger.info(line)
        with shut_down_ranks_on_exit(trainer), report_killed_ranks(trainer, partial(resume_hints, folder)):
            result = _fit(config, data, task, trainer, loaders, point)
    except BaseException as error:
        if is_first_process():
            kept = () if config["trainer"].get("fast_dev_run") else resume_hints(folder)
            requeued = requeue(error, may_repeat="resume=auto" in overrides)
            for line in (*error_hints(error, config, resumable=bool(kept)), *kept, *requeued):
                error.add_note(line)
        close_log(folder, error)
        raise
    if is_first_process():
        mark_finished(folder)
    close_log(folder)
    end_launched_rank(trainer)
    return result


def _fit(
    config: Mapping[str, Any],
    data: DatasetBundle,
    task: TuningTask,
    trainer: pl.Trainer,
    loaders: SegmentationData,
    point: ResumePoint | None,
) -> TrainResult:
    folder = Path(config["output"])
    logger.info(f"{config['backbone']['name']} with a {config['head']['name']} head, {config['trainer']['precision']}")
    for line in (*data.notes, *data.describe_sizes(), data.describe(), data.describe_classes(), *data.reasons):
        logger.info(line)
    for line in data.all_warnings():
        logger.warning(line)
    checkpoint = point.checkpoint if point is not None else None
    trainer.fit(task, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
    best, monitored = load_best(trainer, task, folder, config["checkpoint"]["monitor"])
    if config.get("soup"):
        monitored = load_soup(trainer, task, loaders, monitored)
    task.model.takes_reduced, task.model.views = False, build_views(config.get("tta") or {})
    if task.model.views is not None:
        logger.info(f"the final scores are those of {task.model.views.describe()} (tta)")
    split = "val" if loaders.test is None or trainer.limit_test_batches == 0 else "test"
    found = score(trainer, task, loaders, split, read_at_own_size(data.datasets[split]))
    scores: dict[str, float] = {}
    model = full_model(task.model)
    if trainer.is_global_zero:
        scores = summary(task.evaluator.compute(found.counts))
        named = {f"{split}/{name}": value for name, value in scores.items()}
        labels = {"ignore_index": data.ignore_index, "mask_values": None, "snap": False}
        labels |= {"instances": None, "divisor": 1} if data.objects is not None else {}
        facts = {name: config["data"].get(name, default) for name, default in labels.items()}
        facts["value_range"] = data.value_range
        if data.objects is not None:
            facts["classes"] = list(data.classes)
        if model.has_lora:
            if model.backbone.weights != "none":  # random ones cannot be had again for the adapters
                save_adapters(folder / "adapters", model, task.trainable_at_any_time(), task.config())
            model.merge_adapters()
        save_model(folder / "model", model, facts, named, task.config())
        write_found(folder / "evaluation" / split, found, task, model, data.datasets[split])
        write_curves(folder)
        _write_timeline(trainer, folder)
        replace_text(folder / "report.html", run_page(folder))
        for line in fast_dev_run_lines(trainer) or closing_lines(config, folder, named, monitored, found.images):
            logger.info(line)
    return TrainResult(best.parent.parent, best, monitored, scores)


def _draw_augmentation(data: DatasetBundle, path: Path) -> None:
    dataset = data.datasets["train"]
    count = min(8, len(dataset))
    samples = [with_colors(collate([dataset[index * len(dataset) // count]])) for index in range(count)]
    pairs = [(sample["image"][0], sample["mask"][0]) for sample in samples]
    if data.objects is not None:
        cells = [[(image, None), (image, from_planes(planes))] for image, planes in pairs]
        rows = [[*left, *right] for left, right in zip_longest(cells[::2], cells[1::2], fillvalue=())]
        path.parent.mkdir(parents=True, exist_ok=True)
        object_page(rows, data.model_classes, ("training images", "their objects"), 220).save(path)
        return
    augmentation_figure(pairs, data.classes, path, data.ignore_index)


def _write_timeline(trainer: pl.Trainer, folder: Path) -> None:
    callback = find_callback(trainer, ApplyTuningPlan)
    if callback is not None and callback.record is not None and callback.record.epochs:
        write_timeline(callback.record, folder / "plots" / "tuning.png")
        write_rows(folder / "plots" / "tuning.csv", timeline_rows(callback.record))
