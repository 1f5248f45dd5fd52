"""The temperature against the one that labels were drawn with, and a search by SciPy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from finetune.metrics.temperature import LIMITS, fit_temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_that_the_labels_were_drawn_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).flatten()
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_negative_log_likelihood_is_the_lowest() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(300, 3, generator=generator)
    labels = torch.where(torch.rand(300, generator=generator) < 0.6, logits.argmax(1), torch.arange(300) % 3)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits.double().numpy() / temperature, 1)[np.arange(300), labels.numpy()].mean())

    expected = minimize_scalar(loss, bounds=LIMITS, method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature(logits, labels) == pytest.approx(float(expected), rel=1e-4)


def test_a_model_that_is_always_right_or_always_wrong_gets_a_limit() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(LIMITS[0])
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(LIMITS[1])
