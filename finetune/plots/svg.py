"""Histograms as SVG, to be put into an HTML page."""

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, MARGIN, FOOT = 320, 110, 8, 34  # pixels; FOOT holds the axis


def histogram(values: Sequence[float], title: str, bins: int = 32, limits: tuple[float, float] | None = None) -> str:
    """Return an `<svg>` element with a bar for each range of values.

    Args:
        values: at least one.
        title: text below the axis.
        bins: number of bars.
        limits: of the axis; None takes those of the values.
    """
    low, high = limits or (min(values), max(values))
    low, high = (low, high) if low < high else (low - 1, high + 1)
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    width = (WIDTH - 2 * MARGIN) / bins
    bars = "".join(
        _bar(
            MARGIN + index * width,
            width,
            count / counts.max(),
            f"{edges[index]:.4g} to {edges[index + 1]:.4g}: {count:,}",
        )
        for index, count in enumerate(counts.tolist())
        if count
    )
    base = HEIGHT + MARGIN
    axis = f'<line x1="{MARGIN}" y1="{base}" x2="{WIDTH - MARGIN}" y2="{base}" stroke="#888"/>'
    labels = (
        _label(MARGIN, base + 14, f"{low:.4g}", "start")
        + _label(WIDTH - MARGIN, base + 14, f"{high:.4g}", "end")
        + _label(WIDTH / 2, base + 29, title, "middle")
    )
    total = HEIGHT + MARGIN + FOOT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}" '
        f'font-family="sans-serif" font-size="12">{bars}{axis}{labels}</svg>'
    )


def _bar(x: float, width: float, share: float, tip: str) -> str:
    """Return a bar, at least one pixel high so that single values show."""
    height = max(1.0, share * HEIGHT)
    top = HEIGHT + MARGIN - height
    return (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{max(width - 1, 0.5):.1f}" height="{height:.1f}" fill="#0072b2">'
        f"<title>{escape(tip)}</title></rect>"
    )


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#444">{escape(text)}</text>'
