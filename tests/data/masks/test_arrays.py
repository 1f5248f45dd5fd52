import numpy as np
import pytest

from finetune.data.masks.arrays import read_array
from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError
from finetune.data.window import Window

MASK = np.array([[0, 1], [2, 1], [0, 0]])


@pytest.mark.parametrize(
    "array",
    [MASK, MASK.astype(np.uint8), MASK.astype(np.int16), MASK > 0, MASK[..., None], MASK[None], MASK.astype(float)],
)
def test_arrays_of_numpy_are_masks(tmp_path, array):
    np.save(tmp_path / "m.npy", array)
    assert np.array_equal(read_array(tmp_path / "m.npy"), np.squeeze(array))
    assert read_mask(tmp_path / "m.npy").tolist() == np.squeeze(array).astype(int).tolist()


def test_of_numbers_with_a_point_only_the_part_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "m.npy", MASK.astype(np.float32))
    monkeypatch.setattr("finetune.data.masks.arrays.MAX_BYTES", MASK.size * 4 - 1)
    with pytest.raises(DataError, match="claims to hold 24 bytes"):
        read_array(tmp_path / "m.npy")
    assert read_array(tmp_path / "m.npy", Window(1, 0, 1, 2)).tolist() == [[2, 1]]
    np.save(tmp_path / "half.npy", MASK / 2)
    assert read_array(tmp_path / "half.npy", Window(2, 0, 1, 2)).tolist() == [[0, 0]]
    with pytest.raises(DataError, match=r"half\.npy' holds float64 numbers"):
        read_array(tmp_path / "half.npy", Window(1, 0, 1, 2))


def test_variables_of_matlab_are_masks(tmp_path):
    io = pytest.importorskip("scipy.io", reason="MATLAB files: pip install 'finetune-seg[mat]'")
    io.savemat(tmp_path / "m.mat", {"labels": MASK.astype(np.float64), "scale": 2.0, "name": "x"})
    assert read_array(tmp_path / "m.mat").tolist() == MASK.tolist()
    io.savemat(tmp_path / "two.mat", {"labels": MASK, "other": MASK})
    with pytest.raises(DataError, match=r"two\.mat' holds labels .* other .*expected one variable"):
        read_array(tmp_path / "two.mat")
    io.savemat(tmp_path / "half.mat", {"labels": MASK / 4})
    with pytest.raises(DataError, match=r"half\.mat' holds float64 numbers"):
        read_array(tmp_path / "half.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 3, 4)), r"holds float64 numbers of shape \(2, 3, 4\)"),
        (np.zeros(5, int), r"of shape \(5,\); expected whole numbers of shape \(height, width\)"),
        (np.array([{"code": 1}], dtype=object), r"cannot read .*Replace the file"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", r"cannot read .*m\.npy"),
        (b"", r"cannot read .*m\.npy"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "m.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_array(path)


def test_a_damaged_matlab_file_is_refused_by_name(tmp_path):
    pytest.importorskip("scipy.io", reason="MATLAB files: pip install 'finetune-seg[mat]'")
    (tmp_path / "m.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DataError, match=r"m\.mat"):
        read_array(tmp_path / "m.mat")
