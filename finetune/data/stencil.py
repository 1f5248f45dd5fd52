"""Some pixels of an image, kept with the window that holds them, so that small things take little time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Stencil(NamedTuple):
    """A part of an image, and which of its pixels are covered: bool (h, w)."""

    top: int
    left: int
    covered: npt.NDArray[np.bool_]

    @property
    def rows(self) -> slice:
        """Rows of the image that the part has."""
        return slice(self.top, self.top + self.covered.shape[0])

    @property
    def columns(self) -> slice:
        """Columns of the image that the part has."""
        return slice(self.left, self.left + self.covered.shape[1])


NOTHING = Stencil(0, 0, np.zeros((0, 0), dtype=np.bool_))


def join(stencils: Sequence[Stencil]) -> Stencil:
    """Return the pixels that any of several stencils covers."""
    some = [stencil for stencil in stencils if stencil.covered.size]
    if len(some) < 2:
        return some[0] if some else NOTHING
    top, left = min(each.top for each in some), min(each.left for each in some)
    bottom, right = max(each.rows.stop for each in some), max(each.columns.stop for each in some)
    covered = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for each in some:
        covered[each.top - top : each.rows.stop - top, each.left - left : each.columns.stop - left] |= each.covered
    return Stencil(top, left, covered)
