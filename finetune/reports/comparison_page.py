"""The page that compares runs: differences by score, class and image from the first run."""

from collections.abc import Iterator, Sequence
from html import escape

from finetune.plots import palette
from finetune.reports.comparison import Difference, Evaluation, difference
from finetune.reports.page import page, swatch, table

SHOWN = 20  # images
CERTAIN = 0.05  # p below which a difference is marked
STYLE = ".better { color: #1b7837 } .worse { color: #b2182b }"


def comparison_page(evaluations: Sequence[Evaluation]) -> str:
    """Return the page of two runs or more, which were evaluated on the same images."""
    first, *others = evaluations
    differences = [difference(first, other) for other in others]
    about = (
        f"{len(first.images):,} images, which all runs were evaluated on. Differences are from the first run. The "
        f"interval holds the difference for 95 % of the sets drawn from these images; with p below {CERTAIN}, other "
        f"images of this kind would hardly turn it round. What another seed of the training would change is not in it."
    )
    body = [
        f"<h1>Comparison</h1><p>{about}</p>",
        _score_table(first, others, differences),
        "<h2>Classes</h2>",
        _class_table(first, others, differences),
        *_images(first, others, differences),
    ]
    return page("Comparison", body, STYLE)


def _score_table(first: Evaluation, others: Sequence[Evaluation], differences: Sequence[Difference]) -> str:
    rows = [(escape(first.run), f"{float(first.iou.nanmean()):.4f}", "", "", "")]
    for other, found in zip(others, differences, strict=True):
        shown = _signed(found.mean) if found.p < CERTAIN else f"{found.mean:+.4f}"
        limits = f"{found.low:+.4f} to {found.high:+.4f}"
        rows.append((escape(other.run), f"{float(other.iou.nanmean()):.4f}", shown, limits, f"{found.p:.3f}"))
    return table(("run", "IoU", "difference", "interval", "p"), rows)


def _class_table(first: Evaluation, others: Sequence[Evaluation], differences: Sequence[Difference]) -> str:
    header = ("class", escape(first.run), *(escape(other.run) for other in others))
    colors, iou = palette(len(first.classes)), first.iou.tolist()
    rows = [
        (
            swatch(colors[k]) + escape(name),
            f"{iou[k]:.4f}",
            *(_signed(float(found.by_class[k])) for found in differences),
        )
        for k, name in enumerate(first.classes)
    ]
    return table(header, rows)


def _images(first: Evaluation, others: Sequence[Evaluation], differences: Sequence[Difference]) -> Iterator[str]:
    for other, found in zip(others, differences, strict=True):
        changes = found.by_image.nan_to_num(0).tolist()
        order = sorted(range(len(changes)), key=lambda index: -abs(changes[index]))[:SHOWN]
        rows = [(escape(first.images[index]), _signed(changes[index])) for index in order]
        yield f"<h2>Images that changed most: {escape(other.run)}</h2>" + table(
            ("image", "difference of the IoU"), rows
        )


def _signed(value: float) -> str:
    """Return a difference with its sign and a color; nothing for NaN."""
    if value != value:
        return ""
    return f'<span class="{"better" if value > 0 else "worse" if value < 0 else ""}">{value:+.4f}</span>'
