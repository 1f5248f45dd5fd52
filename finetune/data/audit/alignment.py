"""Find masks that are shifted: their borders are not where the edges of the image are."""

import numpy as np
import numpy.typing as npt

REACH = 8  # pixels
STEP = 2
SHIFTS = range(-REACH, REACH + 1, STEP)
POINTS = 1024  # border pixels that are looked at
FEWEST = 200
NEAR = 1  # steps from the middle of a profile that are still no shift
FAR = 2  # steps from the middle that are a clear shift


def edge_profile(
    gray: npt.NDArray[np.uint8], channels: npt.NDArray[np.uint8], ignore_index: int
) -> npt.NDArray[np.float32] | None:
    """Return how strong the edges of an image are below the borders of its mask, for shifts of the mask.

    Args:
        gray: brightness (H, W).
        channels: labels (K, H, W).
        ignore_index: label whose borders do not count.

    Returns:
        (N, N) for the shifts down and right in `SHIFTS`, in multiples of the mean edge strength of the image; None if
        the mask has too few borders or the image no edges.
    """
    height, width = gray.shape
    if min(height, width) < 4 * REACH:
        return None
    border = _border(channels, ignore_index)
    if len(border) < FEWEST:
        return None
    picked = border[np.linspace(0, len(border) - 1, min(POINTS, len(border))).astype(np.intp)]
    rows, columns = np.divmod(picked, width - 2 * REACH - 1)
    strength = _edges(gray)
    mean = strength.mean()
    if mean < 1:
        return None
    places = ((rows + REACH) * strength.shape[1] + columns + REACH)[None]
    shifts = np.array([y * strength.shape[1] + x for y in SHIFTS for x in SHIFTS])[:, None]
    below: npt.NDArray[np.float32] = (strength.ravel()[places + shifts].mean(axis=1) / mean).astype(np.float32)
    return below.reshape(len(SHIFTS), len(SHIFTS))


def _border(channels: npt.NDArray[np.uint8], ignore_index: int) -> npt.NDArray[np.intp]:
    """Return the pixels whose right or lower neighbor has another label, counted inside the reach of the shifts."""
    inner = channels[:, REACH : -REACH - 1, REACH : -REACH - 1]
    right, below = (
        channels[:, REACH : -REACH - 1, REACH + 1 : -REACH],
        channels[:, REACH + 1 : -REACH, REACH : -REACH - 1],
    )
    differs = ((inner != right) & (right != ignore_index)) | ((inner != below) & (below != ignore_index))
    return np.flatnonzero((differs & (inner != ignore_index)).any(axis=0))


def _edges(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Return the edge strength between each pixel and its right and lower neighbors (H - 1, W - 1)."""
    levels = gray.astype(np.int16)
    right, below = levels[:-1, 1:] - levels[:-1, :-1], levels[1:, :-1] - levels[:-1, :-1]
    strength: npt.NDArray[np.int16] = np.abs(right) + np.abs(below)
    return strength


def clear_shift(profile: npt.NDArray[np.float32], least: float = 1.6, ratio: float = 1.4) -> tuple[int, int] | None:
    """Return the shift (down, right) in pixels that brings masks onto edges, if they are clearly not there.

    Args:
        profile: of a mask, or the mean of those of many, which has less noise.
        least: edge strength below the shifted mask.
        ratio: of that to the edge strength below the mask as it is.
    """
    middle = len(SHIFTS) // 2
    here = float(profile[middle - NEAR : middle + NEAR + 1, middle - NEAR : middle + NEAR + 1].max())
    row, column = np.unravel_index(int(profile.argmax()), profile.shape)
    best = float(profile[row, column])
    is_far = max(abs(int(row) - middle), abs(int(column) - middle)) >= FAR
    if not is_far or best < least or best < ratio * here:
        return None
    return SHIFTS[int(row)], SHIFTS[int(column)]
