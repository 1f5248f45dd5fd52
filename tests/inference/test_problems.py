from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.inference.finite import NonFiniteOutputError
from finetune.inference.pipeline import Image
from finetune.inference.problems import predict_named


def largest(images: Tensor) -> list[int]:
    values = images.flatten(1).amax(1).tolist()
    if 255 in values:
        raise NonFiniteOutputError("the model's outputs are NaN")
    return values


def test_an_error_of_a_batch_names_the_image_that_it_comes_from() -> None:
    batch = [Image(Path(f"{value}.png"), torch.full((3, 4, 5), value, dtype=torch.uint8)) for value in (1, 2, 255, 3)]
    assert predict_named(batch[:2], largest) == [1, 2]
    with pytest.raises(NonFiniteOutputError, match=r"255\.png: the model's outputs are NaN"):
        predict_named(batch, largest)
