"""The folder of predictions: written file by file, each complete as soon as it has its name."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.inference.files import GEOREFERENCED
from finetune.inference.formats import PREDICTION_FORMATS, LabeledImage, LabelFormat, Predicted, check_formats
from finetune.inference.georeference import copy_georeference
from finetune.inference.output import Output

UNFINISHED = ".unfinished"  # folder of files that are being written


class PredictionFolder:
    """A folder of masks, and of further files.

    Args:
        path: created if needed.
        output: of the model.
        write: formats besides masks.
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
        self.reads_probabilities = any(each.reads_probabilities for each in self.formats)

    def has(self, name: Path) -> bool:
        """Return whether all files of an image have been written."""
        return all((self.path / file).exists() for file in self.files(name))

    def files(self, name: Path) -> list[Path]:
        """Return all files of an image, below the folder."""
        return [file for each in self.formats for file in each.files(name)]

    def masks(self, name: Path) -> list[Path]:
        """Return the masks of an image."""
        return [self.path / file for file in self.formats[0].files(name)]

    def save(self, predicted: Predicted, name: Path) -> None:
        """Write the files of an image, and give them their names when all are complete."""
        part, files = self.path / UNFINISHED, self.files(name)
        for folder in {root / file.parent for file in files for root in (part, self.path)}:
            folder.mkdir(parents=True, exist_ok=True)
        for each in self.formats:
            each.save(predicted, name, part)
        if name.suffix == GEOREFERENCED:
            copy_georeference(predicted.path, [part / file for file in files if file.suffix == GEOREFERENCED])
        for file in files:
            (part / file).replace(self.path / file)

    def finish(self, names: Mapping[Path, Path]) -> None:
        """Write the labels of all images whose masks are there, and remove what was left unfinished."""
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)
        formats = [each(self.path, self.output.class_names) for each in self.label_formats]
        for path, name in names.items() if formats else ():
            if self.has(name):
                prediction = self.output.load(self.path / "masks" / name)
                image = LabeledImage(path, name.with_name(path.name), prediction, self.tolerance)
                for each in formats:
                    each.add(image)
        for each in formats:
            each.finish()
