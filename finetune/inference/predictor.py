"""Predictions for a file, a folder or a glob of images, at each image's own size."""

import glob
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.data.files import IMAGE_SUFFIXES, files_below
from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange, value_pairs
from finetune.data.records import DataError
from finetune.data.stems import without_suffix
from finetune.inference.class_indices import ClassIndices
from finetune.inference.finite import NonFiniteOutputError, count_non_finite
from finetune.inference.georeference import can_keep, copy_georeference, is_georeferenced
from finetune.inference.output import Output, Prediction
from finetune.models import Segmenter
from finetune.models.ensemble import check_alike, mean_logits

logger = logging.getLogger(__name__)

GEOREFERENCED = ".tif"  # of masks of images with a georeference


class Predictor:
    """A model that predicts from files.

    Args:
        model: the network.
        device: where it runs; None takes a GPU if there is one.
        output: how logits become predictions; None for one class per pixel.
        value_range: the values that become black and white in images of more than 8 bit; None refuses such images.
        others: further models with the same classes and channels, whose logits are averaged with the model's.
    """

    def __init__(
        self,
        model: Segmenter,
        device: str | torch.device | None = None,
        output: Output | None = None,
        value_range: ValueRange | None = None,
        others: Sequence[Segmenter] = (),
    ) -> None:
        check_alike((model, *others))
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

    @torch.inference_mode()
    def predict_image(self, image: Tensor) -> Tensor:
        """Return the prediction for an image (C, H, W), uint8, on the CPU.

        Returns:
            uint8; class indices (H, W), or masks (K, H, W) of 0 and 1 for a multi-label model.

        Raises:
            NonFiniteOutputError: outputs of the model are NaN or infinite.
        """
        logits = mean_logits(self.models, image[None].to(self.device))
        if count_non_finite(logits):
            raise NonFiniteOutputError(
                "the model's outputs are NaN or infinite. Its training diverged: train again with a lower optimizer.lr."
            )
        return self.output.decode(logits)[0].cpu()

    def predict(self, source: str | Path) -> dict[Path, Prediction]:
        """Return the predictions for a file, all images below a folder, or a glob, by image path.

        Raises:
            DataError: no image there, or files that cannot be read, all of them named.
        """
        return {path: prediction for path, _, prediction in self._predictions(find_images(source))}

    def save_predictions(self, names: Mapping[Path, Path], output: Path, overlays: bool = False) -> list[Path]:
        """Write predictions to `output/masks`, and PNGs to `output/overlays` if wanted; return the masks' paths.

        Args:
            names: image -> name of its PNG, or of its TIFF with a georeference, from `validate_inputs`.
            output: folder, created if needed.
            overlays: whether to draw the predictions over the images too.
        """
        written: list[Path] = []
        for path, image, prediction in self._predictions(names):
            files = self.output.save(prediction, output / "masks" / names[path])
            if names[path].suffix == GEOREFERENCED:
                copy_georeference(path, files)
            written += files
            if overlays:
                target = (output / "overlays" / names[path]).with_suffix(".png")
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(self.output.overlay(_rgb(image), prediction)).save(target)
        return written

    def validate_inputs(self, source: str | Path) -> dict[Path, Path]:
        """Decode every image once, and return the images with the names of their masks.

        The masks keep the images' places below the folder that `source` names. They are PNGs, and TIFFs for images with
        a georeference, which the masks have then, too.

        Raises:
            DataError: no image there, files that cannot be read, or two images whose files would have one name.
        """
        paths = find_images(source)
        georeferenced = {path for path in paths if is_georeferenced(path)}
        if georeferenced and not can_keep():
            logger.warning(
                f"{len(georeferenced):,} images, such as '{min(georeferenced)}', have a georeference, which their "
                f"masks do not keep without a package that is not installed: pip install 'finetune-seg[geo]'"
            )
        names = output_names(paths, Path(source), self.output.files, georeferenced if can_keep() else ())
        self._check(paths)
        return names

    def _predictions(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor, Prediction]]:
        """Yield each file with its image and its prediction."""
        for path in paths:
            image = self._read(path)
            try:
                yield path, image, self.predict_image(image).numpy()
            except NonFiniteOutputError as error:
                raise NonFiniteOutputError(f"{path}: {error}") from error
            except (RuntimeError, MemoryError) as error:
                reason = str(error).strip() or type(error).__name__
                raise RuntimeError(
                    f"image '{path}' of {image.shape[2]:,} x {image.shape[1]:,} pixels cannot be predicted: {reason}. "
                    f"If the memory is too small for it, cut the image into tiles, or make it smaller."
                ) from error

    def _read(self, path: Path) -> Tensor:
        return read_image(path, self.model.backbone.in_channels, self.value_range)

    def _check(self, paths: Sequence[Path]) -> None:
        """Decode every image once, so that a bad file is found before anything is written."""

        def problem(path: Path) -> str | None:
            try:
                self._read(path)
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            problems = [text for text in pool.map(problem, paths) if text]
        if problems:
            more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise DataError(
                f"{len(problems)} of {len(paths)} files cannot be read:\n" + "\n".join(problems[:10]) + more
            )


def find_images(source: str | Path) -> list[Path]:
    """Return the image files that a file, folder or glob names, sorted.

    Raises:
        DataError: there is no image.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    matches = [] if path.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    listed = sorted(p for p in matches if p.name.lower().endswith(IMAGE_SUFFIXES) and p.is_file() and p.name[0] != ".")
    images = files_below(path, IMAGE_SUFFIXES) if path.is_dir() else listed
    if not images:
        reason = "has no image in it" if path.is_dir() else "is no file or folder, and no image matches it as a glob"
        raise DataError(f"input='{source}' {reason}. Expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return images


def output_names(
    paths: Sequence[Path],
    source: Path,
    files: Callable[[Path], list[Path]] = lambda name: [name],
    georeferenced: Collection[Path] = (),
) -> dict[Path, Path]:
    """Return the name of each image's PNG or, with a georeference, TIFF, below the output folder.

    Args:
        paths: of the images.
        source: that they were found by.
        files: the files that are written for a name.
        georeferenced: images whose place on the map is kept.

    Raises:
        DataError: two images would get a file of the same name.
    """
    names: dict[Path, Path] = {}
    for path in paths:
        name = without_suffix(path.relative_to(source) if source.is_dir() else Path(path.name))
        names[path] = name.with_name(name.name + (GEOREFERENCED if path in georeferenced else ".png"))
    first: dict[Path, Path] = {}
    for path, name in names.items():
        for file in files(name):
            if file in first:
                raise DataError(f"'{first[file]}' and '{path}' would both be written as '{file}'. Rename one of them.")
            first[file] = path
    return names


def _rgb(image: Tensor) -> NDArray[np.uint8]:
    """Return (C, H, W) as (H, W, 3), made of the first three channels, or of the first if there are fewer."""
    channels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return channels.permute(1, 2, 0).numpy()
