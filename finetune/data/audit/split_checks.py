"""What is wrong with classes and groups over the splits."""

from collections import defaultdict

from finetune.data.audit.findings import DataSet, Finding
from finetune.io.messages import shortlist

RARE = 1e-3  # share of the pixels
MOSTLY = 0.5


def absent_classes(data: DataSet) -> list[Finding]:
    """Find classes that a split does not have."""
    found = []
    for split, statistics in data.statistics.items():
        pixels = statistics.pixels.tolist()
        absent = [name for name, count in zip(data.classes, pixels, strict=False) if not count]
        if not absent:
            continue
        effect = {
            "train": "so the model cannot learn it",
            "val": "so its score is missing when the best epoch is chosen",
            "test": "so it is not scored",
        }.get(split, "so there is nothing to learn it from")
        where = f"no {split} image" if split else "no image"
        text = f"{where} has {shortlist(absent)}, {effect}. Check data.classes, or split the data in another way."
        found.append(Finding("absent", "warning", text, {}))
    return found


def imbalance(data: DataSet) -> list[Finding]:
    """Find classes that are rare in the training images."""
    statistics = data.statistics.get("train") or data.statistics.get("") or data.statistics.get("all")
    if statistics is None or not statistics.pixels.sum():
        return []
    shares = (statistics.pixels.double() / statistics.labeled).tolist()
    rare = {name: share for name, share in zip(data.classes, shares, strict=False) if 0 < share < RARE}
    if not rare:
        return []
    named = shortlist(f"{name} {share:.3%}" for name, share in rare.items())
    return [
        Finding(
            "imbalance",
            "note",
            f"{len(rare)} of {len(data.classes)} classes have less than {RARE:.1%} of the pixels: {named}. A loss with "
            f"Dice, as ce_dice is, or loss.class_weights=inverse_sqrt counts them for more.",
            {},
        )
    ]


def mostly_void(data: DataSet) -> list[Finding]:
    """Find out whether most pixels are left out."""
    void = sum(statistics.ignored for statistics in data.statistics.values())
    total = sum(int(statistics.pixels.sum()) for statistics in data.statistics.values()) + void
    is_channelwise = any(statistics.multilabel for statistics in data.statistics.values())
    if is_channelwise or not total or void / total < MOSTLY:
        return []
    text = f"{void / total:.0%} of the pixels are void. Check data.ignore_index: is a class among them?"
    return [Finding("void", "warning", text, {})]


def divided_groups(data: DataSet) -> list[Finding]:
    """Find groups, such as patients, whose images are in several splits."""
    groups: defaultdict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, record in enumerate(data.records):
        if group := getattr(record, "group", ""):
            groups[group][record.split].append(index)
    divided = {group: by_split for group, by_split in groups.items() if len(by_split) > 1}
    if not divided:
        return []
    named = shortlist(f"{group} ({' and '.join(by_split)})" for group, by_split in divided.items())
    details = {
        index: f"group {group} is in {' and '.join(by_split)}"
        for group, by_split in divided.items()
        for indices in by_split.values()
        for index in indices
    }
    text = (
        f"{len(divided):,} groups have images in several splits, so scores come out too high: {named}. Keep the images "
        f"of a group in one split."
    )
    return [Finding("group_leak", "warning", text, details)]
