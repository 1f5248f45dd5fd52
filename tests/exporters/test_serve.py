"""The script next to an exported model: what it refuses."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from finetune.exporters import serve

MODEL = cast(Any, SimpleNamespace(facts={"channels": 3, "size": None}))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_16_bit_are_refused(tmp_path: Path, channels: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.full((4, 4, channels), 2000, np.uint16).squeeze()
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(pixels))
    with pytest.raises(ValueError, match="read it yourself, and give Model an array of uint8"):
        serve.predict(MODEL, tmp_path / "deep.png")


def test_two_images_with_one_name_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [tmp_path / folder / "1.png" for folder in "ab"]
    for path in images:
        path.parent.mkdir()
        Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, images), "--output", str(tmp_path / "masks")])
    with pytest.raises(SystemExit):
        serve.main()
    assert f"'{images[0]}' and '{images[1]}' would both be written as" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()
