"""The command `export`: write a model in another format, and check the files."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from finetune.builders.export_samples import export_samples
from finetune.builders.exporter import build_exporter, check_format, check_format_of
from finetune.builders.task import restore_output
from finetune.checkpoints.hub import push
from finetune.checkpoints.saved_model import SavedModel, load_model
from finetune.config.compose import load_config, required
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config
from finetune.exporters import Agreement, export_model
from finetune.exporters.exporter import Samples
from finetune.exporters.metadata import metadata
from finetune.io.messages import format_bytes
from finetune.models import InstanceSegmenter
from finetune.models.input_size import check_size
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_output, output_folder, run_folder
from finetune.runs.saved_config import data_facts, read_config
from finetune.tasks import PixelTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        folder: where the files are.
        files: the files.
        agreement: how well the outputs of the files agree with the model's; in words for objects.
    """

    folder: Path
    files: list[Path]
    agreement: Agreement | str


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
        same_weights = check_format(config)
        check_output(config["output"])
        saved = load_model(path)
        check_format_of(saved.model, config)
        run = run_folder(path)
        if run is not None and not saved.data:
            saved = replace(saved, data=data_facts(run))
        trained, splits = (None, None) if run is None or same_weights else (read_config(run), run / "splits.csv")
        task, samples, calibration = export_samples(config, saved, trained, splits)
        exporter = None if _is_objects_file(config, saved) else build_exporter(config, task.output, calibration)
    folder = output_folder(config["output"], (run or Path()) / "export" / config["format"])
    if not (same_weights or samples):
        logger.warning("the predictions are compared on random images only; data.root=PHOTOS names real ones")
    if exporter is None:
        result = _export_objects(config, saved, folder, samples)
        checked = f"checked: {result.agreement}; docs/export.md says how to use it"
    else:
        pixels = (task, samples) if isinstance(task, PixelTask) else (None, ())
        files, agreement = export_model(exporter, saved, folder, *pixels)
        result = ExportResult(folder, files, agreement)
        where = "random images" if agreement.is_random else f"{agreement.images:,} images"
        checked = f"checked on {where}: {agreement}; use it with {exporter.usage(folder)}"
    for file in result.files:
        logger.info(f"{file}  {format_bytes(file.stat().st_size)}")
    logger.info(checked)
    if config["repo"]:
        logger.info(f"pushed to {push(folder, config['repo'], config['private'])}")
    return result


def _is_objects_file(config: Config, saved: SavedModel) -> bool:
    return config["format"] == "onnx" and isinstance(saved.model, InstanceSegmenter)


def _export_objects(config: Config, saved: SavedModel, folder: Path, samples: Samples) -> ExportResult:
    """Write an ONNX file of a model of objects, and return how well it agrees with the model."""
    from finetune.exporters.instance_onnx import export_instances

    assert isinstance(saved.model, InstanceSegmenter)
    for key, only in (("precision", "float32"), ("outputs", "objects")):
        if config[key] not in (None, only):
            raise ConfigError(f"{key}={config[key]}: an ONNX file of objects has {only} only. Leave it out.")
    if config["size"] is not None:
        with usage():
            check_size(config["size"], "size")
    saved.model.merge_adapters()
    was_there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    output = restore_output(saved.task, saved.model.class_names)
    facts = metadata(saved, output, config["size"], "float32", "objects")
    path, images = folder / "model.onnx", (image for image, _ in samples)
    try:
        with usage():
            agreement = export_instances(saved.model, path, config["nms"] or "inside", config["size"], images, facts)
    except BaseException:
        if not was_there:
            folder.rmdir()
        raise
    return ExportResult(folder, [path], agreement)
