"""Read masks from files of arrays: NumPy, MATLAB and NIfTI."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.images.decode import NEXT
from finetune.data.images.formats import nifti
from finetune.data.records import DataError
from finetune.data.window import Window

ARRAY_SUFFIXES = (".npy", ".mat", ".nii", ".nii.gz")
MAX_BYTES = 1 << 30  # of one array; a file may claim any size


def is_array(path: Path) -> bool:
    """Return whether a mask is in a file of arrays, by its name."""
    return path.name.lower().endswith(ARRAY_SUFFIXES)


def read_array(path: Path, window: Window | None = None) -> npt.NDArray[np.integer]:
    """Return the whole numbers of a file (H, W), or of a part of it.

    A MATLAB file may hold other variables too, if only one of them has two dimensions and more than one number. The
    axes of a NIfTI file are those of an image of the format. Of a NumPy file, which may be of any size then, only the
    part is read.

    Raises:
        DataError: the file cannot be read, or does not hold one array of whole numbers in two dimensions.
    """
    array = _opened(path)
    if window is None:
        _check_size(array.nbytes, path)
    else:
        array = array[window.rows, window.columns]
    # from a file that is mapped into memory
    return whole_numbers(np.array(array, dtype=np.uint8 if array.dtype.kind == "b" else array.dtype), path)


def whole_numbers(array: npt.NDArray[Any], path: Path | str) -> npt.NDArray[np.integer]:
    """Return numbers as integers, also if they are stored as floating-point ones.

    Raises:
        DataError: they are not whole.
    """
    whole = _whole(array)
    if whole.dtype.kind == "f":
        raise _not_whole(path, whole)
    return whole


def array_size(path: Path) -> tuple[int, int]:
    """Return the height and width of the array in a file.

    Raises:
        DataError: as for `read_array`.
    """
    height, width = _opened(path).shape
    return height, width


def _opened(path: Path) -> npt.NDArray[Any]:
    """Return the array of a file; that of a NumPy file stays on disk."""
    try:
        array: npt.NDArray[Any] = READERS.get(path.suffix.lower(), _nifti)(path)
    except (DataError, ImportError):
        raise
    except Exception as error:  # a broken file makes readers raise nearly anything
        raise DataError(f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file.") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    may_be_whole = array.dtype.kind == "f" and path.suffix.lower() == ".npy"  # which its pixels show when they are read
    if array.ndim != 2 or not (array.dtype.kind in "iub" or may_be_whole):
        raise _not_whole(path, array)
    return array


def _not_whole(path: Path | str, array: npt.NDArray[Any]) -> DataError:
    return DataError(
        f"mask '{path}' holds {array.dtype} numbers of shape {array.shape}; expected whole numbers of shape "
        f"(height, width). Save the index of the class for each pixel."
    )


def _numpy(path: Path) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)  # a pickle could run code
    return array


def _matlab(path: Path) -> npt.NDArray[np.generic]:
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise ImportError(
            f"'{path}' is a MATLAB file, which needs a package that is not installed: pip install 'finetune-seg[mat]'"
        ) from error
    variables = {name: shape for name, shape, kind in whosmat(path) if kind not in ("struct", "cell", "object", "char")}
    masks = [name for name, shape in variables.items() if len(shape) == 2 and min(shape) > 1]
    if len(masks) != 1:
        held = ", ".join(f"{name} {kind} {shape}" for name, shape, kind in whosmat(path)) or "nothing"
        raise DataError(f"'{path}' holds {held}; expected one variable with a number for each pixel.")
    _check_size(int(np.prod(variables[masks[0]])) * 8, path)
    array: npt.NDArray[np.generic] = loadmat(path, variable_names=masks)[masks[0]]
    return _whole(array)


def _nifti(path: Path) -> npt.NDArray[np.generic]:
    return _whole(nifti.pixels(path).values[..., 0])


READERS = {".npy": _numpy, ".mat": _matlab}


def _whole(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return whole numbers that are stored as floating-point ones, as many programs do, as integers."""
    return array.astype(np.int64) if array.dtype.kind == "f" and (array == np.rint(array)).all() else array


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise DataError(f"'{path}' claims to hold {size:,} bytes; at most {MAX_BYTES:,} are read at once. {NEXT}")
