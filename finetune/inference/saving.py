"""Write the predictions of files, folders and globs of images and videos."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path

from finetune.data.files import IMAGE_SUFFIXES
from finetune.inference.files import VIDEO_SUFFIXES, Source, find_images, is_video, natural_order, output_names, outside
from finetune.inference.formats import check_video_formats
from finetune.inference.georeference import can_keep, is_georeferenced
from finetune.inference.pipeline import Writer, read_ahead
from finetune.inference.prediction_folder import PredictionFolder
from finetune.inference.predictor import Predictor
from finetune.inference.problems import named, noting, raise_problems
from finetune.inference.video import TemporalSmoothing, VideoOptions, save_video
from finetune.inference.windows import Overview, check_large, split_large

logger = logging.getLogger(__name__)


def save_predictions(
    predictor: Predictor,
    names: Mapping[Path, Path],
    output: Path,
    write: Sequence[str] = (),
    tolerance: float = 0.0,
    video: VideoOptions | None = None,
) -> list[Path]:
    """Write predictions to `output/masks`, and other files that are wanted; return the masks' paths.

    Files are read and written in threads while the model computes. A file has its name only when it is complete, and
    those that are there are not predicted again, so a run that was interrupted can be repeated.

    Args:
        predictor: of the model.
        names: image or video -> name of its PNG, of its TIFF with a georeference, or its own, from `find_names`.
        output: folder, created if needed.
        write: formats to write in addition to the masks, from `PREDICTION_FORMATS`.
        tolerance: by which the outlines of labels may be simplified, pixels.
        video: how frames that follow each other are predicted; None predicts each alone.

    Raises:
        DataError: files that cannot be read, all of them named, after all others have been predicted.
    """
    folder, problems = PredictionFolder(output, predictor.output, write, tolerance), list[str]()
    video = video or VideoOptions()
    missing = {path: name for path, name in names.items() if not folder.has(name)}
    whole, large = split_large([path for path, name in missing.items() if not is_video(name)], predictor.window)
    check_large(large, [*folder.whole_formats, *(["video.sequence"] if video.sequence else [])], predictor.post)
    with Writer() as writer:
        for own, paths in _sequences(predictor, names, whole, video):
            images = read_ahead(paths, predictor.read, problems)
            for predicted in own.predictions(images, folder.reads_probabilities):
                writer.call(partial(folder.save, predicted, names[predicted.path]))
    for path, size in large.items():
        with noting(problems), named(path, size):
            overview = Overview(path, predictor.open(path), size)
            folder.save_rows(predictor.predict_rows(overview.read, size), names[path], size, overview)
    for path, name in missing.items():
        if is_video(name):
            with noting(problems):
                save_video(path, name, folder, predictor.channels, _for_frames(predictor, video).predictions)
    folder.finish(names)
    raise_problems(problems, len(names), f" The masks of the others are in '{output}'.")
    return [file for name in names.values() for file in folder.masks(name)]


def find_names(
    predictor: Predictor, source: Source, write: Sequence[str] = (), output: Path | None = None
) -> dict[Path, Path]:
    """Return the images and videos of a file, folder, glob or list of these, with the names of their masks.

    The masks keep the images' places below the folder that `source` names. They are PNGs, and TIFFs for images with
    a georeference, which the masks have then, too. Those of videos have the videos' names.

    Args:
        predictor: of the model.
        source: of the images.
        write: formats to write in addition to the masks.
        output: folder of the predictions, in which nothing is looked for.

    Raises:
        DataError: no image there, or two images whose files would have one name.
        ValueError: there are videos, and a format for images only.
    """
    images = outside(output, find_images(source, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)))
    if any(map(is_video, images)):
        check_video_formats(write)
    georeferenced = {path for path in images if is_georeferenced(path)}
    if georeferenced and not can_keep():
        logger.warning(
            f"{len(georeferenced):,} images, such as '{min(georeferenced)}', have a georeference, which their "
            f"masks do not keep without a package that is not installed: pip install 'finetune-seg[geo]'"
        )
    folder = PredictionFolder(Path(), predictor.output, write)
    return output_names(images, folder.own_names, georeferenced if can_keep() else ())


def _sequences(
    predictor: Predictor, names: Mapping[Path, Path], missing: Sequence[Path], video: VideoOptions
) -> Iterator[tuple[Predictor, list[Path]]]:
    """Yield images that are predicted one after the other, and the predictor for them.

    Frames of a folder depend on those before them, so all are predicted again if one is missing.
    """
    if not video.sequence:
        yield predictor, list(missing)
    for folder in dict.fromkeys(path.parent for path in missing if video.sequence):
        frames = [path for path, name in names.items() if path.parent == folder and not is_video(name)]
        yield _for_frames(predictor, video), sorted(frames, key=natural_order)


def _for_frames(predictor: Predictor, video: VideoOptions) -> Predictor:
    """Return a predictor with the same models for the frames of one video, in their order."""
    own = copy(predictor)
    if video.smoothing:
        step = TemporalSmoothing(video.smoothing, video.scene_cut)
        own.post = predictor.post.with_score_step("video.smoothing", step)
    return own
