"""The command `export`: write a model in another format, and check the files."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from finetune.checkpoints.saved_model import load_model
from finetune.config.compose import load_config, required
from finetune.config.errors import ConfigError, usage
from finetune.exporters import EXPORTERS, Agreement, export_model
from finetune.io.messages import format_bytes, suggest
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new, free_folder, run_folder

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
        overrides: of `finetune export`, such as `run=DIR format=timm`; or one composed config.

    Raises:
        ConfigError: no model there, an unknown format, or an output folder that is not empty.
        ExportError: the files compute something else.
    """
    config = load_config(overrides, "export")
    configure_logging()
    path = Path(required(config, "run"))
    if config["format"] not in EXPORTERS:
        raise ConfigError(f"unknown format '{config['format']}'. {suggest(str(config['format']), EXPORTERS)}")
    with usage():
        if config["output"]:
            check_new(Path(config["output"]))
        saved = load_model(path)
    default = (run_folder(path) or Path()) / "export" / config["format"]
    folder = Path(config["output"]) if config["output"] else free_folder(default)
    exporter = EXPORTERS[config["format"]]()
    files, agreement = export_model(exporter, saved, folder)
    for file in files:
        logger.info(f"{file}  {format_bytes(file.stat().st_size)}")
    logger.info(f"checked on random images: {agreement}; load it with {exporter.usage(folder)}")
    return ExportResult(folder, files, agreement)
