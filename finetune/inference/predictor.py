"""Predictions for a file, a folder or a glob of images, at each image's own size."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange, value_pairs
from finetune.inference.class_indices import ClassIndices
from finetune.inference.files import GEOREFERENCED, find_images, output_names, raise_problems
from finetune.inference.finite import NonFiniteOutputError, count_non_finite
from finetune.inference.georeference import can_keep, copy_georeference, is_georeferenced
from finetune.inference.output import Output, Prediction
from finetune.inference.pipeline import Writer, batches, read_ahead
from finetune.models import Segmenter
from finetune.models.ensemble import check_alike, mean_logits

logger = logging.getLogger(__name__)

GPU_BATCH = 8  # images
UNFINISHED = ".unfinished"  # folder of files that are being written


class Predictor:
    """A model that predicts from files.

    Args:
        model: the network.
        device: where it runs; None takes a GPU if there is one.
        output: how logits become predictions; None for one class per pixel.
        value_range: the values that become black and white in images of more than 8 bit; None refuses such images.
        others: further models with the same classes and channels, whose logits are averaged with the model's.
        batch_size: images of one size that are predicted at a time; None for 1 on a CPU and 8 elsewhere.
    """

    def __init__(
        self,
        model: Segmenter,
        device: str | torch.device | None = None,
        output: Output | None = None,
        value_range: ValueRange | None = None,
        others: Sequence[Segmenter] = (),
        batch_size: int | None = None,
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
        self.output = output or ClassIndices(model.class_names)

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

    @torch.inference_mode()
    def predict_images(self, images: Tensor) -> Tensor:
        """Return the predictions for images (B, C, H, W), uint8, on the CPU; see `predict_image`."""
        logits = mean_logits(self.models, images.to(self.device))
        if count_non_finite(logits):
            raise NonFiniteOutputError(
                "the model's outputs are NaN or infinite. Its training diverged: train again with a lower optimizer.lr."
            )
        return self.output.decode(logits).cpu()

    def predict(self, source: str | Path) -> dict[Path, Prediction]:
        """Return the predictions for a file, all images below a folder, or a glob, by image path.

        Raises:
            DataError: no image there, or files that cannot be read, all of them named.
        """
        paths, problems = find_images(source), list[str]()
        found = {path: prediction for path, _, prediction in self._predictions(paths, problems)}
        raise_problems(problems, len(paths), "")
        return found

    def save_predictions(self, names: Mapping[Path, Path], output: Path, overlays: bool = False) -> list[Path]:
        """Write predictions to `output/masks`, and PNGs to `output/overlays` if wanted; return the masks' paths.

        Files are read ahead of the model and written behind it. A file has its name only when it is complete, and
        those that are there are not predicted again, so a run that was interrupted can be repeated.

        Args:
            names: image -> name of its PNG, or of its TIFF with a georeference, from `find_names`.
            output: folder, created if needed.
            overlays: whether to draw the predictions over the images too.

        Raises:
            DataError: files that cannot be read, all of them named, after all others have been predicted.
        """
        problems: list[str] = []
        missing = [path for path, name in names.items() if not self._is_there(name, output, overlays)]
        with Writer() as writer:
            for path, image, prediction in self._predictions(missing, problems):
                writer.call(partial(self._save, path, names[path], image, prediction, output, overlays))
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
        raise_problems(problems, len(names), f" The masks of the others are in '{output}'.")
        return [file for name in names.values() for file in self.output.files(output / "masks" / name)]

    def find_names(self, source: str | Path) -> dict[Path, Path]:
        """Return the images that a file, folder or glob names, with the names of their masks.

        The masks keep the images' places below the folder that `source` names. They are PNGs, and TIFFs for images with
        a georeference, which the masks have then, too.

        Raises:
            DataError: no image there, or two images whose files would have one name.
        """
        paths = find_images(source)
        georeferenced = {path for path in paths if is_georeferenced(path)}
        if georeferenced and not can_keep():
            logger.warning(
                f"{len(georeferenced):,} images, such as '{min(georeferenced)}', have a georeference, which their "
                f"masks do not keep without a package that is not installed: pip install 'finetune-seg[geo]'"
            )
        return output_names(paths, Path(source), self.output.files, georeferenced if can_keep() else ())

    def _is_there(self, name: Path, output: Path, overlays: bool) -> bool:
        """Return whether all files of an image have been written."""
        files = self.output.files(output / "masks" / name)
        files += [(output / "overlays" / name).with_suffix(".png")] if overlays else []
        return all(file.exists() for file in files)

    def _save(
        self, path: Path, name: Path, image: Tensor, prediction: Prediction, output: Path, overlays: bool
    ) -> None:
        part = output / UNFINISHED
        files = self.output.save(prediction, part / "masks" / name)
        if name.suffix == GEOREFERENCED:
            copy_georeference(path, files)
        if overlays:
            drawn = (part / "overlays" / name).with_suffix(".png")
            drawn.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.output.overlay(_rgb(image), prediction)).save(drawn)
            files = [*files, drawn]
        for file in files:
            target = output / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)

    def _predictions(self, paths: Iterable[Path], problems: list[str]) -> Iterator[tuple[Path, Tensor, Prediction]]:
        """Yield each file that can be read with its image and its prediction."""
        for batch in batches(read_ahead(paths, self._read, problems), self.batch_size):
            images = torch.stack([image for _, image in batch])
            try:
                found = self._predicted(images)
            except NonFiniteOutputError as error:
                raise NonFiniteOutputError(f"{batch[0][0]}: {error}") from error
            except (RuntimeError, MemoryError) as error:
                reason = str(error).strip() or type(error).__name__
                raise RuntimeError(
                    f"image '{batch[0][0]}' of {images.shape[3]:,} x {images.shape[2]:,} pixels cannot be predicted: "
                    f"{reason}. If the memory is too small for it, cut the image into tiles, or make it smaller."
                ) from error
            for (path, image), prediction in zip(batch, found, strict=True):
                yield path, image, prediction.numpy()

    def _predicted(self, images: Tensor) -> Tensor:
        return self.predict_image(images[0])[None] if len(images) == 1 else self.predict_images(images)

    def _read(self, path: Path) -> Tensor:
        return read_image(path, self.model.backbone.in_channels, self.value_range)


def _rgb(image: Tensor) -> NDArray[np.uint8]:
    """Return (C, H, W) as (H, W, 3), made of the first three channels, or of the first if there are fewer."""
    channels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return channels.permute(1, 2, 0).numpy()
