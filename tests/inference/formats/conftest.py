"""A model and an image for all formats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.inference import Predictor
from finetune.models import Segmenter

SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.fixture(scope="package")
def predictor() -> Predictor:
    torch.manual_seed(1)
    model = Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea", "land"], weights="none", head_options=SMALL)
    return Predictor(model, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Write an image of blocks of noise, 37 x 53 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "in" / "day" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(noise).resize((53, 37)).save(path)
    return path
