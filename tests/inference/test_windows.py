"""Images that are predicted in windows, in memory and row by row, against whole images and by hand."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from finetune.data.images.reading import read_image
from finetune.data.records import DataError
from finetune.inference import ClassMasks, Predictor
from finetune.inference.post import PostProcessing
from finetune.inference.post.smooth import Smooth
from finetune.inference.saving import find_names, save_predictions
from finetune.inference.windows import Reduced, open_rows, predict_rows
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow, gaussian_weights
from finetune.models.views import Views

WINDOW = SlidingWindow(128)
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}
CLASSES = ["sky", "sea", "land", "ice"]


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(1)
    return Segmenter("test_resnet.r160_in1k", "fpn", CLASSES, weights="none", head_options=SMALL)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count images of more than 160 x 160 pixels as large."""
    monkeypatch.setattr("finetune.inference.windows.LARGE", 160 * 160)


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, bands), dtype=np.uint8)
    return values.repeat(8, 0).repeat(8, 1)[:height, :width]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib", photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)
    return path


def blended(model: Segmenter, image: torch.Tensor, window: SlidingWindow) -> torch.Tensor:
    """Return logits, one window after the other, added up over the whole image."""
    size = (image.shape[1], image.shape[2])
    total = torch.zeros(len(CLASSES), *size)
    with torch.inference_mode():
        for row, down in zip(window.spans(size)[0], gaussian_weights(window.spans(size)[0]), strict=True):
            for column, across in zip(window.spans(size)[1], gaussian_weights(window.spans(size)[1]), strict=True):
                part = model.eval()(model.normalize(image[None, :, row, column]))[0]
                total[:, row, column] += part * down[:, None] * across
    return total


def agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for a few pixels where two classes tie to the last digit."""
    return found.shape == expected.shape and (found == expected).mean() > 0.999


@pytest.mark.parametrize("size", [(233, 317), (129, 90), (150, 400)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_image_in_memory_is_predicted_in_windows(model: Segmenter, size: tuple[int, int], batch_size: int) -> None:
    image = torch.from_numpy(noise(*size).transpose(2, 0, 1).copy())
    found = Predictor(model, "cpu", window=WINDOW, batch_size=batch_size).predict_image(image)
    expected = blended(model, image, WINDOW)
    assert found.dtype == torch.uint8
    assert agree(found.numpy(), expected.argmax(0).numpy())
    assert len(found.unique()) > 1


def test_an_image_that_fits_into_a_window_is_whole(model: Segmenter) -> None:
    image = torch.from_numpy(noise(128, 70).transpose(2, 0, 1).copy())
    assert torch.equal(
        Predictor(model, "cpu", window=WINDOW).predict_image(image), Predictor(model, "cpu").predict_image(image)
    )


def test_batches_of_images_are_predicted_in_windows_too(model: Segmenter) -> None:
    images = torch.stack([torch.from_numpy(noise(140, 200, seed=k).transpose(2, 0, 1).copy()) for k in range(3)])
    predictor = Predictor(model, "cpu", window=WINDOW)
    assert torch.equal(predictor.predict_images(images), torch.stack([predictor.predict_image(i) for i in images]))


def test_views_and_several_models_work_in_each_window(model: Segmenter) -> None:
    torch.manual_seed(2)
    other = Segmenter("test_resnet.r160_in1k", "fpn", CLASSES, weights="none", head_options=SMALL)
    other.views = Views(["horizontal"])
    image = torch.from_numpy(noise(200, 260).transpose(2, 0, 1).copy())
    found = Predictor(model, "cpu", others=[other], window=WINDOW).predict_image(image)
    expected = blended(model, image, WINDOW) + blended(other, image, WINDOW)
    assert agree(found.numpy(), expected.argmax(0).numpy())


def test_a_model_of_an_evaluation_blends_the_same_windows(model: Segmenter) -> None:
    torch.manual_seed(1)
    own = Segmenter("test_resnet.r160_in1k", "fpn", CLASSES, weights="none", head_options=SMALL).eval()
    own.sliding_window, own.views = WINDOW, Views(["horizontal"])
    images = torch.stack([torch.from_numpy(noise(200, 260, seed=k).transpose(2, 0, 1).copy()) for k in range(2)])
    with torch.inference_mode():
        logits = own(own.normalize(images))
        own.sliding_window = SlidingWindow()
        expected = torch.stack([blended(own, image, WINDOW) for image in images])
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.npy"])
@pytest.mark.usefixtures("large")
def test_a_large_file_is_written_row_by_row_as_it_is_predicted_in_memory(
    name: str, model: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "in" / name, noise(239, 317))
    save(tmp_path / "in" / "small.png", noise(90, 150))
    predictor = Predictor(model, "cpu", window=WINDOW)
    with caplog.at_level(logging.INFO, "finetune"):
        written = save_predictions(predictor, find_names(predictor, tmp_path / "in"), tmp_path / "out", ["overlays"])
    assert "2 of 2 images are predicted in windows of 128 x 128 pixels (window)" in caplog.text
    expected = predictor.predict_image(read_image(path)).numpy()
    mask = Image.open(written[0])
    assert mask.mode == "P"
    assert (np.asarray(mask) == expected).all()
    in_python = predictor.predict(tmp_path / "in")
    assert list(in_python) == [path, tmp_path / "in" / "small.png"]
    assert (in_python[path] == expected).all()
    assert Image.open(tmp_path / "out" / "overlays" / "a.png").size == (317, 239)
    below = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert below == ["masks/a.png", "masks/small.png", "overlays/a.png", "overlays/small.png"]


@pytest.mark.usefixtures("large")
def test_the_overlay_of_a_large_file_is_reduced(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.inference.windows.OVERVIEW", 100)
    path = save(tmp_path / "a.png", noise(239, 317))
    predictor = Predictor(model, "cpu", window=WINDOW)
    (written,) = save_predictions(predictor, find_names(predictor, path), tmp_path / "out", ["overlays"])
    expected = predictor.output.overlay(noise(239, 317)[::4, ::4], np.asarray(Image.open(written))[::4, ::4])
    assert (np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png")) == expected).all()


@pytest.mark.usefixtures("large")
def test_masks_of_several_labels_are_written_row_by_row(model: Segmenter, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", noise(239, 317))
    predictor = Predictor(model, "cpu", ClassMasks(CLASSES, [0.4, 0.5, 0.6, 0.5]), window=WINDOW)
    written = save_predictions(predictor, find_names(predictor, path), tmp_path / "out", ["overlays"])
    expected = predictor.predict_image(read_image(path)).numpy()
    assert expected.shape == (4, 239, 317)
    assert (predictor.predict(path)[path] == expected).all()
    for file, mask in zip(written, expected, strict=True):
        assert (np.asarray(Image.open(file)) == 255 * mask).all()


@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize("suffix", ["tif", "npy"])
@pytest.mark.usefixtures("large")
def test_files_of_any_bands_and_bits_are_read_in_rows(suffix: str, bands: int, tmp_path: Path) -> None:
    values = noise(301, 217, bands).astype(np.uint16) * 16
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    else:
        stored = {"compression": "zlib"} | ({"planarconfig": "contig"} if bands > 1 else {})
        tifffile.imwrite(path, np.squeeze(values), rowsperstrip=10, photometric="minisblack", **stored)
    model = Segmenter("test_resnet.r160_in1k", "fpn", CLASSES, weights="none", head_options=SMALL, in_channels=bands)
    value_range = [0, 4095] if bands == 1 else [[0, 4095 + 100 * band] for band in range(bands)]
    predictor = Predictor(model, "cpu", value_range=value_range, window=WINDOW)
    (written,) = save_predictions(predictor, find_names(predictor, path), tmp_path / "out", ["overlays"])
    expected = predictor.predict_image(read_image(path, bands, value_range)).numpy()
    assert (np.asarray(Image.open(written)) == expected).all()


def test_a_file_larger_than_what_is_decoded_at_once_is_predicted(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.inference.windows.LARGE", 40_000)
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 60_000)
    tiff, png = save(tmp_path / "a.tif", noise(301, 217)), save(tmp_path / "b.png", noise(301, 217))
    predictor = Predictor(model, "cpu", window=WINDOW)
    names = find_names(predictor, tmp_path)
    with pytest.raises(
        DataError, match=r"1 of 2 files cannot be read:\n'.*b\.png' claims .*TIFF and \.npy files are read in parts"
    ):
        save_predictions(predictor, names, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["a.png"]
    assert predictor.predict(tiff)[tiff].shape == (301, 217)
    with pytest.raises(DataError, match=r"1 of 1 files cannot be read:\n'.*b\.png' claims"):
        predictor.predict(png)


@pytest.mark.usefixtures("large")
def test_what_needs_the_whole_prediction_of_a_large_image_is_refused_before_anything_is_predicted(
    model: Segmenter, tmp_path: Path
) -> None:
    path = save(tmp_path / "in" / "a.png", noise(239, 317))
    predictor = Predictor(model, "cpu", window=WINDOW)
    names = find_names(predictor, path)
    with pytest.raises(DataError, match=r"row by row, but probabilities, areas would need the whole prediction"):
        save_predictions(predictor, names, tmp_path / "out", ["color", "probabilities", "areas"])
    predictor.post = PostProcessing({"smooth": Smooth()})
    with pytest.raises(DataError, match="row by row, but smooth would need"):
        predictor.predict(path)
    assert not (tmp_path / "out").exists()


def test_a_file_too_wide_for_rows_of_windows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.inference.windows.MAX_PIXELS", 10_000)
    read = open_rows(save(tmp_path / "a.npy", noise(50, 1000)), 3, None)
    assert read(slice(10, 20)).shape == (3, 10, 1000)
    with pytest.raises(DataError, match=r"is 1,000 pixels wide, and of 11 rows at most 909 are read at once"):
        read(slice(10, 21))


@pytest.mark.usefixtures("large")
def test_a_broken_large_file_is_named_and_leaves_nothing(model: Segmenter, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (239, 317, 3), dtype=np.uint8))
    os.truncate(path, path.stat().st_size // 2)
    predictor = Predictor(model, "cpu", window=WINDOW)
    with pytest.raises(DataError, match=r"1 of 1 files cannot be read:\ncannot read '.*a\.tif'"):
        save_predictions(predictor, {path: Path("a.png")}, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("large")
def test_a_large_file_is_predicted_again_when_the_disk_is_no_longer_full(model: Segmenter, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(301, 217))
    predictor, part = Predictor(model, "cpu", window=WINDOW), tmp_path / "out" / ".unfinished" / "masks" / "a.png"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_predictions(predictor, {path: Path("a.png")}, tmp_path / "out")
    assert not (tmp_path / "out" / "masks").exists()
    part.unlink()
    (written,) = save_predictions(predictor, {path: Path("a.png")}, tmp_path / "out")
    assert (np.asarray(Image.open(written)) == predictor.predict_image(read_image(path)).numpy()).all()


def test_rows_are_read_once_and_in_order_and_few_are_held() -> None:
    image, read, yielded = torch.zeros(1, 1000, 130, dtype=torch.uint8), [], []

    def rows(part: slice) -> torch.Tensor:
        assert part.start - sum(yielded) <= 128  # what was read ahead of what was written
        read.append(part)
        return image[:, part]

    for part in predict_rows(lambda images: images.float(), lambda x: x[:, 0].byte(), rows, (1000, 130), WINDOW):
        yielded.append(part.shape[0])
    assert [part.start for part in read] == [0, *(part.stop for part in read[:-1])]
    assert read[-1].stop == sum(yielded) == 1000


def test_reduced_rows_are_those_of_the_whole() -> None:
    values = torch.arange(53 * 31).view(1, 53, 31)
    for step in (1, 3, 7, 60):
        reduced = Reduced(step)
        for part in values.split([1, 1, 20, 3, 28], dim=1):
            assert torch.equal(reduced.add(part), part)
        assert torch.equal(reduced.whole(), values[:, ::step, ::step])


PEAK = """
import sys
from pathlib import Path
import numpy as np
import torch
from finetune.inference import Predictor
from finetune.inference.saving import find_names, save_predictions
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow
from finetune.profiling.memory import peak

torch.set_num_threads(1)
options = {"pyramid_channels": 32, "segmentation_channels": 64}
model = Segmenter("test_resnet.r160_in1k", "fpn", 4, weights="none", head_options=options)
predictor = Predictor(model, "cpu", window=SlidingWindow(512, 0))
save_predictions(predictor, find_names(predictor, sys.argv[1]), Path(sys.argv[2]), ["overlays"])
print(peak())  # ru_maxrss of a new process is at least what its parent had
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_an_image(tmp_path: Path) -> None:
    peaks = []
    for height in (4096, 16384):
        path = tmp_path / f"{height}.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (height, 4097, 1))[:] = 100
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / str(height))]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 64 * 2**20  # the channels and the mask have 192 MiB more, the logits of 4 classes 768
    assert peaks[1] < 2 * 2**30
