"""Pictures and probabilities against those computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data import read_image
from finetune.data.records import DataError
from finetune.inference import ClassIndices, ClassMasks, Predictor
from finetune.inference.files import find_images
from finetune.inference.formats import PREDICTION_FORMATS, Predicted
from finetune.inference.formats.colored import borders
from finetune.inference.formats.masks import Masks
from finetune.inference.saving import find_names, save_predictions
from finetune.plots import palette


def write(predictor: Predictor, source: Path, output: Path, *formats: str) -> None:
    save_predictions(predictor, find_names(predictor, source, formats), output, formats)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def logits(predictor: Predictor, path: Path) -> torch.Tensor:
    with torch.no_grad():
        return predictor.model(predictor.model.normalize(read_image(path)[None]))[0]


def test_colors_and_contours_show_the_mask(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    write(predictor, tmp_path / "in", tmp_path / "out", "color", "contours")
    mask, colors = pixels(tmp_path / "out/masks/day/a.png"), np.array(palette(3), dtype=np.uint8)
    assert len(np.unique(mask)) > 1
    assert (pixels(tmp_path / "out/color/day/a.png") == colors[mask]).all()
    lines = np.zeros(mask.shape, dtype=bool)
    for row, column in np.ndindex(mask.shape):
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        inside = [place for place in around if 0 <= place[0] < 37 and 0 <= place[1] < 53]
        lines[row, column] = any(mask[place] != mask[row, column] for place in inside)
    assert (borders(mask) == lines).all()
    expected = np.where(lines[..., None], colors[mask], pixels(photo))
    assert (pixels(tmp_path / "out/contours/day/a.png") == expected).all()


def test_borders_of_masks_are_those_of_any_class() -> None:
    masks = np.array([[[0, 0, 0, 1]], [[1, 0, 0, 0]]], dtype=np.uint8)
    assert borders(masks).tolist() == [[True, True, True, True]]
    assert not borders(np.zeros((2, 3), dtype=np.uint8)).any()


def test_pixels_without_a_class_are_black_in_a_picture_of_colors() -> None:
    masks = np.zeros((2, 2, 3), dtype=np.uint8)
    masks[1, 0, 1] = 1
    drawn = ClassMasks(["sky", "sea"]).overlay(np.zeros((2, 3, 3), dtype=np.uint8), masks, alpha=1)
    assert drawn.any(axis=-1).tolist() == masks[1].astype(bool).tolist()


def test_probabilities_are_the_softmax_of_the_logits(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    write(predictor, tmp_path / "in", tmp_path / "out", "probabilities", "probability_images")
    expected = logits(predictor, photo).softmax(0).numpy()
    stored = np.load(tmp_path / "out/probabilities/day/a.npy")
    assert (stored.dtype, stored.shape) == (np.float16, (3, 37, 53))
    assert np.abs(stored - expected).max() < 0.0005
    for name, channel in zip(predictor.class_names, expected, strict=True):
        image = pixels(tmp_path / f"out/probability_images/day/a_{name}.png")
        assert image.dtype == np.uint16
        assert np.abs(image / 65_535 - channel).max() < 1e-4
    assert (pixels(tmp_path / "out/masks/day/a.png") == stored.argmax(0)).mean() > 0.99


def test_the_probabilities_of_several_labels_are_sigmoids(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    labels = Predictor(predictor.model, "cpu", ClassMasks(predictor.class_names, 0.3))
    write(labels, tmp_path / "in", tmp_path / "out", "probabilities")
    stored = np.load(tmp_path / "out/probabilities/day/a.npy")
    assert np.abs(stored - logits(predictor, photo).sigmoid().numpy()).max() < 0.0005
    for name, channel in zip(predictor.class_names, stored, strict=True):
        assert ((pixels(tmp_path / f"out/masks/day/a_{name}.png") == 255) == (channel > 0.3)).mean() > 0.99


def test_masks_do_not_depend_on_what_else_is_written(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    write(predictor, photo, tmp_path / "one")
    write(predictor, photo, tmp_path / "other", "probabilities")
    assert (tmp_path / "one/masks/a.png").read_bytes() == (tmp_path / "other/masks/a.png").read_bytes()


@pytest.mark.parametrize(
    "output", [ClassIndices(["a", "b", "c"]), ClassMasks(["a", "b", "c"])], ids=["indices", "masks"]
)
def test_a_saved_mask_is_read_back(output: ClassIndices | ClassMasks, tmp_path: Path) -> None:
    shape = (5, 7) if isinstance(output, ClassIndices) else (3, 5, 7)
    prediction = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    for name in ("x.png", "x.tif"):
        output.save(prediction, tmp_path / name)
        assert (output.load(tmp_path / name) == prediction).all()


def test_an_unknown_format_is_refused(predictor: Predictor, photo: Path) -> None:
    with pytest.raises(ValueError, match=r"write has no format 'overlay'. Did you mean overlays"):
        find_names(predictor, photo, ["overlay"])
    with pytest.raises(ValueError, match=r"write=color: expected a list, such as write=\[color\]"):
        find_names(predictor, photo, "color")


def test_files_of_a_format_collide_as_masks_do(predictor: Predictor, photo: Path) -> None:
    photo.with_name("a_sea.png").write_bytes(photo.read_bytes())
    named = Predictor(predictor.model, "cpu", ClassIndices(["sea_sky", "sky", "x"]))
    assert len(find_names(named, photo.parent)) == 2
    with pytest.raises(DataError, match=r"would both be written as 'probability_images/a_sea_sky\.png'"):
        find_names(named, photo.parent, ["probability_images"])


def test_a_list_takes_files_folders_and_globs(photo: Path, tmp_path: Path) -> None:
    for name in ("b.png", "c.png"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    (tmp_path / "other").mkdir()
    photo.rename(tmp_path / "other" / "a.png")
    found = find_images([tmp_path / "in", f"{tmp_path}/o*/*.png", tmp_path / "in/day/b.png"])
    assert {path.name: str(place) for path, place in found.items()} == {
        "b.png": "b.png",
        "c.png": "day/c.png",
        "a.png": "a.png",
    }


class Sizes(Masks):
    """A format from outside: the size of each prediction as text."""

    def files(self, name: Path) -> list[Path]:
        return [Path("sizes") / name.with_suffix(".txt")]

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        (folder / self.files(name)[0]).write_text(str(predicted.prediction.shape))


def test_a_format_from_outside_is_a_row_of_the_table(
    predictor: Predictor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREDICTION_FORMATS, "sizes", Sizes)  # type: ignore[arg-type]  # a dict
    write(predictor, photo, tmp_path / "out", "sizes")
    assert (tmp_path / "out/sizes/a.txt").read_text() == "(37, 53)"
