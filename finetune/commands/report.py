"""The command `report`: the page of a run, of a comparison of runs, or of the wrong labels that the folds found."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from finetune.config.compose import load_config, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config
from finetune.config.overrides import typed
from finetune.io.atomic_write import replace_text
from finetune.reports.comparison import FILE, on_common_images, read_overlaps
from finetune.reports.comparison_page import comparison_page
from finetune.reports.evaluation import write_rows
from finetune.reports.fold_label_errors import PAGE, join_label_errors, label_errors_page
from finetune.reports.run_page import run_page
from finetune.runs.console import configure_logging

logger = logging.getLogger(__name__)


def report(*overrides: str | DictConfig) -> Path:
    """Write `report.html` of a run again, with all evaluations that are in its folder by now; or compare runs.

    Args:
        overrides: of `finetune report`, such as `run=DIR`; or one composed config. Several runs, `run=[A,B]`, are
            compared on the images that all of them were evaluated on; with `label_errors=50`, the labels that runs of
            different folds contradict are ranked together.

    Returns:
        The page.

    Raises:
        ConfigError: there is no such run, it has not been evaluated, or the runs cannot be compared.
    """
    config = load_config(overrides, "report")
    configure_logging()
    runs = required_paths(config, "run")
    with usage():
        for run in runs:
            if not (run / "config.yaml").is_file() or not list(run.glob("evaluation/*/scores.json")):
                raise ConfigError(f"run={run}: expected the folder of a run with an evaluation, as a finished one has.")
        name = PAGE if config["label_errors"] else "report.html" if len(runs) == 1 else "comparison.html"
        output = Path(config["output"]) if config["output"] else runs[0] / name
        if config["label_errors"]:
            content = _label_errors(runs, config, output.with_suffix(".csv"))
        else:
            content = run_page(runs[0]) if len(runs) == 1 else _comparison(runs, config["split"])
        replace_text(output, content)
    logger.info(f"report {output}")
    return output


def _label_errors(runs: list[Path], config: Config, table: Path) -> str:
    """Write the table of all images that the runs evaluated, and return the page with the first of them."""
    count = config["label_errors"]
    if type(count) is not int or count < 0:
        raise ConfigError(f"label_errors={count}: expected a number of images, 0 for none.")
    rows = join_label_errors(runs, config["split"] or "val")
    write_rows(table, rows)
    logger.info(f"{len(rows):,} images of {len(runs)} runs, the most doubtful first: {table}")
    return label_errors_page(rows, count)


def _comparison(runs: list[Path], split: str | None) -> str:
    """Return the page of several runs.

    Args:
        runs: folders.
        split: folder below `evaluation/`; None takes test or, if a run has none, val.

    Raises:
        ConfigError: there is no such evaluation of all runs.
    """
    wanted = ("test", "val") if split is None else (split,)
    common = [name for name in wanted if all((run / "evaluation" / name / FILE).is_file() for run in runs)]
    if not common and any((run / "evaluation" / wanted[0] / "examples.png").is_file() for run in runs):
        raise ConfigError("only runs that classify pixels are compared, and one finds objects: read its report.html.")
    if not common:
        missing = next(run for run in runs if not (run / "evaluation" / wanted[0] / FILE).is_file())
        raise ConfigError(
            f"the runs have no evaluation on {' or '.join(wanted)} in common: '{missing}' lacks evaluation/{wanted[0]}/"
            f"{FILE}. Evaluate it: finetune evaluate {typed('run', missing)} split={wanted[0]}"
        )
    logger.info(f"compared by evaluation/{common[0]}/ of each run")
    return comparison_page(
        on_common_images([read_overlaps(run / "evaluation" / common[0] / FILE, str(run)) for run in runs])
    )
