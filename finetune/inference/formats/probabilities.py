"""Probabilities of the classes, as numbers and as images."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from finetune.inference.class_masks import class_files
from finetune.inference.formats.format import Predicted
from finetune.inference.output import Output, save_mask

WHITE = 65_535  # value of probability 1


class Probabilities:
    """`probabilities/<name>.npy`: (K, H, W), float16, within 0.00025; see `ImageFormat`."""

    reads_probabilities: ClassVar[bool] = True

    def __init__(self, output: Output) -> None:
        self.output = output

    def files(self, name: Path) -> list[Path]:
        """Return the one file of an image."""
        return [("probabilities" / name).with_suffix(".npy")]

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        """Write the probabilities."""
        assert predicted.probabilities is not None
        np.save(folder / self.files(name)[0], predicted.probabilities.astype(np.float16))


class ProbabilityImages(Probabilities):
    """`probability_images/<name>_<class>.png`, or `.tif`: 16 bit, of which 65,535 is probability 1."""

    def files(self, name: Path) -> list[Path]:
        """Return a file for each class."""
        return class_files("probability_images" / name, self.output.class_names)

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        """Write the probabilities."""
        assert predicted.probabilities is not None
        for file, channel in zip(self.files(name), predicted.probabilities, strict=True):
            save_mask(Image.fromarray(np.rint(channel * WHITE).astype(np.uint16)), folder / file)
