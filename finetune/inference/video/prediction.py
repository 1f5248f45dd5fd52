"""Predict a video: frames are read and written while the model computes."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from finetune.data.records import DataError
from finetune.inference.formats import Predicted
from finetune.inference.pipeline import Image, Writer, ahead
from finetune.inference.prediction_folder import PredictionFolder
from finetune.inference.video.reading import VideoReader, import_av
from finetune.inference.video.writing import VideoWriter

logger = logging.getLogger(__name__)

INCOMPLETE = ".incomplete"  # in the names of videos whose source is broken


def save_video(
    path: Path,
    name: Path,
    folder: PredictionFolder,
    channels: int,
    predict: Callable[[Iterable[Image]], Iterator[Predicted]],
) -> None:
    """Write the videos of a video's predictions, and give them their names when all are complete.

    Args:
        path: of the video.
        name: of its predictions.
        folder: of all predictions.
        channels: of the frames.
        predict: predicts frames in their order.

    Raises:
        DataError: the video cannot be read, or not to its end. Predictions of what could be read are in files of their
            own, so the same command tries again.
    """
    start, av = perf_counter(), import_av(path)
    try:
        with VideoReader(path, channels) as reader:
            writers = [VideoWriter(file, path) for file in folder.unfinished(name)]
            with closing(ahead(reader.frames())) as frames, Writer(threads=1) as behind:
                for predicted in predict(frames):
                    behind.call(partial(_write, writers, folder, predicted))
            problem = reader.problem()
            for writer in writers if reader.count else ():
                writer.close()
    except av.FFmpegError as error:
        raise DataError(f"video '{path}' cannot be predicted: {error.strerror}.") from error
    if reader.count:
        folder.publish(name, INCOMPLETE if problem else "")
        logger.info(f"'{path}': {describe_speed(reader.count, reader.seconds, perf_counter() - start)}")
    if problem:
        raise DataError(problem)


def _write(writers: Sequence[VideoWriter], folder: PredictionFolder, predicted: Predicted) -> None:
    for writer, pixels in zip(writers, folder.frames(predicted), strict=True):
        writer.write(pixels, predicted.time)


def describe_speed(count: int, seconds: float, took: float) -> str:
    """Return how fast a video was predicted.

    >>> describe_speed(75, 3.0, 12.0)
    '75 frames (3.0 s) in 12.0 s: 6.2 frames/s, 0.25 x real time'
    """
    speed = seconds / took
    return f"{count:,} frames ({seconds:.1f} s) in {took:.1f} s: {count / took:.1f} frames/s, {speed:.2f} x real time"
