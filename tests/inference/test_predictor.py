"""Masks on disk against the model's predictions of each image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.files import IMAGE_SUFFIXES, files_below
from finetune.data.records import DataError
from finetune.inference import ClassIndices, ClassMasks, Predictor
from finetune.inference.files import find_images, output_names
from finetune.inference.finite import NonFiniteOutputError
from finetune.inference.saving import find_names, save_predictions
from finetune.models import Segmenter
from finetune.plots import overlay, palette
from finetune.plots.label_sets import label_sets

Draw = Callable[..., Path]
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(1)
    model = Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea", "land", "ice"], weights="none", head_options=SMALL)
    return Predictor(model, device="cpu")


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write an image of noise below tmp_path."""

    def save(name: str, height: int = 37, width: int = 53, mode: str = "RGB", seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).convert(mode).save(path)
        return path

    return save


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write(predictor: Predictor, source: Path | str, output: Path, *formats: str) -> list[Path]:
    """Do what the command does."""
    return save_predictions(predictor, find_names(predictor, source, formats), output, formats)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_are_no_prediction(value: float, draw: Draw, tmp_path: Path) -> None:
    model = Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea"], weights="none", head_options=SMALL)
    next(model.head.parameters()).data.view(-1)[0] = value
    photo = draw("photos/a.png")
    with pytest.raises(NonFiniteOutputError, match=r"photos/a.png: the model's outputs are NaN or infinite"):
        Predictor(model, device="cpu").predict(photo)
    with pytest.raises(NonFiniteOutputError, match=r"photos/a.png: the model's outputs are NaN or infinite"):
        write(Predictor(model, device="cpu"), photo, tmp_path / "out")
    assert below(tmp_path / "out") == []


def expected_mask(predictor: Predictor, path: Path) -> np.ndarray:
    """Return the model's answer without any of the predictor's reading and writing."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255
    mean, std = predictor.model.backbone.normalization()
    image = torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return predictor.model(image)[0].argmax(0).numpy()


def agree(mask: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for a few pixels where two classes tie to the last digit."""
    return mask.shape == expected.shape and (mask == expected).mean() > 0.998


def test_a_file_becomes_a_mask_of_its_own_size(predictor: Predictor, draw: Draw) -> None:
    path = draw("photo.jpg")
    ((found, mask),) = predictor.predict(path).items()
    assert found == path
    assert (mask.dtype, mask.shape) == (np.uint8, (37, 53))
    assert agree(mask, expected_mask(predictor, path))
    assert len(np.unique(mask)) > 1


def test_a_folder_is_searched_in_depth_and_in_order(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    draw("in/b.png", 40, 20)
    draw("in/deep/er/a.JPG", 20, 40)
    draw("in/a.png", 33, 34)
    draw("in/.hidden.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    masks = predictor.predict(tmp_path / "in")
    assert [str(path.relative_to(tmp_path)) for path in masks] == ["in/a.png", "in/b.png", "in/deep/er/a.JPG"]
    assert [mask.shape for mask in masks.values()] == [(33, 34), (40, 20), (20, 40)]


def test_a_glob_takes_what_matches(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    for name in ("in/a_1.png", "in/a_2.png", "in/b_1.png", "in/deep/a_3.png"):
        draw(name)
    assert [path.name for path in predictor.predict(f"{tmp_path}/in/a_*.png")] == ["a_1.png", "a_2.png"]
    assert [path.name for path in predictor.predict(f"{tmp_path}/in/**/a_*.png")] == ["a_1.png", "a_2.png", "a_3.png"]


def test_masks_are_palette_files_of_class_indices(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    sources = [draw("in/a.png", 37, 53), draw("in/deep/b.jpg", 64, 32, seed=1)]
    written = write(predictor, tmp_path / "in", tmp_path / "out")
    assert written == [tmp_path / "out" / "masks" / name for name in ("a.png", "deep/b.png")]
    assert below(tmp_path / "out") == ["masks/a.png", "masks/deep/b.png"]
    for source, path in zip(sources, written, strict=True):
        mask = Image.open(path)
        assert mask.mode == "P"
        assert mask.size == Image.open(source).size
        indices = np.asarray(mask)
        assert indices.max() < 4
        assert agree(indices, expected_mask(predictor, source))
        colors = np.asarray(mask.convert("RGB"))
        assert (colors == np.array(palette(4), dtype=np.uint8)[indices]).all()


def test_overlays_lie_beside_the_masks(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    source = draw("in/a.png")
    write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    assert below(tmp_path / "out") == ["masks/a.png", "overlays/a.png"]
    shown = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png"))
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
    half = (np.asarray(Image.open(source)).astype(float) + np.array(palette(4))[mask]) / 2
    assert np.abs(shown - half).max() <= 0.5
    assert (shown == overlay(np.asarray(Image.open(source)), mask, palette(4))).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_other_modes_are_read(mode: str, predictor: Predictor, draw: Draw) -> None:
    path = draw("photo.png", mode=mode)
    (mask,) = predictor.predict(path).values()
    assert agree(mask, expected_mask(predictor, path))


def test_a_model_of_gray_images_reads_color_files_as_gray(draw: Draw, tmp_path: Path) -> None:
    model = Segmenter("test_resnet.r160_in1k", "fpn", 2, weights="none", in_channels=1, head_options=SMALL)
    predictor = Predictor(model, device="cpu")
    draw("in/photo.png")
    write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    assert Image.open(tmp_path / "out" / "masks" / "photo.png").size == (53, 37)
    assert Image.open(tmp_path / "out" / "overlays" / "photo.png").mode == "RGB"


def test_a_phone_photo_is_predicted_upright(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    upright = draw("upright.png", 40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    (mask,) = predictor.predict(tmp_path / "turned.png").values()
    assert (mask == next(iter(predictor.predict(upright).values()))).all()


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_files_that_cannot_be_read_are_named_when_the_others_are_written(
    ending: str, predictor: Predictor, draw: Draw, tmp_path: Path
) -> None:
    draw("in/a_whole.png")
    broken = draw(f"in/b_broken.{ending}", 200, 200)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    (tmp_path / "in" / "c_text.png").write_text("no image")
    with pytest.raises(DataError, match=r"2 of 3 files cannot be read") as error:
        write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    assert f"b_broken.{ending}" in str(error.value)
    assert "c_text.png" in str(error.value)
    assert "a_whole" not in str(error.value)
    assert "The masks of the others are in" in str(error.value)
    assert below(tmp_path / "out") == ["masks/a_whole.png", "overlays/a_whole.png"]
    with pytest.raises(DataError, match="2 of 3 files cannot be read"):
        predictor.predict(tmp_path / "in")


def test_each_image_is_decoded_once_and_only_what_is_missing(
    predictor: Predictor, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        draw(f"in/{number:02d}.png", seed=number)
    read: list[str] = []
    original = predictor.read
    monkeypatch.setattr(predictor, "read", lambda path: read.append(path.name) or original(path))
    written = write(predictor, tmp_path / "in", tmp_path / "out", "overlays")
    assert sorted(read) == [f"{number:02d}.png" for number in range(20)]
    masks = [path.read_bytes() for path in written]
    for name in ("masks/03.png", "overlays/07.png"):
        (tmp_path / "out" / name).unlink()
    read.clear()
    assert write(predictor, tmp_path / "in", tmp_path / "out", "overlays") == written
    assert sorted(read) == ["03.png", "07.png"]
    assert [path.read_bytes() for path in written] == masks


def test_a_run_that_is_interrupted_leaves_whole_files_only_and_goes_on(
    predictor: Predictor, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        draw(f"in/{number:02d}.png", seed=number)
    whole = write(predictor, tmp_path / "in", tmp_path / "whole")
    original = predictor.predict_image

    def stop(image: torch.Tensor) -> torch.Tensor:
        if len(below(tmp_path / "out")) >= 5:
            raise KeyboardInterrupt
        return original(image)

    monkeypatch.setattr(predictor, "predict_image", stop)
    with pytest.raises(KeyboardInterrupt):
        write(predictor, tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    done = sorted((tmp_path / "out" / "masks").iterdir())
    assert 5 <= len(done) < 30
    assert all(path.read_bytes() == (tmp_path / "whole" / "masks" / path.name).read_bytes() for path in done)
    written = write(predictor, tmp_path / "in", tmp_path / "out")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in whole]
    assert below(tmp_path / "out") == below(tmp_path / "whole")


def test_batches_predict_the_same_as_single_images(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    sizes = [(37, 53)] * 5 + [(40, 40)] * 3 + [(37, 53)]
    for number, size in enumerate(sizes):
        draw(f"in/{number}.png", *size, seed=number)
    one = predictor.predict(tmp_path / "in")
    several = Predictor(predictor.model, device="cpu", batch_size=4).predict(tmp_path / "in")
    assert list(one) == list(several)
    assert all(agree(one[path], several[path]) for path in one)


def test_a_batch_has_an_image_at_least(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="batch_size=0: expected 1 or more"):
        Predictor(predictor.model, device="cpu", batch_size=0)


def test_an_error_of_a_writing_thread_ends_the_predictions(
    predictor: Predictor, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    draw("in/a.png")
    monkeypatch.setattr(predictor.output, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write(predictor, tmp_path / "in", tmp_path / "out")


def test_two_images_with_one_name_collide_and_nothing_is_written(
    predictor: Predictor, draw: Draw, tmp_path: Path
) -> None:
    draw("in/sub/a.jpg")
    draw("in/sub/a.png")
    with pytest.raises(DataError, match=r"a\.jpg' and '.*a\.png' would both be written as 'masks/sub/a\.png'"):
        write(predictor, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_name_in_two_folders_does_not_collide(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    draw("in/x/a.png")
    draw("in/y/a.png")
    write(predictor, tmp_path / "in", tmp_path / "out")
    assert below(tmp_path / "out") == ["masks/x/a.png", "masks/y/a.png"]


def test_one_name_in_two_folders_of_a_glob_collides(predictor: Predictor, draw: Draw, tmp_path: Path) -> None:
    draw("in/x/a.png")
    draw("in/y/a.png")
    with pytest.raises(DataError, match=r"would both be written as 'masks/a\.png'"):
        write(predictor, f"{tmp_path}/in/*/a.png", tmp_path / "out")


def test_images_in_formats_that_are_not_read_are_named(
    draw: Draw, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw("in/a.png")
    (tmp_path / "in" / "b.heic").write_bytes(b"?")
    assert [path.name for path in find_images(tmp_path / "in")] == ["a.png"]
    assert "1 images in" in caplog.text
    assert ".heic are not read, such as b.heic" in caplog.text


def test_a_dotted_name_keeps_its_dots() -> None:
    path = Path("in/photo.2024.jpg")
    assert output_names({path: Path(path.name)}) == {path: Path("photo.2024.png")}
    scan = Path("in/scan.1.nii.gz")
    assert output_names({scan: Path(scan.name)}) == {scan: Path("scan.1.png")}
    slices = [Path("1.2.840.5"), Path("1.2.840.6")]  # DICOM files, as archives name them
    assert output_names({path: path for path in slices}) == {path: Path(f"{path}.png") for path in slices}


def test_an_empty_folder_says_what_was_expected(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' has no image in it. Expected files ending in .*\.png"):
        predictor.predict(tmp_path / "empty")


@pytest.mark.parametrize("name", ["absent", "absent.png", "*.png"])
def test_a_path_that_leads_nowhere_is_refused(name: str, predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no file or folder, and no image matches it as a glob"):
        find_images(tmp_path / name)


def test_a_text_file_names_images_below_its_folder_or_elsewhere(draw: Draw, tmp_path: Path) -> None:
    paths = [draw("photos/day/a.png"), draw("photos/#b.png"), draw("photos/c.png"), draw("d.png")]
    listed = tmp_path / "photos" / "list.TXT"
    listed.write_text(f"\ufeff# by hand\n\n./day/a.png\r\n ./#b.png \n#c.png\n{paths[3]}\nday/../c.png\nday/a.png\n")
    found = find_images([listed, paths[3]])
    assert {path.resolve(): str(place) for path, place in found.items()} == {
        paths[0]: "day/a.png",
        paths[1]: "#b.png",
        paths[3]: "d.png",
        paths[2]: "c.png",
    }
    assert list(found) == [paths[0], paths[1], paths[3], tmp_path / "photos/day/../c.png"]


def test_a_list_names_the_line_that_leads_nowhere(draw: Draw, tmp_path: Path) -> None:
    draw("a.png")
    (tmp_path / "list.txt").write_text("# two\na.png\n\nb.png\n")
    with pytest.raises(DataError, match=r"list\.txt' line 4 names 'b\.png', but '.*/b\.png' is no file\."):
        find_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# none\n\n")
    with pytest.raises(DataError, match=r"list\.txt' names no file\."):
        find_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"list\.txt' cannot be read: 'utf-8' codec"):
        find_images(tmp_path / "list.txt")


def test_a_folder_with_glob_characters_in_its_name_is_a_folder(draw: Draw, tmp_path: Path) -> None:
    path = draw("day [1]/a.png")
    assert list(find_images(tmp_path / "day [1]")) == [path]
    assert list(find_images(path)) == [path]


def test_masks_of_the_most_classes_keep_every_index(tmp_path: Path) -> None:
    mask = np.arange(255, dtype=np.uint8).reshape(15, 17)
    ClassIndices([f"class {index}" for index in range(255)]).save(mask, tmp_path / "new" / "mask.png")
    assert (np.asarray(Image.open(tmp_path / "new" / "mask.png")) == mask).all()


def test_predicting_leaves_the_model_in_eval_mode_and_its_weights_alone(predictor: Predictor, draw: Draw) -> None:
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    first, second = (next(iter(predictor.predict(draw("photo.png")).values())) for _ in range(2))
    assert (first == second).all()
    assert not predictor.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in predictor.model.state_dict().items())


def test_class_names_are_the_models(predictor: Predictor) -> None:
    assert predictor.class_names == ("sky", "sea", "land", "ice")


def test_files_of_classes_have_distinct_valid_names() -> None:
    output = ClassMasks(["sky", "road/path", "road path", "Sky"])
    names = [path.name for path in output.files(Path("day/a.png"))]
    assert names == ["a_sky.png", "a_road-path.png", "a_road-path-2.png", "a_Sky-3.png"]


def test_two_images_whose_classes_share_a_file_collide() -> None:
    output = ClassMasks(["b", "a_b"])
    paths = [Path("x.jpg"), Path("x_a.jpg")]
    with pytest.raises(DataError, match=r"'x.jpg' and 'x_a.jpg' would both be written as 'x_a_b.png'"):
        output_names({path: path for path in paths}, output.files)


def test_pixels_without_a_class_keep_the_color_of_the_image() -> None:
    image = np.full((2, 3, 3), 200, dtype=np.uint8)
    masks = np.zeros((2, 2, 3), dtype=np.uint8)
    masks[1, 0, 1] = 1
    drawn = ClassMasks(["sky", "sea"]).overlay(image, masks)
    assert ((drawn != image).any(axis=-1) == masks[1]).all()


def test_sets_of_more_classes_than_a_number_has_bits() -> None:
    masks = np.random.default_rng(0).integers(0, 2, (100, 6, 7), dtype=np.uint8)
    masks[:, 0, :2] = 0
    (labels,), names, colors = label_sets([masks], [str(k) for k in range(100)])
    assert labels[0, :2].tolist() == [0, 0]
    for row, column in np.ndindex(6, 7):
        members = np.flatnonzero(masks[:, row, column])
        assert names[labels[row, column]] == (" + ".join(map(str, members)) or "none")
    assert len(names) == len(colors) == labels.max() + 1


def test_predictions_see_the_same_files_as_a_training(draw: Draw, tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/day/b.PNG", "photos/.ipynb_checkpoints/c.png", "photos/.d.png", "disk/e.png"):
        draw(name)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "photos", target_is_directory=True)  # would never end
    (tmp_path / "photos" / "broken.png").symlink_to(tmp_path / "absent.png")
    names = ["a.png", "day/b.PNG", "linked/e.png"]
    assert list(find_images(tmp_path / "photos")) == [tmp_path / "photos" / name for name in names]
    assert files_below(tmp_path / "photos", IMAGE_SUFFIXES) == list(find_images(tmp_path / "photos"))
    assert files_below(tmp_path / "photos", IMAGE_SUFFIXES, deep=False) == [tmp_path / "photos" / "a.png"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("you tried to allocate 582156288 bytes")])
def test_an_image_that_memory_is_too_small_for_is_named(
    predictor: Predictor, draw: Draw, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(image: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(predictor, "predict_image", fail)
    reason = str(error) or "MemoryError"
    with pytest.raises(RuntimeError, match=rf"large\.png' of 53 x 37 pixels .*{reason}.*window=512"):
        predictor.predict(draw("large.png"))
