"""What is odd about images: sizes, modes, brightness, contrast and color."""

from collections import Counter
from math import log2, sqrt

from finetune.data.audit.findings import DataSet, Finding
from finetune.data.audit.outliers import outliers
from finetune.io.messages import shortlist

DARK, BRIGHT = 20, 235  # brightness below and above which all of a black or white image is
FLAT = 2  # standard deviation of an image without content
GRAY = 1.0  # saturation of an image without color
LARGER = 16  # times the area of most images, or a part of it
LONGER = 2.5  # times the aspect ratio of most images


def featureless_images(data: DataSet) -> list[Finding]:
    """Find images of one color, and nearly black or white ones."""
    constant = {i: f"brightness {f.mean:.0f}" for i, f in data.images.items() if f.low == f.high and f.deviation < FLAT}
    rest = {i: facts for i, facts in data.images.items() if i not in constant}
    black = {i: f"99% of the pixels below {f.high:.0f} of 255" for i, f in rest.items() if f.high <= DARK}
    white = {i: f"99% of the pixels above {f.low:.0f} of 255" for i, f in rest.items() if f.low >= BRIGHT}
    move = "Look at them, and leave them out with data.exclude if they show nothing."
    return [
        *data.finding("constant", "warning", f"{{count}} images have one color all over: {{names}}. {move}", constant),
        *data.finding("black", "warning", f"{{count}} images are nearly black: {{names}}. {move}", black),
        *data.finding("white", "warning", f"{{count}} images are nearly white: {{names}}. {move}", white),
    ]


def brightness_outliers(data: DataSet) -> list[Finding]:
    """Find images whose brightness, contrast or color is far from that of the others."""
    found = []
    for kind, what, least in (
        ("mean", "brightness", 30.0),
        ("deviation", "contrast", 20.0),
        ("saturation", "color", 30.0),
    ):
        values = {i: float(getattr(facts, kind)) for i, facts in data.images.items()}
        far = outliers(values, least)
        middle = sorted(values.values())[len(values) // 2] if values else 0.0
        details = {i: f"{what} {values[i]:.0f}, median {middle:.0f}" for i in far}
        text = f"{{count}} images have another {what} than the rest (median {middle:.0f} of 255): {{names}}."
        found += data.finding(what, "note", text, details)
    return found


def various_sizes(data: DataSet) -> list[Finding]:
    """Find out whether images have several sizes."""
    sizes = {i: data.examined[i].reading.size for i in data.images}
    counted = Counter(sizes.values()).most_common()
    if len(counted) < 2:
        return []
    named = shortlist((f"{height}x{width} ({count:,})" for (height, width), count in counted), 3)
    return [
        Finding(
            "sizes",
            "note",
            f"the images have {len(counted):,} sizes (height x width): {named}. Training crops them to augment.crop.",
            {},
        )
    ]


def size_outliers(data: DataSet) -> list[Finding]:
    """Find images that are much larger, smaller or longer than most."""
    sizes = {i: (size[0], size[1]) for i in data.images if (size := data.examined[i].reading.size)}
    if len(sizes) < 5:
        return []
    area = sorted(height * width for height, width in sizes.values())[len(sizes) // 2]
    ratio = sorted(log2(width / height) for height, width in sizes.values())[len(sizes) // 2]
    named = {i: f"{height}x{width}" for i, (height, width) in sizes.items()}
    large = {i: named[i] for i, (height, width) in sizes.items() if height * width > LARGER * area}
    small = {i: named[i] for i, (height, width) in sizes.items() if height * width * LARGER < area}
    long = {i: named[i] for i, (height, width) in sizes.items() if abs(log2(width / height) - ratio) > log2(LONGER)}
    side = round(sqrt(area))
    return [
        *data.finding(
            "large",
            "note",
            f"{{count}} images have more than {LARGER} times the pixels of most (about {side}x{side}): {{names}}. They "
            f"show the same things larger, and slow the loading down: scale or cut them, with their masks.",
            large,
        ),
        *data.finding(
            "small",
            "note",
            f"{{count}} images have less than 1/{LARGER} of the pixels of most (about {side}x{side}): {{names}}. Are "
            f"these thumbnails?",
            small,
        ),
        *data.finding("aspect", "note", "{count} images are much longer or higher than most: {names}.", long),
    ]


def mixed_modes(data: DataSet) -> list[Finding]:
    """Find gray images among color ones, and files whose mode loses something when they are read."""
    gray = {i: f"saturation {f.saturation:.1f}" for i, f in data.images.items() if f.saturation < GRAY}
    mixed = gray if 0 < len(gray) < len(data.images) / 2 else {}
    alpha = {i: f.mode for i, f in data.images.items() if f.mode in ("RGBA", "LA", "PA")}
    return [
        *data.finding("gray", "note", "{count} images have no color, the others have: {names}.", mixed),
        *data.finding("alpha", "note", "{count} images have transparency, which is dropped: {names}.", alpha),
    ]
