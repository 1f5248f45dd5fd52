"""Objects in files: the same ones in any batch, in windows, and read row by row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.data.images.reading import read_image
from finetune.data.records import DataError
from finetune.inference import windows
from finetune.inference.finite import NonFiniteOutputError
from finetune.inference.instances import InstancePredictor
from finetune.instances import as_objects
from tests.inference.instances.color_model import image_of
from tests.samples import save

Build = Callable[..., InstancePredictor]


def write(path: Path, image: Tensor) -> Path:
    return save(path, image.permute(1, 2, 0).numpy())


def test_objects_are_found_at_the_size_of_each_image_and_on_the_cpu(predict_with: Build) -> None:
    (objects,) = [predict_with().predict_image(image_of((37, 53), (10, 20, 5, 0), (20, 24, 8, 1), (30, 5, 1, 0)))]
    assert objects.size == (37, 53)
    assert objects.labels.tolist() == [0, 1]  # the third one has a score of 0.3
    assert objects.boxes.tolist() == [[15, 5, 26, 16], [16, 12, 33, 29]]
    assert objects.masks.device.type == "cpu"


def test_a_folder_gives_the_objects_of_each_image_by_path(predict_with: Build, tmp_path: Path) -> None:
    sizes = [(40, 50), (40, 50), (30, 60), (40, 50)]
    images = {tmp_path / f"{n}.png": image_of(size, (20, 9 + 7 * n, 6, n % 2)) for n, size in enumerate(sizes)}
    for path, image in images.items():
        write(path, image)
    write(tmp_path / "4.png", image_of((20, 20)))
    alone, together = predict_with().predict(tmp_path), predict_with(batch_size=3).predict(tmp_path)
    assert list(alone) == list(together) == [*images, tmp_path / "4.png"]
    for path, image in images.items():
        expected = predict_with().predict_image(image)
        for found in (alone[path], together[path]):
            assert (found.masks == expected.masks).all()
            assert found.labels.tolist() == expected.labels.tolist()
    assert alone[tmp_path / "4.png"].masks.shape == (0, 20, 20)


def test_files_that_cannot_be_read_are_named(predict_with: Build, tmp_path: Path) -> None:
    write(tmp_path / "a.png", image_of((20, 20)))
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(DataError, match=r"(?s)1 of 2 files cannot be read:.*b\.png"):
        predict_with().predict(tmp_path)


def test_a_large_image_is_read_in_rows_and_shown_reduced(
    predict_with: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.inference.instances.instance_predictor.OVERVIEW", 100)
    image = image_of((300, 200), (112, 112, 70, 0), (250, 60, 20, 1))
    np.save(tmp_path / "a.npy", image.permute(1, 2, 0).numpy())
    predictor, read = predict_with(128), list[slice]()
    rows = predictor.open(tmp_path / "a.npy")
    monkeypatch.setattr(predictor, "open", lambda path: lambda part: (read.append(part), rows(part))[1])
    found = predictor.predict_large(tmp_path / "a.npy", (300, 200))
    assert [(part.start, part.stop) for part in read] == [(0, 128), (128, 224), (224, 300)]  # each row once
    expected = predict_with().predict_image(read_image(tmp_path / "a.npy"))
    (first, second), masks = found.objects, expected.masks
    assert first.top < second.top  # of equal scores, the upper one first
    assert (as_objects([first, second], found.size).masks == masks[masks[:, 112, 112].argsort(descending=True)]).all()
    assert (found.step, found.image.shape) == (3, (3, 100, 67))
    assert torch.equal(found.image, image[:, ::3, ::3])


def test_windows_are_used_where_they_divide_an_image_only(predict_with: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, calls = predict_with(128), list[tuple[int, ...]]()
    detect = predictor._detect
    monkeypatch.setattr(predictor, "_detect", lambda images: (calls.append(tuple(images.shape)), detect(images))[1])
    predictor.predict_image(image_of((128, 100)))
    assert calls == [(1, 3, 128, 100)]
    predictor.predict_image(image_of((128, 160)))
    assert calls[1:] == [(1, 3, 128, 128), (1, 3, 128, 128)]
    assert windows.LARGE > 128 * 160


def test_outputs_that_are_nan_are_no_objects(predict_with: Build, tmp_path: Path) -> None:
    predictor = predict_with()
    predictor.model.mean.fill_(torch.nan)
    path = write(tmp_path / "a.png", image_of((20, 20)))
    with pytest.raises(NonFiniteOutputError, match=r"a\.png: the model's outputs are NaN or infinite"):
        predictor.predict(path)


def test_as_many_objects_as_the_model_returns_are_warned_of_once(
    predict_with: Build, caplog: pytest.LogCaptureFixture
) -> None:
    image = image_of((37, 53), (10, 20, 5, 0), (20, 24, 8, 1))
    predictor = predict_with()
    predictor.predict_image(image)
    assert not caplog.messages
    predictor.model.head.max_detections = 2
    for _ in range(2):
        assert len(predictor.predict_image(image)) == 2
    (message,) = caplog.messages
    assert "2 objects were found at once, the most that the model returns (head.max_detections)" in message
