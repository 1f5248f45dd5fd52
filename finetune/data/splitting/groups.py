"""Groups of images that belong together, such as those of one patient: by a pattern, or guessed from the names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from finetune.data.records import DataError, Record
from finetune.data.splitting.split_names import split_of
from finetune.data.stems import stem_of

FEWEST = 5  # guessed groups; of fewer, a split can hardly be made
SEPARATOR = re.compile(r"[_\-. ]+")
SIDE = r"(?:l|r|left|right|od|os)"
# rules for whole names: pattern whose group is the group, and how messages call it; the first that holds for all wins
RULES = (
    (re.compile(r"(.+)_(?:jpe?g|png)\.rf\.[0-9a-f]+"), "of the same source image"),
    (
        re.compile(rf"(.*\d)(?:[a-z]|{SEPARATOR.pattern}{SIDE}|{SIDE})", re.IGNORECASE),
        "of the same name up to the last letter",
    ),
)
IDENTIFIER = re.compile(r"(?!(?:19|20)\d\d$).*\d")  # of a patient or sequence: not the name of a class, nor a year
RUNNING = re.compile(rf".*\d|{SIDE}$", re.IGNORECASE)  # what comes after it: a number, or a side


@dataclass(frozen=True)
class Grouping:
    """The groups of images, and what they have in common.

    Attributes:
        groups: by position of the image; "" for an image of its own.
        reason: for messages, such as `of the same folder`.
    """

    groups: tuple[str, ...]
    reason: str

    def describe(self) -> str:
        """Return a text such as `28 images in 14 groups of the same folder (p1)`."""
        counts = Counter(filter(None, self.groups))
        example = next((group for group, count in counts.items() if count > 1), next(iter(counts), ""))
        return f"{len(self.groups):,} images in {len(counts):,} groups {self.reason} ({example})"


def guess_groups(records: Sequence[Record], fewest: int = FEWEST) -> Grouping | None:
    """Return the groups that folders or names show, or None if they show none.

    A rule is accepted if it holds for all names and makes groups of which most have several images. Rules are tried
    from the coarsest to the finest: sub-folders (names of splits are no groups); a common name before a last letter or
    side, such as `12_left`; a common start with a digit before a running number, such as `patient12_slice003`. Names
    that only count up, such as `img_001`, and starts without a digit, such as `cat_001`, show no group.

    Args:
        records: of all splits.
        fewest: smallest number of groups.
    """
    for keys, reason in _candidates(records):
        if is_plausible(keys, fewest):
            return Grouping(tuple(keys), reason)
    return None


def is_plausible(groups: Sequence[str], fewest: int = FEWEST) -> bool:
    """Return whether there are enough groups, most have several images, and none has more than half of them.

    >>> is_plausible(["a", "a", "b", "b", "c"], fewest=3), is_plausible(["a", "b", "c"], fewest=3)
    (True, False)
    """
    counts = Counter(groups)
    several = sum(count > 1 for count in counts.values())
    return len(counts) >= fewest and 2 * several > len(counts) and 2 * max(counts.values()) <= len(groups)


def _candidates(records: Sequence[Record]) -> Iterator[tuple[list[str], str]]:
    """Yield the groups that each rule makes of all images, coarsest first."""
    places = [_place(record) for record in records]
    folders = _folders([folder for folder, _ in places])
    for depth in range(1, 1 + min(map(len, folders), default=0)):
        yield ["/".join(parts[:depth]) for parts in folders], "of the same folder"
    stems = [stem for _, stem in places]
    for pattern, reason in RULES:
        matches = list(takewhile(bool, map(pattern.fullmatch, stems)))
        if len(matches) == len(stems):
            yield [match[1] for match in matches if match], reason
    for count in range(min((len(SEPARATOR.findall(stem)) for stem in stems), default=0)):
        halves = [_cut(stem, count) for stem in stems]
        if all(IDENTIFIER.match(start) and RUNNING.match(rest) for start, rest in halves):
            yield [start for start, _ in halves], "whose names start the same"


def _place(record: Record) -> tuple[tuple[str, ...], str]:
    """Return the folders and the stem of the image's file, or of its name where there is none."""
    path = record.image.paths[0].as_posix() if record.image.paths else record.name
    *folders, name = path.split("/")
    return tuple(folders), stem_of(Path(name))


def _cut(stem: str, count: int) -> tuple[str, str]:
    """Return what is before a separator and what is after it.

    >>> _cut("patient12_slice_3", 1)
    ('patient12_slice', '3')
    """
    found = next(islice(SEPARATOR.finditer(stem), count, None))
    return stem[: found.start()], stem[found.end() :]


def _folders(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the folders below the one that all paths share, without those that are named like a split."""
    names = {part for parts in set(paths) for part in parts if split_of(part)}
    paths = [tuple(part for part in parts if part not in names) for parts in paths]
    shared = 0
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared += 1
    return [parts[shared:] for parts in paths]


def match_groups(names: Sequence[str], pattern: str) -> Grouping:
    """Return the groups that a regular expression finds in the names, at the first place where it matches.

    Args:
        names: of the images.
        pattern: with one capturing group, such as `(patient[0-9]+)_`.

    Raises:
        DataError: the pattern is none, has not one group, or finds nothing in a name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"data.group={pattern} is no regular expression: {error}.") from error
    if expression.groups != 1:
        raise DataError(
            f"data.group={pattern} has {expression.groups} capturing groups; expected one, such as "
            f"'(patient[0-9]+)_'. Write the others as (?:...)."
        )
    found = {name: match[1] for name in names if (match := expression.search(name))}
    if missing := [name for name in names if not found.get(name)]:
        raise DataError(
            f"data.group={pattern} finds no group in {len(missing):,} of {len(names):,} names, such as {missing[0]}. "
            f"Change the pattern, or set data.group=null."
        )
    return Grouping(tuple(found[name] for name in names), "that data.group finds in the names")


def shared_groups(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Return the groups with images in train and in val or test: group -> split -> images."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.group:
            counts[record.group][record.split] += 1
    return {group: dict(splits) for group, splits in counts.items() if splits["train"] and len(+splits) > 1}
