"""The page of an audit: one HTML file with its pictures inside, without scripts, that needs no network."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from math import sqrt

import numpy as np
from PIL import Image as PILImage
from torch import Tensor

from finetune.data import DataError, Record
from finetune.data.audit import SEVERITIES, DataSet, Finding
from finetune.data.dataset import resize_nearest
from finetune.io.messages import shortlist
from finetune.plots import overlay, palette
from finetune.plots.colors import Pixels
from finetune.plots.panels import as_rgb
from finetune.plots.svg import histogram
from finetune.reports.page import page, swatch, table

SHOWN = 6  # images of a finding
SIDE = 180  # pixels of the longer side of a picture
STYLE = """
.finding { border-left: 5px solid; padding: 2px 0 2px 14px; margin: 18px 0 } .finding p { margin: 4px 0 }
.error { border-color: #c62828 } .warning { border-color: #e69f00 } .note { border-color: #8a94a6 }
.kind { font-weight: 600 } .pictures { display: flex; flex-wrap: wrap; gap: 12px }
figure { max-width: 372px } img { margin-right: 4px }
"""


def audit_page(data: DataSet, findings: Sequence[Finding], notes: Sequence[str], title: str) -> str:
    """Return the page.

    Args:
        data: what was examined; the first images of each finding are read again.
        findings: errors, then warnings, then notes.
        notes: what was worked out from the files.
        title: such as the folder of the data.
    """
    counts = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    summary = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items())
    splits = ", ".join(f"{count:,} {split or 'without a split'}" for split, count in data.splits.items())
    body = [
        f"<h1>Audit {escape(title)}</h1><p>{len(data.records):,} images ({splits}): {summary}</p>",
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else "",
        f"<h2>Classes</h2>{_class_table(data)}",
        f"<h2>Images</h2>{''.join(_histograms(data))}" if data.images else "",
        *(_section(severity, data, findings) for severity in SEVERITIES),
    ]
    return page(f"Audit {title}", body, STYLE)


def _class_table(data: DataSet) -> str:
    """Return the share of the pixels and the number of images of each class, by split."""
    splits = list(data.statistics)
    header = ["class", *(cell for split in splits for cell in (f"{escape(split or 'all')} pixels", "images"))]
    rows = []
    present = _images_with_classes(data)
    for k, (name, color) in enumerate(zip(data.classes, palette(len(data.classes)), strict=True)):
        cells = [(f"{_share(data, split, k):.2%}", f"{present[split][k]:,}") for split in splits]
        rows.append([f"{swatch(color)}{escape(name)}", *(cell for pair in cells for cell in pair)])
    if any(_void(data, split) for split in splits):
        rows.append(["void, of all pixels", *(c for split in splits for c in (f"{_void(data, split):.2%}", ""))])
    return table(header, rows)


def _share(data: DataSet, split: str, k: int) -> float:
    statistics = data.statistics[split]
    return int(statistics.pixels[k]) / statistics.labeled


def _images_with_classes(data: DataSet) -> dict[str, Counter[int]]:
    """Return split -> class -> number of images that have it."""
    counts: dict[str, Counter[int]] = {split: Counter() for split in data.splits}
    for index, pixels in data.class_pixels.items():
        counts[data.records[index].split].update(k for k, count in enumerate(pixels) if count)
    return counts


def _void(data: DataSet, split: str) -> float:
    statistics = data.statistics[split]
    return 1 - statistics.labeled / statistics.total if statistics.ignored else 0.0


def _histograms(data: DataSet) -> Iterator[str]:
    facts, sizes = data.images.values(), [data.examined[index].reading.size for index in data.images]
    yield histogram([sqrt(size[0] * size[1]) for size in sizes], "size: root of the area, pixels")
    yield histogram([each.mean for each in facts], "brightness", limits=(0, 255))
    yield histogram([each.deviation for each in facts], "contrast: deviation of the brightness", limits=(0, 128))


def _section(severity: str, data: DataSet, findings: Sequence[Finding]) -> str:
    chosen = [finding for finding in findings if finding.severity == severity]
    return f"<h2>{severity.capitalize()}s</h2>{''.join(_finding(data, f) for f in chosen)}" if chosen else ""


def _finding(data: DataSet, finding: Finding) -> str:
    text = f'<p><span class="kind">{escape(finding.kind)}</span> {escape(finding.text)}</p>'
    files = f"<p>{escape(shortlist(finding.files, SHOWN))}</p>" if finding.files else ""
    shown = list(finding.details.items())[:SHOWN]
    pictures = "".join(_figure(data, index, detail) for index, detail in shown)
    return f'<div class="finding {finding.severity}">{text}{files}<div class="pictures">{pictures}</div></div>'


def _figure(data: DataSet, index: int, detail: str) -> str:
    """Return an image and its mask over it, as far as they can be read, with their name."""
    record = data.records[index]
    split = f" ({record.split})" if record.split else ""
    caption = f"<figcaption>{escape(record.name + split)}: {escape(detail)}</figcaption>"
    try:
        image = record.image.read(data.channels)
    except DataError:
        return f"<figure>{caption}</figure>"
    pixels = _scaled(image)
    return f"<figure>{_picture(pixels)}{_overlaid(record, pixels, data)}{caption}</figure>"


def _scaled(image: Tensor) -> Pixels:
    """Return an image (C, H, W) at the size of a picture (h, w, 3)."""
    scale = SIDE / max(image.shape[-2:])
    size = max(1, round(image.shape[-1] * scale)), max(1, round(image.shape[-2] * scale))
    full = PILImage.fromarray(as_rgb(image))
    return np.asarray(full.resize(size, PILImage.Resampling.BOX if scale < 1 else PILImage.Resampling.NEAREST))


def _overlaid(record: Record, pixels: Pixels, data: DataSet) -> str:
    if record.target is None:
        return ""
    try:
        target = record.target.read()
    except DataError:
        return ""
    labels = resize_nearest(target, (pixels.shape[0], pixels.shape[1]))
    if labels.dim() == 3:
        flat = labels.new_full(labels.shape[-2:], data.ignore_index)
        for k, channel in enumerate(labels[: len(data.classes)]):
            flat[channel == 1] = k
        labels = flat
    labels = labels.clone()
    labels[labels >= len(data.classes)] = data.ignore_index  # a finding of its own
    return _picture(overlay(pixels, labels, palette(len(data.classes)), ignore_index=data.ignore_index))


def _picture(pixels: Pixels) -> str:
    content = io.BytesIO()
    PILImage.fromarray(pixels).save(content, "JPEG", quality=80)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img width="{pixels.shape[1]}" height="{pixels.shape[0]}" src="data:image/jpeg;base64,{encoded}" alt="">'
