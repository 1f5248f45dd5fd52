"""Parts of an HTML page that is one file, without scripts, and needs no network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.45 system-ui, sans-serif; color: #20242c; background: #fff }
body { max-width: 1200px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 24px } h2 { font-size: 18px; margin-top: 32px } table { border-collapse: collapse }
td, th { padding: 2px 12px 2px 0; text-align: right } td:first-child, th:first-child { text-align: left }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border: 1px solid #999 }
.scroll { overflow-x: auto } li { overflow-wrap: anywhere }
img { max-width: 100%; height: auto }
figure { margin: 6px 0 } figcaption { font-size: 12px; color: #555; overflow-wrap: anywhere }
"""


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """Return a page.

    Args:
        title: plain text.
        body: parts in HTML.
        style: CSS in addition to `STYLE`.
    """
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>{STYLE}{style}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells in HTML, which scrolls sideways where it is wider than the page."""
    top = f"<tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr>" if header else ""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}{lines}</table></div>'


def figure(path: Path, caption: str) -> str:
    """Return a PNG file as a figure inside the page; nothing if there is no such file."""
    return _figure(path.read_bytes(), "png", caption) if path.is_file() else ""


def photo(path: Path, caption: str) -> str:
    """Return an image file as a figure inside the page, as JPEG; nothing if there is no such file."""
    if not path.is_file():
        return ""
    content = io.BytesIO()
    Image.open(path).convert("RGB").save(content, "JPEG", quality=85)
    return _figure(content.getvalue(), "jpeg", caption)


def _figure(content: bytes, kind: str, caption: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    image = f'<img src="data:image/{kind};base64,{encoded}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def folded(title: str, text: str) -> str:
    """Return a text as it is, below a title that opens it."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def swatch(color: tuple[int, int, int]) -> str:
    """Return a small square of a color."""
    return f'<span class="swatch" style="background: rgb{color}"></span>'
