"""Recognize images and masks in a folder by the names of folders and files, and by how masks look."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from os.path import commonpath
from pathlib import Path, PurePath
from typing import Any

from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, PHOTO_SUFFIXES, files_below
from finetune.data.masks.contents import MaskContents, read_contents
from finetune.data.recognition.pairing import Affixes, possible_affixes
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError
from finetune.data.splitting.split_lists import find_lists, list_names
from finetune.data.splitting.splits import split_of
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

IMAGE_WORDS = re.compile(r"im(age|g)|photo|picture|jpe?g|rgb|input|scan|raw|source|src", re.IGNORECASE)
MASK_WORDS = re.compile(r"mask|label|seg|annot|ground|truth|target|manual|lbl|(^|[^a-z])gt([^a-z]|$)", re.IGNORECASE)
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", ".")
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


def recognize_folders(root: Path) -> list[Recognized]:
    """Return the ways to read a folder as images with masks."""
    groups = find_groups(root)
    total = sum(len(group.files) for group in groups)
    candidates = [*_two_folders(groups), *(pair for group in groups if (pair := _side_by_side(group)))]
    # a few pairs among many other files are no layout
    likely = [c for c in candidates if 4 * (len(c.images) + len(c.masks)) >= total]
    return [_recognized(root, candidate, several=len(likely) > 1) for candidate in likely]


@dataclass(frozen=True)
class Candidate:
    """Folders of images and masks, with the rule that pairs them, and the number of files that it leaves out."""

    settings: Mapping[str, str]
    images: Sequence[Path]
    masks: Sequence[Path]
    splits: set[str]
    left_out: int = 0


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


def _two_folders(groups: Sequence[Group]) -> Iterator[Candidate]:
    """Yield the pairs of folders in which most files of one are named like those of the other.

    A folder that is named like images or masks is preferred to one that only looks so.
    """
    of_images = [group for group in groups if group.named_mask is False] or groups
    of_masks = [group for group in groups if group.named_mask] or groups
    for images, masks in likely_pairs(of_images, of_masks, sum(len(group.files) for group in groups)):
        if ("{split}" in images.pattern) != ("{split}" in masks.pattern):
            continue
        for affixes in _matching_affixes(images.files, masks.files):
            settings = {"images": images.pattern, "masks": masks.pattern, **_affix_settings(affixes)}
            chosen = [path for path in masks.files if affixes[1].core(stem_of(path)) is not None]
            yield Candidate(settings, images.files, chosen, images.splits, len(masks.files) - len(chosen))


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


def _matching_affixes(images: Sequence[Path], masks: Sequence[Path]) -> list[tuple[Affixes, Affixes]]:
    """Return the rules that pair files; several where each image has several files that may be its mask."""
    stems = {stem_of(path) for path in images}
    equal = sum(stem_of(path) in stems for path in masks)
    if len({stem_of(path) for path in masks}) * 2 <= len(masks) and len(stems) * 2 > len(images):
        return []  # one file per class or object
    if equal >= min(len(images), len(masks)) / 2 and equal > 1:
        return [(Affixes(), Affixes())]
    return [affixes for affixes, count in possible_affixes(images, masks) if count > 1]


def _side_by_side(group: Group) -> Candidate | None:
    """Return the images and masks of one folder: by an affix of the masks, by two endings, or by JPEG and PNG."""
    stems = {stem_of(path): path for path in group.files}
    photos = [path for path in group.files if path.suffix.lower() in PHOTO_SUFFIXES]
    others = [path for path in group.files if path.suffix.lower() not in PHOTO_SUFFIXES]
    both = {stem_of(path) for path in photos} & {stem_of(path) for path in others}
    folders = {"images": group.pattern, "masks": group.pattern}
    if len(both) > 1 and 2 * len(both) >= len(photos) and Group("", others).flatness > FLAT:
        return Candidate(folders, photos, others, group.splits)
    affixes = _inner_affixes(list(stems))
    if affixes is None:
        return None
    masks = [path for path in group.files if affixes[1].core(stem_of(path)) is not None]
    images = [path for path in group.files if affixes[1].core(stem_of(path)) is None]
    if not Group("", masks).flatness > FLAT:
        return None
    return Candidate({**folders, **_affix_settings(affixes)}, images, masks, group.splits)


def _inner_affixes(stems: Sequence[str]) -> tuple[Affixes, Affixes] | None:
    """Return the affixes that half of the stems have around, or instead of those of, the other half.

    >>> _inner_affixes(["a", "a_mask", "b", "b_mask"])
    (Affixes(prefix='', suffix=''), Affixes(prefix='', suffix='_mask'))
    >>> _inner_affixes(["1_image", "1_label", "2_image", "2_label"])
    (Affixes(prefix='', suffix='_image'), Affixes(prefix='', suffix='_label'))
    """
    known, counts = set(stems), Counter[Affixes]()
    for stem in stems:
        cuts = [n for n in range(1, len(stem)) if not stem[n - 1].isalnum() or not stem[n].isalnum()]
        suffixes = (Affixes(suffix=stem[n:]) for n in reversed(cuts) if stem[:n] in known)
        prefixes = (Affixes(prefix=stem[:n]) for n in cuts if stem[n:] in known)
        counts.update([found] if (found := next(suffixes, None) or next(prefixes, None)) else [])
    best = counts.most_common(1)
    if best and best[0][1] > 1 and 5 * best[0][1] >= 2 * len(stems):
        return Affixes(), best[0][0]
    return _two_endings(stems)


def _two_endings(stems: Sequence[str]) -> tuple[Affixes, Affixes] | None:
    """Return the two suffixes, or prefixes, that all stems have, if one of them is named like masks."""
    for at_end in (True, False):
        cores: dict[str, set[str]] = defaultdict(set)
        for stem in stems:
            cut = max(stem.rfind("_"), stem.rfind("-")) if at_end else _first_separator(stem) + 1
            if cut > 0:
                core, affix = (stem[:cut], stem[cut:]) if at_end else (stem[cut:], stem[:cut])
                cores[affix].add(core)
        mask, image = sorted(cores, key=lambda affix: not MASK_WORDS.search(affix)) if len(cores) == 2 else ("", "")
        if MASK_WORDS.search(mask) and not MASK_WORDS.search(image) and len(cores[mask] & cores[image]) > 1:
            return (Affixes("", image), Affixes("", mask)) if at_end else (Affixes(image), Affixes(mask))
    return None


def _first_separator(stem: str) -> int:
    return min((place for sign in "_-" if (place := stem.find(sign)) >= 0), default=-1)


def _affix_settings(affixes: tuple[Affixes, Affixes]) -> dict[str, str]:
    named = {
        f"{kind}_{part}": getattr(of, part)
        for kind, of in zip(("image", "mask"), affixes, strict=True)
        for part in ("prefix", "suffix")
    }
    return {name: text for name, text in named.items() if text}


def _recognized(root: Path, candidate: Candidate, several: bool) -> Recognized:
    settings: dict[str, Any] = {"format": "folder", "root": str(root), **candidate.settings}
    images, masks = candidate.settings["images"], candidate.settings["masks"]
    holds = f", which hold {_describe(candidate.masks)}" if several else ""
    if images == masks:
        lines = [
            f"{len(candidate.images):,} images and {len(candidate.masks):,} masks{holds} side by side in {images}/"
        ]
    else:
        lines = [f"{len(candidate.images):,} images in {images}/, {len(candidate.masks):,} masks in {masks}/{holds}"]
    affixes = " ".join(f"data.{key}={value}" for key, value in candidate.settings.items() if "fix" in key)
    lines[0] += f", paired by name: {affixes}" if affixes else ", paired by name (data.images, data.masks)"
    if candidate.left_out:
        lines[0] += f"; {candidate.left_out:,} other files in {masks}/ are left out"
    if candidate.splits:
        lines.append(f"the folders {', '.join(sorted(candidate.splits))} are the split (data.splits)")
    else:
        found, said = _lists(root, candidate.images)
        settings |= found
        lines += said
    return Recognized(settings, tuple(lines))


def _lists(root: Path, images: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Return the setting `lists`, if the lists in a folder below root name most of the images, and what was seen."""
    stems, lines = {stem_of(path) for path in images}, []
    for folder in LIST_FOLDERS:
        lists = find_lists(root / folder)
        names = [name for path in lists.values() for name in list_names(path, stems)]
        known = sum(name in stems for name in names)
        named = f"the lists {', '.join(path.name for path in lists.values())} in {folder}/"
        if "train" in lists and known > 1 and 2 * known > len(names):
            return {"lists": folder}, [f"{named} are the split (data.lists)"]
        if "train" in lists:
            lines.append(f"{named} are not the split: {known:,} of their {len(names):,} names are images (data.lists)")
    return {}, lines


def _describe(masks: Sequence[Path]) -> str:
    contents = sample_contents(masks)
    values = sorted({value for content in contents for value in content.pixels})
    kinds = {"gray": "gray values", "palette": "palette indices", "color": "colors"}
    kind = " or ".join(sorted({kinds[content.kind] for content in contents}))
    return f"{len(values)} {kind}" + (f" ({shortlist(values, 6)})" if kind != "colors" else "")
