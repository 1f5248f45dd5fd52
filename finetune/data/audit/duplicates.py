"""Exact and near duplicates of images, and what they spoil."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from finetune.data.audit.findings import DataSet, Finding, Severity
from finetune.data.audit.hashes import Pair, similar_pairs
from finetune.data.audit.image_checks import FLAT
from finetune.data.mistakes import MAX_NAMED
from finetune.io.messages import shortlist

KEPT = ("test", "val", "train", "")  # of two copies, the one in the earlier split is kept
DIFFERENT = 0.1  # share of the pixels that have another class


def exact_duplicates(data: DataSet) -> list[Finding]:
    """Find images with the same pixels: over splits, with other masks, and all others."""
    by_digest: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, facts in data.images.items():
        if facts.low != facts.high:  # images of one color are no copies
            by_digest[facts.digest].append(index)
    groups = [group for group in by_digest.values() if len(group) > 1]
    leaking = [group for group in groups if _spans_splits(data, group)]
    differing = [group for group in groups if len({_digest(data, i) for i in group}) > 1]
    plain = [group for group in groups if not _spans_splits(data, group)]
    return [
        *_leak(data, leaking),
        *_found(
            data,
            "labels_differ",
            "warning",
            f"{len(differing):,} images are there several times with different masks: {_equal(data, differing)}. Keep "
            f"the right one.",
            differing,
        ),
        *_found(
            data,
            "duplicate",
            "note",
            f"{sum(map(len, plain)) - len(plain):,} images are copies of others in the same split: "
            f"{_equal(data, plain)}. They count twice.",
            plain,
        ),
    ]


def _spans_splits(data: DataSet, group: Sequence[int]) -> bool:
    return len({data.records[i].split for i in group}) > 1


def _leak(data: DataSet, groups: Sequence[Sequence[int]]) -> list[Finding]:
    exclude = []
    for group in groups:
        kept = min((data.records[i].split for i in group), key=KEPT.index)
        exclude += [i for i in group if data.records[i].split != kept]
    text = (
        f"{len(groups):,} images are in several splits, so scores come out too high: {_equal(data, groups)}. Leave out "
        f"one of each with data.exclude."
    )
    return _found(data, "leak", "warning", text, groups, exclude)


def _found(
    data: DataSet,
    kind: str,
    severity: Severity,
    text: str,
    groups: Sequence[Sequence[int]],
    exclude: Sequence[int] = (),
) -> list[Finding]:
    details = {
        i: f"the same as {', '.join(_placed(data, j) for j in group[: MAX_NAMED + 1] if j != i)}"
        for group in groups
        for i in group
    }
    return [Finding(kind, severity, text, details, exclude=exclude)] if groups else []


def _placed(data: DataSet, index: int) -> str:
    """Return the name of an image, with its split if there is one."""
    split = data.records[index].split
    return data.name(index) + (f" ({split})" if split else "")


def _equal(data: DataSet, groups: Sequence[Sequence[int]]) -> str:
    return shortlist((" = ".join(_placed(data, i) for i in group[:MAX_NAMED]) for group in groups), MAX_NAMED)


def _digest(data: DataSet, index: int) -> bytes:
    return data.masks[index].digest if index in data.masks else b""


def near_duplicates(data: DataSet) -> list[Finding]:
    """Find images that show the same: resized, compressed again, mirrored or turned copies, and frames of a video."""
    chosen = [i for i, facts in data.images.items() if facts.thumbnail.std() >= FLAT]
    if len(chosen) < 2:
        return []
    pairs = [
        Pair(chosen[pair.first], chosen[pair.second], pair.turn)
        for pair in similar_pairs(np.stack([data.images[i].thumbnail for i in chosen]))
    ]
    near = [pair for pair in pairs if data.images[pair.first].digest != data.images[pair.second].digest]
    leaking = [pair for pair in near if _spans_splits(data, pair[:2])]
    differing = [pair for pair in near if _difference(data, pair) > DIFFERENT]
    rest = [pair for pair in near if not _spans_splits(data, pair[:2])]
    return [
        *_pairs_found(
            data,
            "near_leak",
            "warning",
            "show nearly the same as others in another split, so scores come out too high: ",
            " Move them into one split.",
            leaking,
        ),
        *_pairs_found(
            data,
            "labels_differ",
            "note",
            "show nearly the same as others, with different masks: ",
            " Look at the masks.",
            differing,
        ),
        *_pairs_found(data, "near_duplicate", "note", "show nearly the same as others in the same split: ", "", rest),
    ]


def _pairs_found(
    data: DataSet, kind: str, severity: Severity, text: str, move: str, pairs: Sequence[Pair]
) -> list[Finding]:
    details: dict[int, str] = {}
    for pair in pairs:
        turn = f", {pair.turn}" if pair.turn else ""
        details.setdefault(pair.first, f"like {_placed(data, pair.second)}{turn}")
        details.setdefault(pair.second, f"like {_placed(data, pair.first)}{turn}")
    named = shortlist((_like(data, pair) for pair in pairs), MAX_NAMED)
    return [Finding(kind, severity, f"{len(details):,} images {text}{named}.{move}", details)] if pairs else []


def _like(data: DataSet, pair: Pair) -> str:
    return f"{_placed(data, pair.first)} ~ {_placed(data, pair.second)}" + (f" ({pair.turn})" if pair.turn else "")


def _difference(data: DataSet, pair: Pair) -> float:
    """Return the share of the pixels that have another class in the second mask, at least."""
    one, other = (_shares(data.class_pixels, index) for index in pair[:2])
    return float(np.abs(one - other).sum() / 2) if one.size and other.size else 0.0


def _shares(pixels: Mapping[int, list[int]], index: int) -> npt.NDArray[np.float64]:
    counts = np.array(pixels.get(index, []), dtype=np.float64)
    return counts / counts.sum() if counts.sum() else counts[:0]
