"""Parts of an image: a rectangle, and the grid of tiles that covers an image."""

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels inside an image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Rows of the image."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the image."""
        return slice(self.left, self.left + self.width)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge, as Pillow takes them."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @property
    def text(self) -> str:
        """First and last row, then column, the last excluded.

        >>> Window(0, 2048, 1024, 512).text
        '[0-1024,2048-2560]'
        """
        return f"[{self.top}-{self.top + self.height},{self.left}-{self.left + self.width}]"

    def grown(self, margin: int, size: tuple[int, int]) -> "Window":
        """Return the window with a margin on all sides, as far as the image of this size (height, width) reaches."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom = min(size[0], self.top + self.height + margin)
        right = min(size[1], self.left + self.width + margin)
        return Window(top, left, bottom - top, right - left)

    def within(self, outer: "Window") -> "Window":
        """Return the window with its place counted from the corner of another one that holds it."""
        return self._replace(top=self.top - outer.top, left=self.left - outer.left)


def grid(size: tuple[int, int], tile: tuple[int, int]) -> list[Window]:
    """Return windows that cover each pixel of an image once, row by row.

    >>> grid((4000, 5000), (2048, 2048))[-1]
    Window(top=2048, left=3584, height=1952, width=1416)

    Args:
        size: height and width of the image.
        tile: largest height and width of a window.
    """
    rows, columns = (_parts(length, longest) for length, longest in zip(size, tile, strict=True))
    return [Window(top, left, height, width) for top, height in rows for left, width in columns]


def _parts(length: int, longest: int) -> list[tuple[int, int]]:
    """Return (start, length) of the parts of a side: equal ones but for a shorter last one.

    >>> _parts(5000, 2048), _parts(2049, 2048), _parts(4096, 2048)
    ([(0, 1792), (1792, 1792), (3584, 1416)], [(0, 1280), (1280, 769)], [(0, 2048), (2048, 2048)])
    """
    count = -(-length // longest)
    unit = max(1, longest // 8)  # so that parts end where the blocks of the file do, and no sliver is left over
    step = min(longest, -(-length // (count * unit)) * unit)
    return [(start, min(step, length - start)) for start in range(0, length, step)]
