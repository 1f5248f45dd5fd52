"""What predictors have in common: models on a device, and images of files for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange, value_pairs
from finetune.inference.windows import ReadRows, open_rows
from finetune.models import PyramidModel
from finetune.models.blending import SlidingWindow

GPU_BATCH = 8  # images
Model = TypeVar("Model", bound=PyramidModel)


class BasePredictor(Generic[Model]):
    """Models that predict from files.

    Args:
        models: one or more networks of the same classes and channels.
        device: where they run; None takes a GPU if there is one.
        value_range: the values that become black and white in images of more than 8 bit; None refuses such images.
        batch_size: images of one size, or windows, that are predicted at a time; None for 1 on a CPU and 8 elsewhere.
        window: in which larger images are predicted; None for that of the model, which has none by default.
    """

    def __init__(
        self,
        models: Sequence[Model],
        device: str | torch.device | None = None,
        value_range: ValueRange | None = None,
        batch_size: int | None = None,
        window: SlidingWindow | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more.")
        if value_range is not None:
            value_pairs(value_range)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise ValueError(f"device='{device}' is not a device; expected cpu, cuda, cuda:0, mps, ...") from error
        try:
            self.models = [self._placed(each) for each in models]
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"device={device} cannot be used: {reason} Set device=cpu, or leave it out.") from error
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else GPU_BATCH)
        self.value_range = value_range
        self.window = window or self.model.sliding_window

    def _placed(self, model: Model) -> Model:
        return model.eval().to(self.device).to(memory_format=torch.channels_last)

    @property
    def model(self) -> Model:
        """Return the model, the first if there are several."""
        return self.models[0]

    @property
    def channels(self) -> int:
        """Return the number of channels of the images."""
        return self.model.backbone.in_channels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, by index."""
        return self.model.class_names

    def open(self, path: Path) -> ReadRows:
        """Return what reads rows of an image file."""
        return open_rows(path, self.channels, self.value_range)

    def read(self, path: Path) -> Tensor:
        """Return the image (C, H, W), uint8, of a file."""
        return read_image(path, self.channels, self.value_range)
