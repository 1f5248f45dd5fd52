"""Wording that messages share: suggestions, shortened lists, sizes, tables."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from html import escape


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known names nearest to an unknown one, or with all of them when none is near.

    Dotted names that end in the same part are nearest of all.

    >>> suggest("adamww", ["adamw", "sgd"]), suggest("x", ["adamw", "sgd"])
    ('Did you mean adamw?', 'Choose from: adamw, sgd.')
    >>> suggest("lr", ["optimizer.lr", "optimizer.name"])
    'Did you mean optimizer.lr?'
    """
    names = list(known)
    same_end = [other for other in names if "." in other and other.rpartition(".")[2] == name.rpartition(".")[2]]
    if near := same_end[:3] or get_close_matches(name, names, n=3):
        return f"Did you mean {' or '.join(near)}?"
    return f"Choose from: {shortlist(names, 25)}." if names else "There are none."


def shortlist(items: Iterable[object], limit: int = 10) -> str:
    """Return the first items of a list as text, with the number of the others.

    >>> shortlist("abcd", limit=2)
    'a, b and 2 more'
    """
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def format_bytes(count: int) -> str:
    """Return a number of bytes in kB, MB or GB.

    >>> format_bytes(700), format_bytes(1_500_000), format_bytes(25_600_000_000)
    ('0.7 kB', '1.5 MB', '25.6 GB')
    """
    unit, size = ("GB", 1e9) if count >= 1e9 else ("MB", 1e6) if count >= 1e5 else ("kB", 1e3)
    return f"{count / size:.1f} {unit}"


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as an HTML table, for notebooks.

    >>> html_table([("a", "<b>")])
    '<table><tr><td>a</td><td>&lt;b&gt;</td></tr></table>'
    """
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def format_table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return rows as lines of aligned columns.

    Args:
        rows: of equally many cells.
        right: indices of the columns that are aligned to the right.

    >>> print(format_table([("a", "b"), ("long", "c")]))
    a     b
    long  c
    """
    to_right = set(right)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if index in to_right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
