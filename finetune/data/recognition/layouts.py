"""Recognize images and masks in a folder by the names of folders and files, and by how masks look."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.files import PHOTO_SUFFIXES
from finetune.data.recognition.file_groups import (
    FLAT,
    MASK_WORDS,
    Group,
    find_groups,
    joined_splits,
    likely_pairs,
    sample_contents,
)
from finetune.data.recognition.pairing import Affixes, possible_affixes
from finetune.data.recognition.recognized import Recognized
from finetune.data.splitting.split_lists import find_lists, list_names
from finetune.data.splitting.split_names import PLACE_OF_SPLIT
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", ".")


def recognize_folders(root: Path) -> list[Recognized]:
    """Return the ways to read a folder as images with masks."""
    groups = find_groups(root)
    joined = joined_splits(groups)
    ways = _ways(root, joined)
    if len(joined) == len(groups):
        return ways
    return [*ways, *(replace(way, is_part=True) for way in _ways(root, groups))]


def _ways(root: Path, groups: Sequence[Group]) -> list[Recognized]:
    total = sum(len(group.files) for group in groups)
    candidates = [*_two_folders(groups), *(pair for group in groups if (pair := _side_by_side(group)))]
    # a few pairs among many other files are no layout
    likely = [c for c in candidates if 4 * (len(c.images) + len(c.masks)) >= total]
    return [_recognized(root, groups, candidate, several=len(likely) > 1) for candidate in likely]


@dataclass(frozen=True)
class Candidate:
    """Folders of images and masks, with the rule that pairs them, and the number of files that it leaves out."""

    settings: Mapping[str, str]
    images: Sequence[Path]
    masks: Sequence[Path]
    splits: set[str]
    left_out: int = 0


def _two_folders(groups: Sequence[Group]) -> Iterator[Candidate]:
    """Yield the pairs of folders in which most files of one are named like those of the other.

    A folder that is named like images or masks is preferred to one that only looks so.
    """
    of_images = [group for group in groups if group.named_mask is False] or groups
    of_masks = [group for group in groups if group.named_mask] or groups
    for images, masks in likely_pairs(of_images, of_masks, sum(len(group.files) for group in groups)):
        if (PLACE_OF_SPLIT in images.pattern) != (PLACE_OF_SPLIT in masks.pattern):
            continue
        for affixes in _matching_affixes(images.files, masks.files):
            settings = {"images": images.pattern, "masks": masks.pattern, **_affix_settings(affixes)}
            chosen = [path for path in masks.files if affixes[1].core(stem_of(path)) is not None]
            yield Candidate(settings, images.files, chosen, images.splits, len(masks.files) - len(chosen))


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


def _recognized(root: Path, groups: Sequence[Group], candidate: Candidate, several: bool) -> Recognized:
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
    others = {f"{group.pattern}/": len(group.files) for group in groups if group.pattern not in (images, masks)}
    if others and "." not in (images, masks):  # which hold all others
        lines[0] += f"; the {sum(others.values()):,} files in {shortlist(others, 3)} are not read"
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
        if "train" not in lists:  # a test.txt alone may be anything
            continue
        names = [name for path in lists.values() for name in list_names(path, stems)]
        known = sum(name in stems for name in names)
        named = f"the lists {', '.join(path.name for path in lists.values())} in {folder}/"
        if known > 1 and 2 * known > len(names):
            rest = len(images) - known
            unused = f"; {rest:,} of {len(images):,} images are in none and not used" if rest > 0 else ""
            return {"lists": folder}, [f"{named} are the split{unused} (data.lists; data.lists='' leaves them out)"]
        lines.append(f"{named} are not the split: {known:,} of their {len(names):,} names are images (data.lists)")
    return {}, lines


def _describe(masks: Sequence[Path]) -> str:
    contents = sample_contents(masks)
    values = sorted({value for content in contents for value in content.pixels})
    kinds = {"gray": "gray values", "palette": "palette indices", "color": "colors"}
    kind = " or ".join(sorted({kinds[content.kind] for content in contents}))
    return f"{len(values)} {kind}" + (f" ({shortlist(values, 6)})" if kind != "colors" else "")
