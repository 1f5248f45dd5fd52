"""Recognize folders with several mask files per image: one for each class, or one for each object."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from shlex import quote

import numpy as np
import torch

from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_below
from finetune.data.masks.reading import read_binary_mask
from finetune.data.polygons.class_map import is_background
from finetune.data.recognition.file_groups import Group, find_groups, likely_pairs
from finetune.data.recognition.name_patterns import NamePattern
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError
from finetune.data.splitting.split_folders import complete_splits
from finetune.data.splitting.split_names import SPLITS
from finetune.data.stems import stem_of, without_suffix
from finetune.io.messages import shortlist

SAMPLE = 200  # images whose masks are looked at for overlaps
MOST_CLASSES = 30  # different names after the stem that may be classes


def recognize_mask_files(root: Path) -> list[Recognized]:
    """Return the ways to read a folder as images with several masks each."""
    if not root.is_dir():
        return []
    if found := _folder_per_image(root):
        return [found]
    groups = find_groups(root)
    return [
        found
        for images, masks in likely_pairs(groups, groups, sum(len(group.files) for group in groups))
        if "{" not in images.pattern + masks.pattern  # the split is above; or a name that would be a place
        and (found := _in_sub_folders(root, images, masks) or _by_suffix(root, images, masks))
    ]


def _folder_per_image(root: Path) -> Recognized | None:
    """Return the layout in which every image has a folder with images/ and masks/."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    fitting = [path for path in folders if (path / "images").is_dir() and (path / "masks").is_dir()]
    if len(fitting) < 2 or 2 * len(fitting) <= len(folders):
        return None
    images = [files_below(path / "images", IMAGE_SUFFIXES, deep=False) for path in fitting]
    if any(len(files) > 1 for files in images):
        return None
    masks = [mask for path in fitting for mask in files_below(path / "masks", MASK_SUFFIXES, deep=False)]
    counts = Counter(map(stem_of, masks))
    if _are_classes(counts):
        by_image = [list(group) for _, group in groupby(masks, lambda path: path.parent)]
        return _classes(root, ("{stem}/images", len(fitting)), by_image, "{stem}/masks/{class}", sorted(counts))
    settings = {"format": "mask_files", "root": str(root), "images": "{stem}/images", "masks": "{stem}/masks/{object}"}
    line = f"{len(fitting):,} folders of one image each, with {len(masks):,} masks of objects in masks/ (data.masks)"
    return Recognized(settings, (line, _union()))


def _are_classes(counts: Mapping[str, int]) -> bool:
    """Return whether names that masks have in addition to their image are classes: some words, of many images each.

    >>> _are_classes({"road": 9, "car": 1, "tree": 5}), _are_classes({"1": 9, "2": 7}), _are_classes({"a": 9, "b": 7})
    (True, False, False)
    >>> _are_classes({"0_person": 9, "1_person": 7, "2_car": 8})
    False
    """
    words = {re.sub(r"^[\d_-]+|[\d_-]+$", "", name) for name in counts}
    are_numbered = any(len(word) < 2 for word in words) or len(words) < len(counts)  # also by letters
    once = sum(count < 2 for count in counts.values())
    return not are_numbered and len(counts) <= MOST_CLASSES and 2 * once <= len(counts)


def _union() -> str:
    return "all objects are one class, object, on the background (data.classes)"


def _in_sub_folders(root: Path, images: Group, masks: Group) -> Recognized | None:
    """Return the layout in which masks have a sub-folder per class, or per image with its objects."""
    stems = {stem_of(path) for path in images.files}
    base = root / masks.pattern
    parents = defaultdict(set)
    for path in masks.files:
        parents[path.parent.relative_to(base).as_posix() if path.is_relative_to(base) else "."].add(stem_of(path))
    if masks.splits or "." in parents or len(parents) < 2 or any("/" in name for name in parents):
        return None
    if len(parents.keys() & stems) * 2 > len(parents):
        return _named(root, images, masks, f"{masks.pattern}/{{stem}}/", Counter(map(stem_of, masks.files)))
    repeated = sum(map(len, parents.values())) > len(set().union(*parents.values()))
    if not repeated or any(len(names & stems) * 2 <= len(names) for names in parents.values()):
        return None
    return _class_folders(root, images, masks, f"{masks.pattern}/{{class}}/{{stem}}", sorted(parents))


def _by_suffix(root: Path, images: Group, masks: Group) -> Recognized | None:
    """Return the layout in which the names of masks are the stem of their image and a class, or a number."""
    stems = {stem_of(path) for path in images.files}
    if len(masks.files) < 1.1 * len(images.files):
        return None
    pattern = NamePattern(f"{masks.pattern}/{{stem}}_{{object}}")
    below = (without_suffix(path.relative_to(root)).as_posix() for path in masks.files)
    names = [match for path in below if (match := pattern.match(path, stems))]
    if 2 * len(names) <= len(masks.files):
        return None
    counts = Counter(other for _, other in names)
    return _named(root, images, masks, f"{masks.pattern}/{{stem}}_", counts)


def _named(root: Path, images: Group, masks: Group, start: str, counts: Mapping[str, int]) -> Recognized:
    """Return the layout in which a class or an object follows the start of a pattern, as their counts say."""
    if _are_classes(counts):
        return _class_folders(root, images, masks, f"{start}{{class}}", sorted(counts))
    return _objects(root, images, masks, f"{start}{{object}}")


def _objects(root: Path, images: Group, masks: Group, pattern: str) -> Recognized:
    settings = {"format": "mask_files", "root": str(root), "images": images.pattern, "masks": pattern}
    line = f"{len(images.files):,} images in {images.pattern}/, {len(masks.files):,} masks of objects as {pattern}"
    return Recognized(settings, (f"{line} (data.masks)", _union(), *_split_line(root, images)))


def _split_line(root: Path, images: Group) -> list[str]:
    splits = [split for split in SPLITS if split in complete_splits(images.files, root / images.pattern)]
    return [f"the split is that of folders of the images: {', '.join(splits)} (data.splits)"] if splits else []


def _class_folders(root: Path, images: Group, masks: Group, pattern: str, names: list[str]) -> Recognized:
    by_image = list(_by_image(root, images, masks, NamePattern(pattern)).values())
    found = _classes(root, (images.pattern, len(images.files)), by_image, pattern, names)
    return replace(found, lines=(*found.lines, *_split_line(root, images)))


def _classes(
    root: Path, images: tuple[str, int], masks: Sequence[list[Path]], pattern: str, names: list[str]
) -> Recognized:
    """Return the settings for a mask per class.

    Args:
        root: the folder.
        images: pattern of the images, and their number.
        masks: files of each image.
        pattern: of the masks.
        names: of the classes.
    """
    share = overlap(masks)
    as_objects = (f"data.images={images[0]}", f"data.masks={pattern.replace('{class}', '{object}')}")
    classes = [*([] if share else ["background"]), *(name for name in names if not is_background(name))]
    settings = {
        "format": "mask_files",
        "root": str(root),
        "images": images[0],
        "masks": pattern,
        "classes": classes,
        "multilabel": share > 0,
    }
    lines = [
        f"{images[1]:,} images in {images[0]}/, a mask for each of {len(names)} classes as {pattern} (data.masks)",
        f"if these are no classes but objects: data.format=mask_files {' '.join(map(quote, as_objects))}",
        f"classes {shortlist(classes)} (data.classes)",
    ]
    if share:
        lines.append(
            f"{share:.1%} of the pixels with a class have several, so each class is told apart on its own "
            f"(task=multilabel); data.multilabel=false draws later classes over earlier ones"
        )
    else:
        seen = f" in {SAMPLE} of the images" if len(masks) > SAMPLE else ""
        lines.append(
            f"no pixel has two classes{seen}, so each has one (task=semantic); the others are background. "
            f"data.multilabel=true lets classes overlap"
        )
    return Recognized(settings, tuple(lines))


def _by_image(root: Path, images: Group, masks: Group, pattern: NamePattern) -> Mapping[str, list[Path]]:
    stems = {stem_of(path) for path in images.files}
    by_image: dict[str, list[Path]] = defaultdict(list)
    for path in masks.files:
        if match := pattern.match(without_suffix(path.relative_to(root)).as_posix(), stems):
            by_image[match[0]].append(path)
    return by_image


def overlap(masks: Sequence[list[Path]]) -> float:
    """Return the share of several masks of one image that overlap, among the pixels that any of them marks.

    Args:
        masks: files of each image; of many, a sample is read.
    """
    marked = several = 0
    for files in [masks[index] for index in np.linspace(0, len(masks) - 1, min(len(masks), SAMPLE)).astype(int)]:
        try:
            counts = torch.stack([read_binary_mask(path) for path in files]).sum(0)
        except (DataError, RuntimeError):  # reported when the masks are checked
            continue
        marked += int((counts > 0).sum())
        several += int((counts > 1).sum())
    return several / max(1, marked)
