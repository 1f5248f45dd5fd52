"""The command `report`: the page of a run."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from finetune.config.compose import load_config, required
from finetune.config.errors import ConfigError, usage
from finetune.io.atomic_write import replace_text
from finetune.reports.run_page import run_page
from finetune.runs.console import configure_logging

logger = logging.getLogger(__name__)


def report(*overrides: str | DictConfig) -> Path:
    """Write `report.html` of a run again, with all evaluations that are in its folder by now.

    Args:
        overrides: of `finetune report`, such as `run=DIR`; or one composed config.

    Returns:
        The page.

    Raises:
        ConfigError: there is no such run, or it has not been evaluated.
    """
    config = load_config(overrides, "report")
    configure_logging()
    run = Path(required(config, "run"))
    with usage():
        if not (run / "config.yaml").is_file() or not list(run.glob("evaluation/*/scores.json")):
            raise ConfigError(f"run={run}: expected the folder of a run with an evaluation, as a finished one has.")
        output = Path(config["output"]) if config["output"] else run / "report.html"
        replace_text(output, run_page(run))
    logger.info(f"report {output}")
    return output
