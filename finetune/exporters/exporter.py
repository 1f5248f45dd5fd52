"""What every export format does: write files, and compute with them again to compare with the model."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel
from finetune.data import DataError
from finetune.exporters.agreement import Agreement, Limits, Outputs
from finetune.models import PyramidModel
from finetune.models.input_size import Size
from finetune.tasks import PixelTask

# the same weights in the same operators: the last bits depend on the processor and on the layout of the memory
SAME_WEIGHTS = Limits(difference=1e-5)
ODD = (37, 75)  # pixels that make a second size, which no stride divides
Samples = Iterable[tuple[Tensor, Tensor]]  # images (1, C, H, W), uint8, and targets; read again at each iteration


class ExportError(RuntimeError):
    """A model that cannot be exported, or an exported one that does not compute what the original does."""


class Exporter(Protocol):
    """A format that a model can be written in. The constructor takes the options of the format by name.

    Attributes:
        limits: how far the files may differ from the model; a format with `SAME_WEIGHTS` is checked on random
            images only.
        size: height and width of the images that the files take, in pixels; None for any.
        multiple: pixels that must divide both, such as 32; 1 if any size will do.
    """

    limits: Limits
    size: Size | None
    multiple: int

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the model into an existing, empty folder and return the files."""

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the outputs of the original model for uint8 images (B, C, H, W), as far as the format keeps them."""

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return a function that computes the same outputs from nothing but the files."""

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the files."""


def export_model(
    exporter: Exporter, saved: SavedModel, folder: Path, task: PixelTask | None = None, samples: Samples = ()
) -> tuple[list[Path], Agreement]:
    """Write a model in a format and compare its outputs with those of the original; keep no files that differ.

    Args:
        exporter: of the format.
        saved: the model.
        folder: created if missing.
        task: of the model, to read and score predictions.
        samples: images (B, C, H, W), uint8, of the exporter's size, with the task's targets, to compare predictions on.

    Returns:
        The files, and how well they agree: on the samples if there are any, else on random images.

    Raises:
        ExportError: the format has no way to write the model, or the outputs differ by more than the exporter's limits.
    """
    before = set(folder.iterdir()) if folder.is_dir() else None
    folder.mkdir(parents=True, exist_ok=True)
    noise, real = Agreement(task, is_random=True), Agreement(task)
    try:
        files = exporter.write(saved, folder)
        compute = exporter.load(folder)
        with torch.inference_mode():
            for whole in random_images(saved, exporter.size):
                images = crop(whole, exporter.multiple)
                noise.add(exporter.expected(saved, images), compute(images))
            for whole, target in samples:
                if exporter.multiple > 1 and min(whole.shape[-2:]) < 2 * exporter.multiple:
                    continue  # smaller than a program takes
                images = crop(whole, exporter.multiple)
                real.add(exporter.expected(saved, images), compute(images), crop(target, exporter.multiple))
    except BaseException as error:  # those of exporters and runtimes have no common type
        _restore(folder, before)
        # such as a full disk, an image that cannot be read, or Ctrl-C
        if isinstance(error, OSError | DataError) or not isinstance(error, Exception):
            raise
        raise refusal(saved.model, error) from error
    # quantized to the range of real images, a model says nothing of noise
    agreement = real if real.images else noise
    if problems := noise.problems(Limits(exporter.limits.difference, 1, 1)) + agreement.problems(exporter.limits):
        _restore(folder, before)
        raise refusal(saved.model, f"the files give {', and '.join(dict.fromkeys(problems))}")
    return files, agreement


def _restore(folder: Path, before: set[Path] | None) -> None:
    """Remove the files that were not in a folder before, and the folder if it was not there."""
    for file in set(folder.iterdir()) - (before or set()):
        file.unlink()
    if before is None:
        folder.rmdir()


def refusal(model: PyramidModel, problem: str | Exception) -> ExportError:
    """Return the error for a model that cannot be exported in a format, or with its options."""
    config = model.config()
    return ExportError(
        f"backbone {config['backbone']} with head {config['head']} cannot be exported like this: "
        f"{str(problem)[:400].rstrip('.')}. No file is left. Where the format takes them, size=[height,width] or "
        f"another precision may help."
    )


def crop(images: Tensor, multiple: int) -> Tensor:
    """Return images or targets (..., H, W) without the last rows and columns, so that a number divides both sides.

    >>> crop(torch.zeros(3, 37, 65), 32).shape
    torch.Size([3, 32, 64])
    """
    height, width = (side // multiple * multiple for side in images.shape[-2:])
    return images[..., :height, :width]


def random_images(saved: SavedModel, size: Size | None = None) -> Iterator[Tensor]:
    """Yield uint8 images (2, C, H, W), the same on every call: of the size, or of two sizes for None."""
    channels, height, width = saved.model.backbone.dummy_input().shape[1:]
    height, width = height * saved.model.reduce, width * saved.model.reduce
    generator = torch.Generator().manual_seed(0)
    for sides in [size] if size is not None else [(height, width), (height + ODD[0], width + ODD[1])]:
        yield torch.randint(0, 256, (2, channels, *sides), dtype=torch.uint8, generator=generator)
