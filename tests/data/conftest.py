"""Small image folders, drawn for one test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Save an array (or an image of one gray value) below tmp_path and return its path."""

    def save(name: str, pixels: np.ndarray | int = 0, size: tuple[int, int] = (8, 10), **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.full(size, pixels, dtype=np.uint8) if isinstance(pixels, int) else pixels
        Image.fromarray(array).save(path, **options)
        return path

    return save
