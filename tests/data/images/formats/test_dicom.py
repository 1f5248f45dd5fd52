import sys

import numpy as np
import pytest

from finetune.data.images.formats import read_header, read_pixels
from finetune.data.records import DataError


def write_dicom(path, pixels, photometric="MONOCHROME2", bits=16, **tags):
    pydicom = pytest.importorskip("pydicom")
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = "1.2.3"
    content.Rows, content.Columns = pixels.shape[:2]
    content.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    content.PhotometricInterpretation = photometric
    content.BitsAllocated = 8 * pixels.itemsize
    content.BitsStored, content.HighBit = bits, bits - 1
    content.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        content.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(content, name, value)
    content.PixelData = pixels.tobytes()
    content.save_as(path, enforce_file_format=True)
    return path


def test_slope_and_intercept_are_applied(tmp_path):
    stored = np.array([[0, 1000, 4000], [1, 2, 3]], dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, RescaleSlope=2, RescaleIntercept=-1024)
    pixels, header = read_pixels(path), read_header(path)
    assert np.array_equal(pixels.values[..., 0], stored.astype(int) * 2 - 1024)
    assert (header.height, header.width, header.colors, header.dtype) == (2, 3, 1, pixels.values.dtype)
    fraction = write_dicom(tmp_path / "b.dcm", stored, RescaleSlope=0.5, RescaleIntercept=0)
    assert read_pixels(fraction).values[0, 1, 0] == 500.0


def test_eight_bit_stays_eight_bit_and_may_be_color(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    path = write_dicom(tmp_path / "a.dcm", pixels, "RGB", bits=8)
    assert np.array_equal(read_pixels(path).values, pixels)
    assert (read_header(path).colors, read_header(path).is_deep) == (3, False)


def test_a_picture_whose_lowest_value_is_white_is_inverted(tmp_path):
    stored = np.array([[0, 4095]], dtype=np.uint16)
    assert read_pixels(write_dicom(tmp_path / "a.dcm", stored, "MONOCHROME1", 12)).values.flatten().tolist() == [
        4095,
        0,
    ]


def test_several_frames_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 6), np.uint16), NumberOfFrames=2)
    with pytest.raises(DataError, match=r"a\.dcm' holds 2 frames; expected one"):
        read_header(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"a\.dcm' is a DICOM file, .*pip install 'finetune-seg\[medical\]'"):
        read_pixels(tmp_path / "a.dcm")


def test_a_truncated_file_is_named(tmp_path):
    path = write_dicom(tmp_path / "cut.dcm", np.zeros((40, 60), np.uint16))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.dcm'"):
        read_pixels(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_color(tmp_path, bits):
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 0]], dtype=np.uint8), "PALETTE COLOR", bits=8)
    content = pytest.importorskip("pydicom").dcmread(path)
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [0, 0, 0]], dtype=f"uint{bits}") << (bits - 8)
    for number, column in enumerate(colors.T, start=1):
        content.add_new(0x00281100 + number, "US", [4, 0, bits])
        content.add_new(0x00281200 + number, "OW", column.tobytes())
    content.save_as(path)
    found = read_pixels(path)
    assert found.values.dtype == np.uint8
    assert found.values.tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]]
    assert (read_header(path).colors, read_header(path).is_deep) == (3, False)
