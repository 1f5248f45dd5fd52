"""The image files of a folder by the folder that holds them, which may be images or masks by name and by look."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, groupby
from os.path import commonpath
from pathlib import Path, PurePath

from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_below
from finetune.data.masks.contents import MaskContents, read_contents
from finetune.data.records import DataError
from finetune.data.splitting.split_names import PLACE_OF_SPLIT, split_in, split_of

IMAGE_WORDS = re.compile(r"im(age|g)|photo|picture|jpe?g|rgb|input|scan|raw|source|src", re.IGNORECASE)
MASK_WORDS = re.compile(r"mask|label|seg|annot|ground|truth|target|manual|lbl|(^|[^a-z])gt([^a-z]|$)", re.IGNORECASE)
SAMPLE = 5  # files of a folder that are looked into
FLAT = 0.35  # share of pixels like their four neighbors: masks have more, photographs less


@dataclass(frozen=True)
class Group:
    """Files below one folder, or below the folders of the same name in each split.

    Attributes:
        pattern: path below root, with `{split}` in the place of the split if that is above.
        files: sorted.
        splits: names of the split folders above or below.
    """

    pattern: str
    files: list[Path] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)

    @cached_property
    def flatness(self) -> float:
        """Share of the pixels of some files whose neighbors have the same value; NaN if none can be read."""
        contents = sample_contents(self.files)
        totals = [(sum(c.interior.values()), sum(c.pixels.values())) for c in contents]
        return sum(same for same, _ in totals) / max(1, sum(count for _, count in totals)) if totals else float("nan")

    @cached_property
    def named_mask(self) -> bool | None:
        """Whether the name is that of a folder of masks; None if it says nothing."""
        name = self.pattern.replace("{split}", "")
        words = [bool(MASK_WORDS.search(name)), bool(IMAGE_WORDS.search(name))]
        return words[0] if words[0] != words[1] else None

    @property
    def may_be_images(self) -> bool:
        """Whether the folder may hold images, rather than masks."""
        return not self.named_mask if self.named_mask is not None else not self.flatness > FLAT

    @property
    def may_be_masks(self) -> bool:
        """Whether the folder may hold masks."""
        return self.named_mask if self.named_mask is not None else self.flatness > FLAT


def sample_contents(files: Sequence[Path]) -> list[MaskContents]:
    """Return the contents of a few files, those that can be read."""
    contents = []
    for path in files[:: max(1, len(files) // SAMPLE)][:SAMPLE]:
        try:
            contents.append(read_contents(path))
        except (DataError, ImportError):
            continue
    return contents


def find_groups(root: Path) -> list[Group]:
    """Return the files below root by the folder that holds them; split folders and deeper ones count as one."""
    files = files_below(root, (*IMAGE_SUFFIXES, *MASK_SUFFIXES)) if root.is_dir() else []
    if not files:
        return []
    base = Path(commonpath({path.parent for path in files}))
    while base != root and split_of(base.name):  # a single split folder is not the root of the data
        base = base.parent
    if base != root and all(path.parent == base for path in files):
        base = base.parent if base.parent.is_relative_to(root) else base
    groups: dict[str, Group] = {}
    for parent, inside in groupby(files, lambda path: path.parent):
        pattern, split = _pattern(parent.relative_to(base).parts)
        full = PurePath(base.relative_to(root), pattern).as_posix()
        group = groups.setdefault(full, Group(full))
        group.files.extend(inside)
        group.splits.update([split] if split else [])
    return list(groups.values())


def joined_splits(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with those joined whose names have the split in them, such as train_images and val_images.

    They are joined only if another name has two of the same splits, as the masks of images have: a lone train_images is
    a folder like others.
    """
    named: dict[str, dict[str, Group]] = defaultdict(dict)  # pattern -> split -> group
    pairs: Counter[tuple[str, str]] = Counter()  # of splits -> patterns that have both
    for group in groups:
        path = PurePath(group.pattern)
        split, name = split_in(path.name) if PLACE_OF_SPLIT not in group.pattern and not group.splits else ("", "")
        if split:
            named[(path.parent / name).as_posix()].setdefault(split, group)
        elif PLACE_OF_SPLIT in group.pattern:
            pairs.update(combinations(sorted(set(map(split_of, group.splits))), 2))
    for of_split in named.values():
        pairs.update(combinations(sorted(of_split), 2))
    chosen = {
        pattern: of_split
        for pattern, of_split in named.items()
        if any(pairs[pair] > 1 for pair in combinations(sorted(of_split), 2))
    }
    taken = {group.pattern for of_split in chosen.values() for group in of_split.values()}
    joined = [
        Group(
            pattern,
            sorted(path for group in of_split.values() for path in group.files),
            {PurePath(group.pattern).name for group in of_split.values()},
        )
        for pattern, of_split in chosen.items()
    ]
    return [*(group for group in groups if group.pattern not in taken), *joined]


def _pattern(parts: tuple[str, ...]) -> tuple[str, str]:
    """Return the path of a group and the name of the split folder in it.

    >>> _pattern(("images", "Train", "site")), _pattern(("train", "images")), _pattern(("images", "site"))
    (('images', 'Train'), ('{split}/images', 'train'), ('images', ''))
    """
    place = next((index for index, part in enumerate(parts) if split_of(part)), None)
    if place is None:
        return (parts[0] if parts else "."), ""
    if place == 0:
        return "/".join(["{split}", *parts[1:2]]), parts[0]
    return "/".join(parts[:place]), parts[place]


def likely_pairs(of_images: Sequence[Group], of_masks: Sequence[Group], total: int) -> Iterator[tuple[Group, Group]]:
    """Yield pairs of folders that may hold the images and their masks, with at least a quarter of all files together.

    Args:
        of_images: folders to take for images.
        of_masks: folders to take for masks.
        total: number of files in all folders.
    """
    large = [group for group in of_masks if 8 * len(group.files) >= total]  # of thousands of folders, few are
    for images in of_images:
        for masks in of_masks if 8 * len(images.files) >= total else large:
            is_likely = images is not masks and 4 * (len(images.files) + len(masks.files)) >= total
            if is_likely and images.may_be_images and masks.may_be_masks:
                yield images, masks
