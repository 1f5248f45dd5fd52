"""Gamma and histogram equalization against loops over values."""

import numpy as np
import pytest
import torch

from finetune.data.augmentation.operations import adjust_gamma, equalize, look_up
from finetune.data.synthetic.drawing import draw

IMAGE = torch.cat([draw((40, 56))[0], draw((40, 56), seed=1)[0]])  # six bands


def test_each_value_becomes_its_entry() -> None:
    table = torch.randperm(256, generator=torch.Generator().manual_seed(0)).byte().numpy()
    assert np.array_equal(look_up(IMAGE, table).numpy(), table[IMAGE.numpy()])
    assert torch.equal(look_up(IMAGE.transpose(1, 2), table), look_up(IMAGE, table).transpose(1, 2))


@pytest.mark.parametrize("gamma", [0.4, 1.0, 2.2])
def test_gamma_is_a_power_of_the_fraction_of_white(gamma: float) -> None:
    expected = np.rint(255 * (IMAGE.numpy() / 255.0) ** gamma).astype(np.uint8)
    assert np.array_equal(adjust_gamma(IMAGE, gamma).numpy(), expected)


def test_gamma_leaves_black_and_white_alone() -> None:
    ends = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert torch.equal(adjust_gamma(ends, 3.0), ends)


def test_equalized_values_are_the_fraction_of_pixels_that_are_as_dark() -> None:
    for band, result in zip(IMAGE.numpy(), equalize(IMAGE).numpy(), strict=True):
        darkest = (band == band.min()).sum()
        for value in np.unique(band):
            fraction = ((band <= value).sum() - darkest) / (band.size - darkest)
            assert (result[band == value] == np.rint(255 * fraction)).all()
        assert (result.min(), result.max()) == (0, 255)


def test_a_band_of_one_value_stays() -> None:
    flat = torch.full((2, 5, 5), 77, dtype=torch.uint8)
    assert torch.equal(equalize(flat), flat)
