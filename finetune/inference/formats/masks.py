"""Masks as images, from which all labels can be read again."""

from pathlib import Path
from typing import ClassVar

from finetune.inference.files import is_video
from finetune.inference.formats.format import Predicted
from finetune.inference.output import Output, Pixels


class Masks:
    """`masks/`: what the output saves of a prediction; see `ImageFormat`."""

    reads_probabilities: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.output = output

    def files(self, name: Path) -> list[Path]:
        """Return the files of the output."""
        return self.output.files("masks" / (name.with_suffix(".mkv") if is_video(name) else name))

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        """Write the prediction."""
        self.output.save(predicted.prediction, folder / "masks" / name)

    def frames(self, predicted: Predicted) -> list[Pixels]:
        """Return the class indices, or 0 and 255 for each class."""
        return list(self.output.planes(predicted.prediction))
