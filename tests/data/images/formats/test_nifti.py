from pathlib import Path

import numpy as np
import pytest

from finetune.data.files import ImageFile, MaskFile
from finetune.data.images.formats import read_header, read_pixels
from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError
from finetune.data.sources import FolderSource

nibabel = pytest.importorskip("nibabel")
VALUES = np.array([[1, 2], [3, 4], [5, 6]])  # three columns of two rows
PICTURE = [[1, 3, 5], [2, 4, 6]]


def save(path: Path, values: np.ndarray, scale: tuple[float, float] | None = None, affine=None, kind=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = (kind or nibabel.Nifti1Image)(values, np.eye(4) if affine is None else affine)
    if scale is not None:
        image.header.set_slope_inter(*scale)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1), (1, 3, 2), (3, 1, 2), (3, 2, 1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_the_first_axis_runs_along_a_row(tmp_path, suffix, shape, dtype):
    path = save(tmp_path / f"a{suffix}", VALUES.astype(dtype).reshape(shape))
    header, pixels = read_header(path), read_pixels(path)
    assert pixels.values[..., 0].tolist() == PICTURE
    assert (header.height, header.width, header.colors) == (2, 3, 1)
    assert header.dtype == pixels.values.dtype == dtype
    assert read_mask(path).tolist() == PICTURE


def test_the_place_in_space_turns_nothing(tmp_path):
    path = save(tmp_path / "a.nii", VALUES.astype(np.uint8), affine=np.diag([-1, -2, 3, 1]))
    assert read_pixels(path).values[..., 0].tolist() == PICTURE


def test_a_picture_of_one_row_or_column_is_left_as_it_is(tmp_path):
    assert read_pixels(save(tmp_path / "a.nii", np.zeros((1, 5), np.uint8))).values.shape == (5, 1, 1)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(
    ("scale", "dtype"), [((2, -1000), np.int32), ((0.5, 0), np.float32), ((1, 0.25), np.float32), ((1, 0), np.int16)]
)
def test_slope_and_intercept_are_applied(tmp_path, kind, scale, dtype):
    found = read_pixels(save(tmp_path / "a.nii.gz", VALUES.astype(np.int16), scale, kind=kind)).values[..., 0]
    assert found.dtype == dtype
    assert np.array_equal(found, np.array(PICTURE) * scale[0] + scale[1])


def test_the_order_of_the_bytes_does_not_matter(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(VALUES.astype(np.int16), np.eye(4), header), tmp_path / "a.nii")
    assert read_pixels(tmp_path / "a.nii").values[..., 0].tolist() == PICTURE


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_masks_hold_whole_numbers_in_any_type(tmp_path, dtype):
    assert read_mask(save(tmp_path / "m.nii.gz", VALUES.astype(dtype))).tolist() == PICTURE
    with pytest.raises(DataError, match=r"mask '.*h\.nii' holds float32 numbers .*expected whole numbers"):
        read_mask(save(tmp_path / "h.nii", (VALUES + 0.5).astype(np.float32)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 2, 4), np.uint8), r"bad\.nii' holds a volume of 3 x 2 x 4; .*each slice as a file of its own"),
        (np.zeros((3, 2, 1, 5), np.uint8), r"bad\.nii' holds a volume of 3 x 2 x 1 x 5"),
        (np.zeros((3, 1, 1), np.uint8), r"bad\.nii' has the shape \(3, 1, 1\); expected a picture with two sides"),
        (np.zeros((3, 2), np.complex64), r"bad\.nii' holds complex64 values"),
    ],
)
def test_other_contents_are_named(tmp_path, values, message):
    path = save(tmp_path / "bad.nii", values)
    for read in (read_header, read_pixels, read_mask):
        with pytest.raises(DataError, match=message):
            read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [3, 100, 400, 0.7])
def test_a_truncated_file_is_named(tmp_path, suffix, kept):
    path = save(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 255, (80, 60)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.nii"):
        read_pixels(path)


def test_a_size_that_only_the_header_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.nii' claims to have 11 x 10 pixels"):
        read_pixels(save(tmp_path / "a.nii", np.zeros((11, 10), np.uint8)))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", VALUES.astype(np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    for read in (read_pixels, read_mask):
        with pytest.raises(DataError, match=r"a\.nii' is a NIfTI file.*pip install 'finetune-seg\[medical\]'"):
            read(path)


def test_images_and_masks_are_paired_by_their_names_without_both_suffixes(tmp_path):
    for name in ("a", "b.1"):
        save(tmp_path / f"images/{name}.nii.gz", VALUES.astype(np.uint8))
        save(tmp_path / f"masks/{name}_seg.nii.gz", (VALUES > 2).astype(np.uint8))
    records = FolderSource(tmp_path, classes=2, mask_suffix="_seg").records()
    assert [record.name for record in records] == ["a", "b.1"]
    assert [(type(r.image), type(r.target)) for r in records] == [(ImageFile, MaskFile)] * 2
    assert records[1].target.read().tolist() == [[0, 1, 1], [0, 1, 1]]
