"""The folder of predictions: written file by file, each complete as soon as it has its name."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from finetune.inference.files import GEOREFERENCED
from finetune.inference.formats import (
    PREDICTION_FORMATS,
    LabeledImage,
    LabelFormat,
    Predicted,
    VideoFormat,
    check_formats,
)
from finetune.inference.formats.colored import Overlays
from finetune.inference.formats.labels import trace_classes
from finetune.inference.formats.masks import Masks
from finetune.inference.georeference import copy_georeference
from finetune.inference.mask_rows import write_masks
from finetune.inference.output import Output, Pixels
from finetune.inference.windows import Overview

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"  # folder of files that are being written


class PredictionFolder:
    """A folder of masks, and of further files.

    Args:
        path: created if needed.
        output: of the model.
        write: formats in addition to masks.
        tolerance: by which outlines may be simplified, pixels.

    Raises:
        ValueError: an unknown format, or a tolerance below 0.
    """

    def __init__(self, path: Path, output: Output, write: Sequence[str] = (), tolerance: float = 0.0) -> None:
        check_formats(write, tolerance)
        self.path = path
        self.output = output
        self.tolerance = tolerance
        chosen = [PREDICTION_FORMATS[name] for name in dict.fromkeys(("masks", *write))]
        self.formats = [each(output) for each in chosen if not issubclass(each, LabelFormat)]
        self.label_formats = [each for each in chosen if issubclass(each, LabelFormat)]
        pictures = (Masks, Overlays)
        self.whole_formats = [name for name in write if not issubclass(PREDICTION_FORMATS[name], pictures)]
        self.reads_probabilities = any(each.reads_probabilities for each in self.formats)

    def has(self, name: Path) -> bool:
        """Return whether all files of an image have been written."""
        return all((self.path / file).exists() for file in self.files(name))

    def files(self, name: Path) -> list[Path]:
        """Return all files of an image, below the folder."""
        return [file for each in self.formats for file in each.files(name)]

    def own_names(self, name: Path) -> list[Path]:
        """Return the names that no other image may have: its files, and that of its labels, without their suffix."""
        return [*self.files(name), *([Path("labels", name.with_suffix(""))] if self.label_formats else [])]

    def masks(self, name: Path) -> list[Path]:
        """Return the masks of an image."""
        return [self.path / file for file in self.formats[0].files(name)]

    def frames(self, predicted: Predicted) -> list[Pixels]:
        """Return a frame for each file of a video."""
        return [pixels for each in self.formats if isinstance(each, VideoFormat) for pixels in each.frames(predicted)]

    def unfinished(self, name: Path) -> list[Path]:
        """Return the places where the files of an image or video are written before they have their names."""
        return [self.path / UNFINISHED / file for file in self.files(name)]

    def publish(self, name: Path, suffix: str = "") -> None:
        """Give files that are complete their names, with a suffix such as `.incomplete` before that of each file."""
        for file, part in zip(self.files(name), self.unfinished(name), strict=True):
            (self.path / file).parent.mkdir(parents=True, exist_ok=True)
            part.replace((self.path / file).with_stem(file.stem + suffix))

    def save(self, predicted: Predicted, name: Path) -> None:
        """Write the files of an image."""
        with self._writing(predicted.path, name) as part:
            for each in self.formats:
                each.save(predicted, name, part)

    def save_rows(self, rows: Iterable[Tensor], name: Path, size: tuple[int, int], overview: Overview) -> None:
        """Write the masks of an image row by row, and its pictures at a reduced size.

        Args:
            rows: of the prediction (..., n, W), uint8.
            name: of the image.
            size: height and width of the image.
            overview: keeps some of the pixels.
        """
        masks, *pictures = self.formats
        with self._writing(overview.path, name) as part:
            planes = (self.output.planes(overview.add(each).numpy()) for each in rows)
            write_masks(planes, [part / file for file in masks.files(name)], size, self.output.colors)
            for each in pictures:
                each.save(overview.whole(), name, part)
        if pictures and overview.step > 1:
            logger.info(f"{overview.path}: pictures show one of {overview.step} x {overview.step} pixels")

    @contextmanager
    def _writing(self, path: Path, name: Path) -> Iterator[Path]:
        """Yield the folder for the unfinished files of an image, and give them their names when all are complete."""
        files = self.unfinished(name)
        for folder in {file.parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        yield self.path / UNFINISHED
        if name.suffix == GEOREFERENCED:
            copy_georeference(path, [file for file in files if file.suffix == GEOREFERENCED])
        self.publish(name)

    def finish(self, names: Mapping[Path, Path]) -> None:
        """Write the labels of all images whose masks are there, and remove what was left unfinished.

        Files of single images that are there stay as they are; those of all images are written again.
        """
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)
        written = {path: name for path, name in names.items() if self.has(name)}
        formats = [each(self.path, self.output.class_names) for each in self.label_formats if written]
        for path, name in written.items() if formats else ():
            prediction = self.output.load(self.path / "masks" / name)
            height, width = prediction.shape[-2:]
            traced = trace_classes(prediction)
            image = LabeledImage(path, name.with_name(path.name), (height, width), traced, self.tolerance)
            for each in formats:
                each.add(image)
        for each in formats:
            each.finish()
