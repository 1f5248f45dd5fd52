"""Predictions for files, folders and globs of images, at each image's own size."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from finetune.data.images.value_range import ValueRange
from finetune.inference.base_predictor import BasePredictor
from finetune.inference.class_indices import ClassIndices
from finetune.inference.files import Source, find_images
from finetune.inference.finite import DIVERGED, NonFiniteOutputError, count_non_finite
from finetune.inference.formats import Predicted
from finetune.inference.output import Output, Prediction
from finetune.inference.pipeline import Image, batches, read_ahead
from finetune.inference.post import PostProcessing
from finetune.inference.problems import named, noting, predict_named, raise_problems
from finetune.inference.windows import ReadRows, check_large, predict_rows, split_large
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow
from finetune.models.ensemble import check_alike, mean_logits


class Predictor(BasePredictor[Segmenter]):
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
        super().__init__((model, *others), device, value_range, batch_size, window)
        for each in self.models:
            each.sliding_window = self.window
        self.output = output or ClassIndices(model.class_names)
        self.post = post or PostProcessing()

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
            raise NonFiniteOutputError(DIVERGED)
        return logits

    def predict_rows(self, read: ReadRows, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the prediction of an image a few rows at a time."""
        return predict_rows(self._logits, self.output.decode, read, size, self.window, self.batch_size)

    def predict(self, source: Source) -> dict[Path, Prediction]:
        """Return the predictions for a file, all images below a folder, a glob, or a list of these, by image path.

        A text file (`.txt`) names images, one a line.

        Raises:
            DataError: no image there, or files that cannot be read, all of them named.
        """
        paths, problems = list(find_images(source)), list[str]()
        whole, large = split_large(paths, self.window)
        check_large(large, (), self.post)
        images = read_ahead(whole, self.read, problems)
        found = {predicted.path: predicted.prediction for predicted in self.predictions(images)}
        for path, size in large.items():
            with noting(problems), named(path, size):
                found[path] = torch.cat(list(self.predict_rows(self.open(path), size)), dim=-2).numpy()
        raise_problems(problems, len(paths), "")
        return {path: found[path] for path in paths}

    def predictions(self, read: Iterable[Image], probabilities: bool = False) -> Iterator[Predicted]:
        """Yield each image with its prediction, and with the probabilities of the classes if they are wanted."""
        for batch in batches(read, self.batch_size):
            predictions, scores = predict_named(batch, partial(self._predicted, probabilities=probabilities))
            for index, (path, image, time) in enumerate(batch):
                probability = None if scores is None else scores[index].numpy()
                yield Predicted(path, image, predictions[index].numpy(), probability, time)

    def _predicted(self, images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        if probabilities:
            return self.predict_with_probabilities(images)
        return self.predict_image(images[0])[None] if len(images) == 1 else self.predict_images(images), None
