"""The interface of formats: what is written of predictions."""

from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.inference.output import Output, Pixels, Prediction


class Predicted(NamedTuple):
    """An image that has been predicted.

    Attributes:
        path: the image.
        image: its pixels (C, H, W), uint8.
        prediction: as the output decodes it.
        probabilities: of the classes (K, H, W), float32; None unless they were asked for.
        time: of a frame, in the time base of its video.
    """

    path: Path
    image: Tensor
    prediction: Prediction
    probabilities: NDArray[np.float32] | None = None
    time: int = 0


class ImageFormat(Protocol):
    """Files of each image, written while the model computes.

    Attributes:
        reads_probabilities: whether `save` needs the probabilities.
    """

    reads_probabilities: ClassVar[bool]

    def __init__(self, output: Output) -> None:
        """Take the output of the model."""

    def files(self, name: Path) -> list[Path]:
        """Return the files of an image, below the folder of all predictions.

        Args:
            name: a PNG or TIFF file, named after the image; for a `VideoFormat`, it may be a video, too.
        """

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        """Write the files of an image below a folder, as `files` names them; their folders exist."""


@runtime_checkable
class VideoFormat(ImageFormat, Protocol):
    """Files of images whose prediction of a video is one video for each of them."""

    def frames(self, predicted: Predicted) -> list[Pixels]:
        """Return a frame for each of the files: gray (H, W), stored without loss, or color (H, W, 3)."""
