"""What is suspicious about single masks, and about all of them."""

import numpy as np

from finetune.data.audit.alignment import clear_shift
from finetune.data.audit.examination import SPECK
from finetune.data.audit.findings import DataSet, Finding

MANY = 10  # specks and holes of one mask
MOST = 0.5  # share of the border of the image that one class has
NEARLY_ALL = 0.9
FEWEST = 5  # masks that say how masks usually are
ENOUGH = 10  # masks whose mean edge profile has little noise


def uniform_masks(data: DataSet) -> list[Finding]:
    """Find masks that have no class but the first, or only one other."""
    only = {i: names[0] for i in data.class_pixels if len(names := _present(data, i)) == 1}
    first = data.classes[0]
    is_channelwise = any(each.reading.positives is not None for each in data.examined)
    empty = {i: f"only {name}" for i, name in only.items() if name == first and not is_channelwise}
    full = {i: f"only {name}" for i, name in only.items() if name != first and not is_channelwise}
    none = {i: "no class" for i, pixels in data.class_pixels.items() if is_channelwise and not any(pixels)}
    usual = "They teach what the background looks like; too many slow the training down."
    return [
        *data.finding("empty", "note", f"{{count}} masks have no class but {first}: {{names}}. {usual}", empty),
        *data.finding("empty", "note", f"{{count}} masks have no class: {{names}}. {usual}", none),
        *data.finding("full", "warning", f"{{count}} masks have one class all over, and not {first}: {{names}}.", full),
    ]


def _present(data: DataSet, index: int) -> list[str]:
    return [name for name, pixels in zip(data.classes, data.class_pixels[index], strict=False) if pixels]


def resized_masks(data: DataSet) -> list[Finding]:
    """Find masks of another size than their image, but of its shape."""
    readings = {i: each.reading for i, each in enumerate(data.examined) if each.image and each.mask}
    other = {i: reading for i, reading in readings.items() if reading.fits and reading.size != reading.target_size}
    details = {
        i: f"image {'x'.join(map(str, reading.size))}, mask {'x'.join(map(str, reading.target_size))}"
        for i, reading in other.items()
    }
    text = "{count} masks have another size than their image, of the same shape: {names}. They are resized by nearest "
    return data.finding("resized", "note", f"{text}neighbor.", details)


def void_masks(data: DataSet) -> list[Finding]:
    """Find masks whose every pixel is left out."""
    void = {
        i: f"only the label {data.ignore_index}"
        for i, facts in data.masks.items()
        if data.examined[i].reading.values[data.ignore_index] == data.examined[i].reading.values.sum()
    }
    text = "{count} masks are void all over, so nothing is learned from their images: {names}. Leave them out."
    return data.finding("void", "warning", text, void, exclude=list(void))


def inverted_masks(data: DataSet) -> list[Finding]:
    """Find masks of two classes that are the other way round than most."""
    shares = _foreground(data)
    usual = [i for i, (area, border) in shares.items() if area < MOST and border < MOST]
    if len(usual) < max(FEWEST, 0.8 * len(shares)):
        return []
    odd = {
        i: f"{area:.0%} of the mask and {border:.0%} of its border are {data.classes[1]}"
        for i, (area, border) in shares.items()
        if area > MOST and border > NEARLY_ALL and area < 1
    }
    text = f"{{count}} masks look inverted: {data.classes[1]} is around the objects in {{names}}. Swap their values."
    return data.finding("inverted", "warning", text, odd)


def swapped_classes(data: DataSet) -> list[Finding]:
    """Find out whether the second of two classes is what lies around the objects in most masks."""
    shares = _foreground(data)
    around = [i for i, (area, border) in shares.items() if area > MOST and border > NEARLY_ALL]
    if len(shares) < FEWEST or len(around) < 0.8 * len(shares):
        return []
    first, second = data.classes
    return [
        Finding(
            "swapped",
            "note",
            f"{second} is most of the pixels and lies around {first} in {len(around):,} of {len(shares):,} masks. If "
            f"{first} should be the background, swap the values in data.mask_values or data.classes.",
            {},
        )
    ]


def _foreground(data: DataSet) -> dict[int, tuple[float, float]]:
    """Return the share of the second of two classes in each mask, and at the border of the image."""
    if len(data.classes) != 2:
        return {}
    shares = {}
    for index, (first, second) in data.class_pixels.items():
        border = data.masks[index].border
        if data.examined[index].reading.positives is None and first + second and border[0] + border[1]:
            shares[index] = (second / (first + second), float(border[1] / (border[0] + border[1])))
    return shares


def shifted_masks(data: DataSet) -> list[Finding]:
    """Find masks that lie on edges only after a shift of several pixels."""
    shifts = {i: clear_shift(f.edges) for i, f in data.masks.items() if f.edges is not None}
    shifted = {i: shift for i, shift in shifts.items() if shift is not None}
    if len(shifted) > 0.5 * len(shifts):  # the others follow no edges either, or all are shifted
        return []
    details = {i: f"fits better {_move(*shift)}" for i, shift in shifted.items()}
    text = "{count} masks do not lie on the edges in their image, and would after a shift: {names}. Look at them."
    return data.finding("shifted", "warning", text, details)


def shifted_data(data: DataSet) -> list[Finding]:
    """Find out whether all masks are shifted by the same."""
    edges = [facts.edges for facts in data.masks.values() if facts.edges is not None]
    shift = clear_shift(np.mean(edges, axis=0), least=1.15, ratio=1.05) if len(edges) >= ENOUGH else None
    if shift is None:
        return []
    text = f"the masks do not lie on the edges of the images; all would fit better {_move(*shift)}. Look at some."
    return [Finding("shifted", "warning", text, {})]


def _move(down: int, right: int) -> str:
    """Return a shift in words.

    >>> _move(4, 0), _move(-2, 6)
    ('4 pixels further down', '2 pixels further up and 6 pixels further right')
    """
    parts = [f"{abs(down)} pixels further {'down' if down > 0 else 'up'}"] if down else []
    parts += [f"{abs(right)} pixels further {'right' if right > 0 else 'left'}"] if right else []
    return " and ".join(parts)


def specks(data: DataSet) -> list[Finding]:
    """Find masks with many specks and tiny holes."""
    many = {
        i: f"{facts.specks} specks, {facts.holes} holes"
        for i, facts in data.masks.items()
        if facts.specks + facts.holes >= MANY
    }
    total = sum(data.masks[i].specks + data.masks[i].holes for i in many)
    text = (
        f"{{count}} masks have {MANY} or more specks or holes of up to {SPECK} pixels, {total:,} in all: {{names}}. If "
        f"they are no objects, data.clean_masks={SPECK} removes them."
    )
    return data.finding("specks", "note", text, many)
