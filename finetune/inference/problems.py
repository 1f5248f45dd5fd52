"""Problems with single files among many: noted, named, and raised together at the end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from finetune.data.records import DataError
from finetune.inference.finite import NonFiniteOutputError
from finetune.inference.pipeline import Image

T = TypeVar("T")


@contextmanager
def noting(problems: list[str]) -> Iterator[None]:
    """Add the error of a file that cannot be read to the problems."""
    try:
        yield
    except DataError as error:
        problems.append(str(error))


@contextmanager
def named(path: Path, size: tuple[int, int], count: int = 1) -> Iterator[None]:
    """Name the first image in errors of the prediction of several."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise NonFiniteOutputError(f"{path}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip() or type(error).__name__
        others = f" with {count - 1} more at a time" if count > 1 else ""
        move = "one at a time (batch_size=1), or in" if count > 1 else "it in"
        raise RuntimeError(
            f"image '{path}' of {size[1]:,} x {size[0]:,} pixels cannot be predicted{others}: {reason}. If the memory "
            f"is too small for it, predict {move} smaller windows, such as window=512."
        ) from error


def predict_named(batch: Sequence[Image], predict: Callable[[Tensor], T]) -> T:
    """Return what images of one size are predicted as; an error names the image that it comes from."""
    pixels = torch.stack([image.pixels for image in batch])
    size = (pixels.shape[-2], pixels.shape[-1])
    try:
        with named(batch[0].path, size, len(batch)):
            return predict(pixels)
    except NonFiniteOutputError:
        for image in batch if len(batch) > 1 else ():
            with named(image.path, size):
                predict(image.pixels[None])
        raise


def raise_problems(problems: Sequence[str], count: int, rest: str) -> None:
    """Raise a DataError with a line for each file that could not be read, if there is one.

    Args:
        problems: one line each.
        count: number of all files.
        rest: what became of the others.
    """
    if problems:
        raise DataError(f"{len(problems):,} of {count:,} files cannot be read:\n" + "\n".join(problems) + rest)
