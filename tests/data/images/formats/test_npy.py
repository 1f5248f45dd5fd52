import numpy as np
import pytest

from finetune.data.images.formats import read_header, read_pixels
from finetune.data.records import DataError


def save(path, values):
    np.save(path, values, allow_pickle=values.dtype == object)
    return path


@pytest.mark.parametrize(
    ("shape", "moved"),
    [((4, 6), False), ((4, 6, 3), False), ((3, 4, 6), True), ((1, 4, 6), True), ((4, 6, 1), False), ((9, 8, 5), False)],
)
def test_the_bands_are_the_short_axis(tmp_path, shape, moved):
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    expected = values[..., None] if values.ndim == 2 else np.moveaxis(values, 0, 2) if moved else values
    path = save(tmp_path / "a.npy", values)
    assert np.array_equal(read_pixels(path).values, expected)
    header = read_header(path)
    assert (header.height, header.width, header.colors, header.dtype) == (*expected.shape, np.uint16)


def test_true_is_white(tmp_path):
    path = save(tmp_path / "a.npy", np.array([[True, False]]))
    assert (read_pixels(path).values.flatten().tolist(), read_header(path).is_deep) == ([255, 0], False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\), in which it is not clear"),
        (np.zeros((4, 9, 4), np.uint8), r"shape \(4, 9, 4\), in which it is not clear"),
        (np.zeros(4, np.uint8), r"shape \(4,\); expected"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4, 1\); expected"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"shape \(2, 3, 4, 5\); expected"),
        (np.zeros((4, 6), np.complex64), "holds complex64"),
        (np.zeros((4, 6), "U3"), "holds <U3"),
        (np.array([[{}]], dtype=object), "cannot read"),
    ],
)
def test_arrays_that_are_no_image_are_refused(tmp_path, values, message):
    path = save(tmp_path / "bad.npy", values)
    for read in (read_pixels, read_header):
        with pytest.raises(DataError, match=rf"bad\.npy'.*{message}|{message}.*bad\.npy"):
            read(path)


def test_a_truncated_array_is_named(tmp_path):
    path = save(tmp_path / "cut.npy", np.zeros((40, 60), np.uint16))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.npy'"):
        read_pixels(path)


def test_a_size_that_only_the_header_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.npy' claims to have 11 x 10 pixels"):
        read_header(save(tmp_path / "a.npy", np.zeros((10, 11), np.uint8)))


def test_the_order_of_the_bytes_does_not_matter(tmp_path):
    values = np.array([[1, 256], [515, 65_535]], dtype=">u2")
    found = read_pixels(save(tmp_path / "a.npy", values)).values
    assert found.dtype == np.uint16  # of this machine: a table of all values is looked up by its bytes
    assert found[..., 0].tolist() == values.tolist()
