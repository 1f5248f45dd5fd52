"""Predictions for files, folders and globs of images, at each image's own size."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from finetune.data.files import IMAGE_SUFFIXES
from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange, value_pairs
from finetune.data.records import DataError
from finetune.inference.class_indices import ClassIndices
from finetune.inference.files import (
    VIDEO_SUFFIXES,
    Source,
    find_images,
    is_video,
    natural_order,
    output_names,
    raise_problems,
)
from finetune.inference.finite import NonFiniteOutputError, count_non_finite
from finetune.inference.formats import Predicted, check_video_formats
from finetune.inference.georeference import can_keep, is_georeferenced
from finetune.inference.output import Output, Prediction
from finetune.inference.pipeline import Image, Writer, batches, read_ahead
from finetune.inference.post import PostProcessing
from finetune.inference.prediction_folder import PredictionFolder
from finetune.inference.video import TemporalSmoothing, VideoOptions, save_video
from finetune.inference.windows import Overview, ReadRows, check_large, open_rows, predict_rows, split_large
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow
from finetune.models.ensemble import check_alike, mean_logits

logger = logging.getLogger(__name__)

GPU_BATCH = 8  # images


class Predictor:
    """A model that predicts from files.

    Args:
        model: the network.
        device: where it runs; None takes a GPU if there is one.
        output: how logits become predictions; None for one class per pixel.
        value_range: the values that become black and white in images of more than 8 bit; None refuses such images.
        others: further models with the same classes and channels, whose logits are averaged with the model's.
        batch_size: images of one size, or windows, that are predicted at a time; None for 1 on a CPU and 8 elsewhere.
        post: steps after the model.
        window: in which larger images are predicted; None for that of the model, which has none by default.
    """

    def __init__(
        self,
        model: Segmenter,
        device: str | torch.device | None = None,
        output: Output | None = None,
        value_range: ValueRange | None = None,
        others: Sequence[Segmenter] = (),
        batch_size: int | None = None,
        post: PostProcessing | None = None,
        window: SlidingWindow | None = None,
    ) -> None:
        check_alike((model, *others))
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more.")
        if value_range is not None:
            value_pairs(value_range)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise ValueError(f"device='{device}' is not a device; expected cpu, cuda, cuda:0, mps, ...") from error
        try:
            self.models = [self._placed(each) for each in (model, *others)]
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"device={device} cannot be used: {reason} Set device=cpu, or leave it out.") from error
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else GPU_BATCH)
        self.value_range = value_range
        self.window = window or model.sliding_window
        for each in self.models:
            each.sliding_window = self.window
        self.output = output or ClassIndices(model.class_names)
        self.post = post or PostProcessing()

    @property
    def _channels(self) -> int:
        return self.model.backbone.in_channels

    def _placed(self, model: Segmenter) -> Segmenter:
        return model.eval().to(self.device).to(memory_format=torch.channels_last)

    @property
    def model(self) -> Segmenter:
        """Return the model, the first if there are several."""
        return self.models[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, by index."""
        return self.model.class_names

    def predict_image(self, image: Tensor) -> Tensor:
        """Return the prediction for an image (C, H, W), uint8, on the CPU.

        Returns:
            uint8; class indices (H, W), or masks (K, H, W) of 0 and 1 for a multi-label model.

        Raises:
            NonFiniteOutputError: outputs of the model are NaN or infinite.
        """
        return self.predict_images(image[None])[0]

    def predict_images(self, images: Tensor) -> Tensor:
        """Return the predictions for images (B, C, H, W), uint8, on the CPU; see `predict_image`."""
        return self.predict_with_probabilities(images, False)[0]

    @torch.inference_mode()
    def predict_with_probabilities(self, images: Tensor, wanted: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the predictions for images (B, C, H, W), uint8, and the probabilities (B, K, H, W), on the CPU.

        Args:
            images: uint8.
            wanted: whether to compute the probabilities; otherwise, they are None.
        """
        images = images.to(self.device)
        logits = self.post.refine(self.output, self._logits(images), images)
        probabilities = self.output.probabilities(logits).cpu() if wanted else None
        return self.post.clean(self.output.decode(logits).cpu()), probabilities

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) of images (B, C, H, W), uint8."""
        logits = mean_logits(self.models, images.to(self.device))
        if count_non_finite(logits):
            raise NonFiniteOutputError(
                "the model's outputs are NaN or infinite. Its training diverged: train again with a lower optimizer.lr."
            )
        return logits

    def _predict_rows(self, read: ReadRows, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the prediction of an image a few rows at a time."""
        return predict_rows(self._logits, self.output.decode, read, size, self.window, self.batch_size)

    def predict(self, source: Source) -> dict[Path, Prediction]:
        """Return the predictions for a file, all images below a folder, a glob, or a list of these, by image path.

        Raises:
            DataError: no image there, or files that cannot be read, all of them named.
        """
        paths, problems = list(find_images(source)), list[str]()
        whole, large = split_large(paths, self.window)
        check_large(large, (), self.post)
        images = read_ahead(whole, self.read, problems)
        found = {predicted.path: predicted.prediction for predicted in self._predictions(images)}
        for path, size in large.items():
            with _noting(problems), _named(path, size):
                found[path] = torch.cat(list(self._predict_rows(self._open(path), size)), dim=-2).numpy()
        raise_problems(problems, len(paths), "")
        return {path: found[path] for path in paths}

    def save_predictions(
        self,
        names: Mapping[Path, Path],
        output: Path,
        write: Sequence[str] = (),
        tolerance: float = 0.0,
        video: VideoOptions | None = None,
    ) -> list[Path]:
        """Write predictions to `output/masks`, and other files that are wanted; return the masks' paths.

        Files are read ahead of the model and written behind it. A file has its name only when it is complete, and
        those that are there are not predicted again, so a run that was interrupted can be repeated.

        Args:
            names: image or video -> name of its PNG, of its TIFF with a georeference, or its own, from `find_names`.
            output: folder, created if needed.
            write: formats to write in addition to the masks, from `PREDICTION_FORMATS`.
            tolerance: by which the outlines of labels may be simplified, pixels.
            video: how frames that follow each other are predicted; None predicts each alone.

        Raises:
            DataError: files that cannot be read, all of them named, after all others have been predicted.
        """
        folder, problems = PredictionFolder(output, self.output, write, tolerance), list[str]()
        video = video or VideoOptions()
        missing = {path: name for path, name in names.items() if not folder.has(name)}
        whole, large = split_large([path for path, name in missing.items() if not is_video(name)], self.window)
        check_large(large, [*folder.whole_formats, *(["video.sequence"] if video.sequence else [])], self.post)
        with Writer() as writer:
            for predictor, paths in self._sequences(names, whole, video):
                images = read_ahead(paths, self.read, problems)
                for predicted in predictor._predictions(images, folder.reads_probabilities):
                    writer.call(partial(folder.save, predicted, names[predicted.path]))
        for path, size in large.items():
            with _noting(problems), _named(path, size):
                overview = Overview(path, self._open(path), size)
                folder.save_rows(self._predict_rows(overview.read, size), names[path], size, overview)
        for path, name in missing.items():
            if is_video(name):
                with _noting(problems):
                    save_video(path, name, folder, self._channels, self._for_frames(video)._predictions)
        folder.finish(names)
        raise_problems(problems, len(names), f" The masks of the others are in '{output}'.")
        return [file for name in names.values() for file in folder.masks(name)]

    def find_names(self, source: Source, write: Sequence[str] = ()) -> dict[Path, Path]:
        """Return the images and videos of a file, folder, glob or list of these, with the names of their masks.

        The masks keep the images' places below the folder that `source` names. They are PNGs, and TIFFs for images with
        a georeference, which the masks have then, too. Those of videos have the videos' names.

        Args:
            source: of the images.
            write: formats to write in addition to the masks.

        Raises:
            DataError: no image there, or two images whose files would have one name.
            ValueError: there are videos, and a format for images only.
        """
        images = find_images(source, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        if any(map(is_video, images)):
            check_video_formats(write)
        georeferenced = {path for path in images if is_georeferenced(path)}
        if georeferenced and not can_keep():
            logger.warning(
                f"{len(georeferenced):,} images, such as '{min(georeferenced)}', have a georeference, which their "
                f"masks do not keep without a package that is not installed: pip install 'finetune-seg[geo]'"
            )
        folder = PredictionFolder(Path(), self.output, write)
        return output_names(images, folder.files, georeferenced if can_keep() else ())

    def _sequences(
        self, names: Mapping[Path, Path], missing: Iterable[Path], video: VideoOptions
    ) -> Iterator[tuple["Predictor", list[Path]]]:
        """Yield images that are predicted one after the other, and the predictor for them.

        Frames of a folder depend on those before them, so all are predicted again if one is missing.
        """
        missing = [path for path in missing if not is_video(names[path])]
        if not video.sequence:
            yield self, missing
        for folder in dict.fromkeys(path.parent for path in missing if video.sequence):
            frames = [path for path, name in names.items() if path.parent == folder and not is_video(name)]
            yield self._for_frames(video), sorted(frames, key=natural_order)

    def _for_frames(self, video: VideoOptions) -> "Predictor":
        """Return a predictor with the same models for the frames of one video, in their order."""
        predictor = copy(self)
        if video.smoothing:
            step = TemporalSmoothing(video.smoothing, video.scene_cut)
            predictor.post = self.post.with_score_step("video.smoothing", step)
        return predictor

    def _predictions(self, read: Iterable[Image], probabilities: bool = False) -> Iterator[Predicted]:
        """Yield each image with its prediction."""
        for batch in batches(read, self.batch_size):
            images = torch.stack([image.pixels for image in batch])
            with _named(batch[0].path, (images.shape[2], images.shape[3])):
                predictions, scores = self._predicted(images, probabilities)
            for index, (path, image, time) in enumerate(batch):
                probability = None if scores is None else scores[index].numpy()
                yield Predicted(path, image, predictions[index].numpy(), probability, time)

    def _predicted(self, images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        if probabilities:
            return self.predict_with_probabilities(images)
        return self.predict_image(images[0])[None] if len(images) == 1 else self.predict_images(images), None

    def _open(self, path: Path) -> ReadRows:
        return open_rows(path, self._channels, self.value_range)

    def read(self, path: Path) -> Tensor:
        """Return the image (C, H, W), uint8, of a file."""
        return read_image(path, self._channels, self.value_range)


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Add the error of a file that cannot be read to the problems."""
    try:
        yield
    except DataError as error:
        problems.append(str(error))


@contextmanager
def _named(path: Path, size: tuple[int, int]) -> Iterator[None]:
    """Name the image in errors of its prediction."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise NonFiniteOutputError(f"{path}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip() or type(error).__name__
        raise RuntimeError(
            f"image '{path}' of {size[1]:,} x {size[0]:,} pixels cannot be predicted: {reason}. If the memory is too "
            f"small for it, predict it in smaller windows, such as window=512."
        ) from error
