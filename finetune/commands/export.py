"""The command `export`: write a model in another format, and check the files."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from finetune.builders.export_samples import export_samples
from finetune.builders.exporter import build_exporter, check_format
from finetune.builders.task import restore_task
from finetune.checkpoints.hub import push
from finetune.checkpoints.saved_model import load_model
from finetune.config.compose import load_config, required
from finetune.config.errors import ConfigError, usage
from finetune.exporters import Agreement, export_model
from finetune.io.messages import format_bytes
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new, free_folder, run_folder
from finetune.runs.saved_config import read_config
from finetune.tasks import PixelTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        folder: where the files are.
        files: the files.
        agreement: how well the outputs of the files agree with the model's.
    """

    folder: Path
    files: list[Path]
    agreement: Agreement


def export(*overrides: str | DictConfig) -> ExportResult:
    """Write a model in another format and check that the files compute the same.

    Args:
        overrides: of `finetune export`, such as `run=DIR format=onnx`; or one composed config.

    Raises:
        ConfigError: no model there, an unknown format or option, or an output folder that is not empty.
        ExportError: the format cannot hold the model, or the files compute something else.
        HubError: the files, which are kept, cannot be pushed to `repo`.
    """
    config = load_config(overrides, "export")
    configure_logging()
    path = Path(required(config, "run"))
    with usage():
        is_exact = check_format(config)
        if config["output"]:
            check_new(Path(config["output"]))
        saved = load_model(path)
        run = run_folder(path)
        task = restore_task(saved.task, saved.model, saved.data.get("ignore_index", 255))
        if not isinstance(task, PixelTask):
            raise ConfigError(f"task={saved.task['name']} has no export: its model does not classify pixels.")
        trained, splits = (read_config(run), run / "splits.csv") if run is not None and not is_exact else (None, None)
        samples, calibration = export_samples(config, saved, task, trained, splits)
        exporter = build_exporter(config, task.output, calibration)
    folder = Path(config["output"]) if config["output"] else free_folder((run or Path()) / "export" / config["format"])
    if not (is_exact or samples):
        logger.warning("the predictions are compared on random images only; data.root=PHOTOS names real ones")
    files, agreement = export_model(exporter, saved, folder, task, samples)
    for file in files:
        logger.info(f"{file}  {format_bytes(file.stat().st_size)}")
    where = f"{agreement.images:,} images" if samples else "random images"
    logger.info(f"checked on {where}: {agreement}; use it with {exporter.usage(folder)}")
    if config["repo"]:
        logger.info(f"pushed to {push(folder, config['repo'], config['private'])}")
    return ExportResult(folder, files, agreement)
