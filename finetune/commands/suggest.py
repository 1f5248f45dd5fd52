"""The command `suggest`: choose the images to label next."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from finetune.builders.views import use_views
from finetune.commands.predict import load
from finetune.config.compose import load_config, required, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.config.overrides import typed
from finetune.inference import Predictor
from finetune.inference.files import find_images, output_names
from finetune.inference.problems import raise_problems
from finetune.inference.suggestions import look_at
from finetune.inference.suggestions import suggest as choose
from finetune.io.messages import html_table
from finetune.reports.evaluation import write_rows
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuggestResult:
    """The images to label next.

    Attributes:
        folder: table and links.
        images: path and uncertainty of each, the most useful first.
    """

    folder: Path
    images: tuple[tuple[Path, float], ...]

    def _repr_html_(self) -> str:
        return html_table([("image", "uncertainty"), *((str(path), f"{value:.3f}") for path, value in self.images)])


def suggest(*overrides: str | DictConfig) -> SuggestResult:
    """Choose the images of a pool that are worth labeling next: those that the model is unsure of, and that differ.

    Args:
        overrides: of `finetune suggest`, such as `run=DIR input=POOL output=next`; or one composed config.

    Raises:
        ConfigError: there is no model or no image, or a setting is out of range. Or files cannot be read: all of them
            are named, after the others have been looked at.
    """
    config = load_config(overrides, "suggest")
    configure_logging()
    runs, source = required_paths(config, "run"), required_paths(config, "input")
    folder, count = Path(required(config, "output")), config["count"]
    with usage():
        if type(count) is not int or count < 1:
            raise ConfigError(f"count={count}: expected a number of images, 1 or more.")
        check_new(folder)
        predictor = load(runs, config["device"], config["value_range"], config["batch_size"])
        if not isinstance(predictor, Predictor):
            raise ConfigError(f"'{runs[0]}' finds objects; suggest needs a model that classifies pixels.")
        for line in use_views(config["tta"], predictor.models):
            logger.info(line)
        places, problems = find_images(source), list[str]()
        output_names(places)  # refuses images whose masks would have one name, as `predict` does
    candidates = list(look_at(predictor, places, problems))
    chosen = choose(candidates, count) if candidates else []
    for each in chosen:
        link = folder / "images" / places[each.path]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(each.path.resolve())
    if chosen:
        write_rows(folder / "suggested.csv", [{"image": str(c.path), "uncertainty": c.uncertainty} for c in chosen])
    with usage():
        raise_problems(problems, len(places), f" {len(chosen):,} of the others are in '{folder}'." if chosen else "")
    logger.info(f"{len(chosen):,} of {len(places):,} images to label next: {folder / 'images'}")
    logger.info(
        f"labels to start from: finetune predict {typed('run', runs[0])} {typed('input', folder / 'images')} "
        f"{typed('output', folder / 'labels')} write=[labelme]"
    )
    return SuggestResult(folder, tuple((each.path, each.uncertainty) for each in chosen))
