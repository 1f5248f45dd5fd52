"""Text in figures: names that fit, and fonts that have their letters."""

import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

LONGEST = 28  # columns of a class name in a figure
# fonts for letters that DejaVu Sans lacks, of Linux, macOS and Windows
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Unifont"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)


def columns(text: str) -> int:
    """Return the width of a text in columns of a terminal: Chinese, Japanese and Korean letters take two.

    >>> columns("road"), columns("道路")
    (4, 4)
    """
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shorten(name: str, longest: int = LONGEST) -> str:
    """Return a name of at most so many columns, with an ellipsis for its middle, on one line.

    >>> shorten("building facade 12", 12)
    'buildi…de 12'
    """
    name = " ".join(name.split())
    if columns(name) <= longest:
        return name
    head, tail = name[: len(name) // 2], name[len(name) // 2 :]
    while columns(head) + columns(tail) > longest - 1:
        cut_head = columns(head) > columns(tail) + 1 or not tail
        head, tail = (head[:-1], tail) if cut_head else (head, tail[1:])
    return f"{head}…{tail}"


def axis_label(name: str) -> str:
    """Return a name for matplotlib: shortened, and without mathematical notation, which a pair of $ would start."""
    return shorten(name).replace("$", r"\$")


def label_inches(names: Iterable[str]) -> float:
    """Return the width of the widest of the names at 10 points, in inches."""
    return 0.09 * max((columns(name) for name in names), default=0)


@cache
def font_families() -> list[str]:
    """Return the names of the installed fonts to use, in order."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(family for family in FALLBACKS if family in installed)]


@lru_cache(maxsize=1024)
def font_path(letters: frozenset[str]) -> str:
    """Return the file of the font that has the most of the letters."""
    codes = set(map(ord, letters))
    return max(_charmaps(), key=lambda path: len(codes & _charmaps()[path]))


@cache
def _charmaps() -> dict[str, frozenset[int]]:
    """Return the characters of each font, by its file."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    paths = [str(findfont(family)) for family in font_families()]
    return {path: frozenset(FT2Font(path).get_charmap()) for path in paths}
