"""Read masks from files of arrays: NumPy and MATLAB."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.data.records import DataError

ARRAY_SUFFIXES = (".npy", ".mat")
MAX_BYTES = 1 << 30  # of one array; a file may claim any size


def read_array(path: Path) -> npt.NDArray[np.integer]:
    """Return the whole numbers of a file (H, W).

    A MATLAB file may hold other variables too, if only one of them has two dimensions and more than one number.

    Raises:
        DataError: the file cannot be read, or does not hold one array of whole numbers in two dimensions.
    """
    try:
        array = _numpy(path) if path.suffix.lower() == ".npy" else _matlab(path)
    except (DataError, ImportError):
        raise
    except Exception as error:  # a broken file makes readers raise nearly anything
        raise DataError(f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file.") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise DataError(
            f"mask '{path}' holds {array.dtype} numbers of shape {array.shape}; expected whole numbers of shape "
            f"(height, width)."
        )
    return array.astype(np.uint8 if array.dtype.kind == "b" else array.dtype)


def _numpy(path: Path) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)  # a pickle could run code
    _check_size(array.nbytes, path)
    return np.array(array)


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
    if array.dtype.kind == "f" and (array == np.rint(array)).all():  # MATLAB's numbers are doubles unless cast
        array = array.astype(np.int64)
    return array


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise DataError(f"'{path}' claims to hold {size:,} bytes; at most {MAX_BYTES:,} are read. Cut it into tiles.")
