"""The command `predict`, and `load` for notebooks."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from finetune.builders.post import build_post
from finetune.builders.task import restore_object_output, restore_pixel_output
from finetune.builders.video import build_video
from finetune.builders.views import build_views, use_views
from finetune.checkpoints.hub import download, is_address
from finetune.checkpoints.saved_model import SavedModel, load_models
from finetune.config.compose import load_config, required, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config
from finetune.data import DataError
from finetune.data.images.value_range import ValueRange
from finetune.inference import Predictor
from finetune.inference.files import is_video
from finetune.inference.formats import OBJECT_FORMATS, PREDICTION_FORMATS, check_formats
from finetune.inference.instances import InstancePredictor
from finetune.inference.instances.saving import find_object_names, save_objects
from finetune.inference.saving import find_names, save_predictions
from finetune.inference.video import VideoOptions
from finetune.io.atomic_write import replace_text
from finetune.models import InstanceSegmenter
from finetune.models.blending import AUTO, OVERLAP, SlidingWindow
from finetune.models.views import Views
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new, run_folder
from finetune.runs.saved_config import data_facts

logger = logging.getLogger(__name__)
SETTINGS = "settings.json"  # in the output folder: of which model and with which settings its predictions are


def predict(*overrides: str | DictConfig) -> list[Path]:
    """Write masks of images and videos, or objects of images, and other files that are wanted.

    A folder that was left half-done is completed.

    Args:
        overrides: of `finetune predict`, such as `run=DIR input=photos output=masks`; or one composed config.

    Returns:
        The paths of the masks, or of the files in `objects/`.

    Raises:
        ConfigError: there is no model or no image, or the folder holds something else.
            Or files cannot be read: all of them are named, after all others have been predicted.
    """
    config = load_config(overrides, "predict")
    configure_logging()
    runs = required_paths(config, "run")
    required_paths(config, "input")
    output, write = Path(required(config, "output")), config["write"] or []
    with usage():
        check_formats(write, config["tolerance"], {**PREDICTION_FORMATS, **OBJECT_FORMATS})
        video = build_video(config["video"])
        goes_on = _is_half_done(output, config)
        if not goes_on and (output / SETTINGS).is_file():
            raise ConfigError(
                f"output='{output}' holds predictions with the settings in {SETTINGS}; nothing is ever overwritten. "
                f"Repeat these settings to go on, or name another folder."
            )
        if not goes_on:
            check_new(output)
        options = {key: config[key] for key in OPTIONS}
        predictor = load(runs, post=config.get("post"), **options)
        if isinstance(predictor, Predictor):
            kind, save = "masks", _prepare_masks(predictor, config, video)
        else:
            kind, save = "objects", _prepare_objects(predictor, config, video)
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / SETTINGS, _text(_identity(config)))
    if goes_on:
        logger.info(f"going on with the predictions in '{output}'")
    try:
        written = save(output)
    except DataError as error:
        if not (output / kind).exists():  # not one could be read: nothing stays
            (output / SETTINGS).unlink()
            output.rmdir()
        raise ConfigError(str(error)) from error
    others = [name for name in write if name != kind]
    what = "masks" if kind == "masks" else "files of objects"
    logger.info(f"{len(written):,} {what} in {output / kind}" + f", and {', '.join(others)}" * bool(others))
    return written


def _prepare_masks(predictor: Predictor, config: Config, video: VideoOptions) -> Callable[[Path], list[Path]]:
    """Return what writes masks into a folder."""
    for line in use_views(config["tta"], predictor.models):
        logger.info(line)
    write = config["write"] or []
    names = find_names(predictor, required_paths(config, "input"), write, Path(config["output"]))
    if video.smoothing and not video.sequence and not any(map(is_video, names)):
        raise ConfigError(
            f"video.smoothing={video.smoothing} has no effect: there is no video. Set video.sequence=true if the "
            f"images of a folder are the frames of one."
        )
    return lambda output: save_predictions(predictor, names, output, write, config["tolerance"], video)


def _prepare_objects(predictor: InstancePredictor, config: Config, video: VideoOptions) -> Callable[[Path], list[Path]]:
    """Return what writes objects into a folder.

    Raises:
        ConfigError: settings that change the probabilities of pixels.
    """
    views = build_views({**Views().config(), **{name: value for name, value in config["tta"].items() if value}})
    if unfit := [name for name, given in {"tta": views, "video": video != VideoOptions()}.items() if given]:
        raise ConfigError(f"{unfit[0]}: the model finds objects, and has no probabilities of pixels. Leave it out.")
    write = config["write"] or []
    names = find_object_names(predictor, required_paths(config, "input"), write, Path(config["output"]))
    return lambda output: save_objects(predictor, names, output, write, config["tolerance"])


OPTIONS = ("device", "value_range", "batch_size", "window", "overlap", "threshold")  # of `load`
IDENTITY = ("input", "write", "tolerance", "value_range", "tta", "post", "window", "overlap", "threshold", "video")


# of a model folder, and of a run folder
MODEL_FILES = ("model.safetensors", "config.json")
RUN_FILES = (*(f"model/{name}" for name in MODEL_FILES), "checkpoints/best.ckpt")


def _identity(config: Config) -> dict[str, Any]:
    """Return what makes predictions the same ones; the files of a model at the same path may have changed."""
    paths = required_paths(config, "run")
    runs = [download(path) if is_address(path) else path.resolve() for path in paths]  # by the commit of the former
    files = [
        file for run in runs for file in (run, *(run / name for name in (*MODEL_FILES, *RUN_FILES))) if file.is_file()
    ]
    versions = [[str(file), (status := file.stat()).st_size, status.st_mtime_ns] for file in files]
    return {"run": list(map(str, runs)), "files": versions, **{key: config.get(key) for key in IDENTITY}}


def _is_half_done(output: Path, config: Config) -> bool:
    """Return whether a folder holds predictions of the same model with the same settings."""
    path = output / SETTINGS
    return path.is_file() and path.read_bytes() == _text(_identity(config)).encode()


def _text(identity: Config) -> str:
    return json.dumps(identity, indent=2) + "\n"


def load(
    path: str | Path | Sequence[str | Path],
    device: str | None = None,
    value_range: ValueRange | None = None,
    batch_size: int | None = None,
    post: Config | None = None,
    window: int | Sequence[int] | str | None = AUTO,
    overlap: float = OVERLAP,
    threshold: float | Sequence[float] | None = None,
) -> Predictor | InstancePredictor:
    """Load a model to predict with, from a run folder, a model folder, a checkpoint, or the Hugging Face hub.

    A model that finds objects is an `InstancePredictor`; it has no steps after it, and predicts alone.

    Args:
        path: such as `run.folder`, `outputs/pets/2026-01-31_12-00-00` or `hf://user/name@revision`; a list of them
            gives the mean of their models.
        device: `cpu`, `cuda`, ...; None takes a GPU if there is one.
        value_range: the values that become black and white in images of more than 8 bit; None takes the model's.
        batch_size: images of one size, or windows, that are predicted at a time; None for 1 on a CPU and 8 elsewhere.
        post: steps after the model by name, such as `{"fill_holes": {}, "min_size": {"pixels": 50}}`, in this order.
        window: pixels of a window, one number or height and width; larger images are predicted in windows. `auto` for
            windows of 1024 pixels in images of more than 2048 x 2048; None for whole images.
        overlap: part of a window that the next one covers, too.
        threshold: probability from which a pixel has the second of two classes; for a multi-label model, one number or
            one per class; for a model that finds objects, their least score; None takes the model's.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
    if post is not None and not isinstance(post, Mapping):
        raise ConfigError(
            f"post={post!r}: expected steps with their settings, such as {{'min_size': {{'pixels': 50}}}}."
        )
    saved, *others = load_models(paths)
    value_range, reduce = value_range or trained_range(paths[0], saved), max(m.model.reduce for m in (saved, *others))
    windows = SlidingWindow(window, overlap, reduce)
    if isinstance(saved.model, InstanceSegmenter):
        if others or post:
            what = f"{len(paths)} models predict together" if others else f"post={','.join(post or ())} cleans masks"
            raise ConfigError(f"{what}, but '{paths[0]}' finds objects. Name a single run, without post.")
        shown = restore_object_output(saved.task, saved.model.class_names, threshold)
        least = saved.model.head.min_score
        if threshold is not None and shown.min_score < least:
            raise ConfigError(
                f"threshold={threshold}: the model returns no objects below {least}, the head.min_score of its "
                f"training. Set a higher threshold."
            )
        return InstancePredictor(saved.model, device, shown, value_range, batch_size, windows)
    output = restore_pixel_output(saved.task, saved.model.class_names, threshold)
    further, steps = [other.segmenter for other in others], build_post(post, output)
    return Predictor(saved.segmenter, device, output, value_range, further, batch_size, steps, windows)


def trained_range(path: Path, saved: SavedModel) -> ValueRange | None:
    """Return the value range of a training; a checkpoint does not hold it, but its run folder does."""
    run = run_folder(path)
    facts = saved.data if "value_range" in saved.data or run is None else data_facts(run)
    found: ValueRange | None = facts.get("value_range")
    return found
