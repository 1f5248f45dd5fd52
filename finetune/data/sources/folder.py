"""Folders with images and masks that are paired by file name."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, PHOTO_SUFFIXES, ImageFile, files_below, unread_images
from finetune.data.masks.values import IgnoredValues, MaskValues
from finetune.data.options import Classes, mask_encoding
from finetune.data.recognition.layouts import recognize_folders
from finetune.data.recognition.pairing import Affixes, Pairs, other_rule, pair, unread_files
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError, Record, error_listing
from finetune.data.splitting.split_lists import read_lists
from finetune.data.splitting.split_names import PLACE_OF_SPLIT, SPLITS, split_of
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

logger = logging.getLogger(__name__)

LAYOUT = "expected ROOT/images/*.jpg with ROOT/masks/*.png, either flat or with train/ val/ test/ in both"
# in messages, by which an audit knows what they are about
WITHOUT_MASK, WITHOUT_IMAGE = "images without a mask", "masks without an image"


class FolderSource:
    """Images in one folder and masks in another, or in the same.

    Both folders are flat, or both have sub-folders that are the split: train/, and perhaps val/ and test/. Train/,
    training/, valid/, validation/, dev/ and testing/ are known too. Where the split is above the folders or in their
    names, their paths have `{split}` in its place: `{split}/images`, `{split}_images`. Deeper folders are searched;
    hidden ones are not.

    Args:
        root: folder that holds everything.
        classes: number of classes, their names in the order of their indices, or a mapping from names to file values
            such as `{road: "#ff00ff", car: [1, 2]}`; None if not known yet.
        ignore_index: value in the masks of the pixels that loss and scores leave out, or several; None for 255.
        mask_values: file values of each class, as for `read_mask`; None if the files hold class indices.
        snap: whether values that are not listed become the most similar listed one nearby (soft edges, JPEG);
            None for no.
        images: folder of the images, below root.
        masks: folder of the masks, below root. If it is that of the images, masks are the files with the prefix or
            suffix of masks; without one, all files but JPEGs.
        image_prefix: text before the part of the image's stem that the mask has too.
        image_suffix: text after it: `_image` pairs `7_image.jpg` with `7.png`.
        mask_prefix: text before that part in the mask's stem: `mask_` pairs `7.jpg` with `mask_7.png`.
        mask_suffix: text after it: `_mask` pairs `7.jpg` with `7_mask.png`.
        lists: folder below root with train.txt, val.txt and perhaps test.txt, which name the images of each split; no
            other image is used. None if there are no lists.
        skip_unpaired: whether images without a mask, and masks without an image, are left out instead of refused.
        divisor: values in the masks of at least this many are divided by it: 1000 for class * 1000 + number of the
            object.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Classes = None,
        ignore_index: IgnoredValues | None = None,
        mask_values: MaskValues | None = None,
        snap: bool | None = None,
        images: str = "images",
        masks: str = "masks",
        image_prefix: str = "",
        image_suffix: str = "",
        mask_prefix: str = "",
        mask_suffix: str = "",
        lists: str | None = None,
        skip_unpaired: bool = False,
        divisor: int = 1,
    ) -> None:
        self.root = Path(root)
        self.encoding = mask_encoding(classes, ignore_index, mask_values, snap, divisor)
        self.class_names = self.encoding.class_names
        self.ignore_index = self.encoding.ignore_index
        self.folders = {"images": images, "masks": masks}
        self.affixes = (Affixes(image_prefix, image_suffix), Affixes(mask_prefix, mask_suffix))
        self.lists = lists
        self.skip_unpaired = skip_unpaired

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return the ways to read a folder as images with masks that are paired by name."""
        return recognize_folders(root)

    def records(self) -> list[Record]:
        """Return the records by split, then by name.

        Raises:
            DataError: with every mistake found in the folder, not only the first.
        """
        needs = [(self.folders["images"], True), (self.folders["masks"], False)]
        missing = [text for pattern, in_each in needs if (text := _missing(self.root, pattern, in_each))]
        if missing:
            raise DataError(f"{'; '.join(missing)}: {LAYOUT}. {_contents(self.root)}")
        images, masks = (_split_folders(self.root, pattern) for pattern in self.folders.values())
        masks = [folder for folder in masks if folder.path.is_dir()]  # a split may have none
        problems = [] if self.lists else _layout_problems(self.root, self.folders, images, masks)
        problems += self._differing_splits(images, masks)
        of_masks = {folder.split: folder.path for folder in masks}
        records: list[Record] = []
        for folder in images:
            if folder.split in of_masks:
                paired, mistakes = self._pair(folder.path, of_masks[folder.split], folder.split)
                records += paired
                problems += mistakes
        if problems:
            raise error_listing(f"'{self.root}' cannot be used as it is", problems)
        return records

    def _pair(self, image_folder: Path, mask_folder: Path, split: str) -> tuple[list[Record], list[str]]:
        """Return the records of one split, and the mistakes in it."""
        images, masks = self._files(image_folder, mask_folder)
        if not images:
            unread = unread_images(image_folder)
            text = f"'{image_folder}' has no images (files that end in {' '.join(IMAGE_SUFFIXES)})."
            return [], [f"{text} {unread}".rstrip()]
        pairs = pair(images, masks, (image_folder, mask_folder), self.affixes)
        splits = read_lists(self.root / self.lists, {name for name, _, _ in pairs.pairs}) if self.lists else None
        if splits is not None:
            pairs, absent = _listed(pairs, splits)
            if absent:
                lists = self.root / (self.lists or "")
                return [], [
                    f"{len(absent):,} names in the lists in '{lists}' have no image: {shortlist(absent)}. "
                    f"data.lists='' splits the images without the lists."
                ]
        mistakes = [*pairs.repeated, *self._unpaired(pairs, image_folder, mask_folder)]
        records = [
            Record(
                name,
                ImageFile(image),
                self.encoding.file(mask) if mask else None,
                splits[name] if splits else split,
            )
            for name, image, mask in pairs.pairs
            if mask is not None or not self.skip_unpaired
        ]
        if mistakes and any(mask is None for _, _, mask in pairs.pairs):
            mistakes += [*unread_files(mask_folder), *other_rule(images, masks, self.affixes)]
        return records, mistakes

    def _files(self, image_folder: Path, mask_folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the files of images and of masks, of which one folder may hold the other, or both."""
        images, masks = files_below(image_folder, IMAGE_SUFFIXES), files_below(mask_folder, MASK_SUFFIXES)
        if image_folder == mask_folder:
            return self._told_apart(images, masks)
        if mask_folder.is_relative_to(image_folder):
            return [path for path in images if not path.is_relative_to(mask_folder)], masks
        if image_folder.is_relative_to(mask_folder):
            return images, [path for path in masks if not path.is_relative_to(image_folder)]
        return images, masks

    def _told_apart(self, images: list[Path], masks: list[Path]) -> tuple[list[Path], list[Path]]:
        if self.affixes[0] == self.affixes[1]:
            photos = {path for path in images if path.suffix.lower() in PHOTO_SUFFIXES}
            return sorted(photos), [path for path in masks if path not in photos]
        ours, theirs = self.affixes
        if theirs == Affixes():  # every stem has these, so those of the images decide
            chosen = {path for path in images if ours.core(stem_of(path)) is not None}
            return sorted(chosen), [path for path in masks if path not in chosen]
        chosen = {path for path in masks if theirs.core(stem_of(path)) is not None}
        return [path for path in images if path not in chosen], sorted(chosen)

    def _unpaired(self, pairs: Pairs, image_folder: Path, mask_folder: Path) -> list[str]:
        without_mask = [image.name for _, image, mask in pairs.pairs if mask is None]
        texts = []
        if without_mask:
            texts.append(f"{len(without_mask):,} {WITHOUT_MASK} in '{mask_folder}': {shortlist(without_mask)}.")
        if pairs.without_image:
            names = shortlist(path.name for path in pairs.without_image)
            texts.append(f"{len(pairs.without_image):,} {WITHOUT_IMAGE} in '{image_folder}': {names}.")
        if not self.skip_unpaired or len(without_mask) == len(pairs.pairs):
            return [f"{text} data.skip_unpaired=true leaves them out." if self._some(pairs) else text for text in texts]
        for text in texts:
            logger.warning(f"left out: {text}")
        return []

    def _differing_splits(self, images: "list[SplitFolder]", masks: "list[SplitFolder]") -> list[str]:
        """Return what is wrong with folders of images and masks that do not have the same splits."""
        of_images, of_masks = {folder.split for folder in images}, {folder.split for folder in masks}
        ours, theirs = self.folders["images"], self.folders["masks"]
        missing = [folder.name for folder in images if folder.split not in of_masks and folder.split]
        if not of_images & of_masks and not missing:
            names = shortlist(_place(ours, folder.name) for folder in masks)
            return [f"there is no {names} for the masks of that split. Use the same sub-folders in both."]
        if not missing:  # masks of further splits are not read
            return []
        there, here = (shortlist(_place(pattern, name) for name in missing) for pattern in (theirs, ours))
        text = f"there is no {there}, but {here}. Use the same sub-folders in both"
        if not of_images & of_masks:
            return [f"{text}."]
        if not self.skip_unpaired:
            return [f"{text}, or leave these images out: data.skip_unpaired=true."]
        logger.warning(f"left out: the images of {here}, as there is no {there}.")
        return []

    @staticmethod
    def _some(pairs: Pairs) -> bool:
        return any(mask is not None for _, _, mask in pairs.pairs)


class SplitFolder(NamedTuple):
    """A folder of files, with the name of its split as the folder has it, and the split."""

    name: str
    split: str
    path: Path


def _split_folders(root: Path, pattern: str) -> list[SplitFolder]:
    """Return the folders of a path below root: one per split, in the order train, val, test, or one without a split."""
    place = next((part for part in Path(pattern).parts if PLACE_OF_SPLIT in part), "")
    before, _, after = pattern.partition(place) if place else (pattern, "", "")
    base, (start, _, end) = root / before, place.partition(PLACE_OF_SPLIT)
    folders = []
    for path in base.iterdir() if base.is_dir() else ():
        name = path.name.removeprefix(start).removesuffix(end)
        if path.name == f"{start}{name}{end}" and split_of(name) and path.is_dir():
            folders.append(SplitFolder(name, split_of(name), Path(f"{path}{after}")))
    if not folders and not place:
        return [SplitFolder("", "", base)]
    return sorted(folders, key=lambda folder: (SPLITS.index(folder.split), folder.name))


def _place(pattern: str, split: str) -> str:
    """Return the folder of a split, as it is or would be called.

    >>> _place("masks", "val"), _place("{split}_masks", "val")
    ('masks/val/', 'val_masks/')
    """
    return f"{pattern.replace(PLACE_OF_SPLIT, split)}/" if PLACE_OF_SPLIT in pattern else f"{pattern}/{split}/"


def _missing(root: Path, pattern: str, in_each: bool) -> str:
    """Return a text unless the folder of a path below root exists: if the path has a place for it, in a split, or each.

    Args:
        root: folder of the data.
        pattern: path below root, maybe with `{split}`.
        in_each: whether each split needs it.
    """
    if PLACE_OF_SPLIT not in pattern:
        return "" if (root / pattern).is_dir() else f"no folder '{root / pattern}'"
    folders = _split_folders(root, pattern)
    missing = [str(folder.path) for folder in folders if not folder.path.is_dir()]
    if not folders:
        return f"no folder of a split '{root / pattern}'"
    return f"no folder {shortlist(missing)}" if missing and (in_each or len(missing) == len(folders)) else ""


def _contents(root: Path) -> str:
    if not root.is_dir():
        return f"'{root}' is not a folder; set data.root to the folder that holds images/ and masks/."
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    return f"'{root}' holds: {shortlist(entries) or 'nothing'}. Set data.root, or data.images and data.masks."


def _listed(pairs: Pairs, splits: dict[str, str]) -> tuple[Pairs, list[str]]:
    """Return the pairs whose images are in the lists, and the names in them that no image has."""
    listed = [entry for entry in pairs.pairs if entry[0] in splits]
    absent = sorted(splits.keys() - {name for name, _, _ in listed})
    return Pairs(listed, [], pairs.repeated), absent


def _layout_problems(
    root: Path, patterns: dict[str, str], images: list[SplitFolder], masks: list[SplitFolder]
) -> list[str]:
    ours, theirs = patterns["images"], patterns["masks"]
    splits = {folder.name: folder.split for folder in images if folder.split}
    if not splits:
        return []
    problems = []
    if "train" not in splits.values():
        problems.append(
            f"{ours}/ has {shortlist(splits)}/ but no train/. Add {_place(ours, 'train')} and "
            f"{_place(theirs, 'train')}, or keep all images in one flat folder to have them split for you."
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = [name for name, meaning in splits.items() if meaning == split]
            problems.append(f"{ours}/ has {' and '.join(names)}, which all mean {split}. Keep one of them.")
    if PLACE_OF_SPLIT in ours:
        return problems
    others = [path.name for path in (root / ours).iterdir() if path.is_dir() and not split_of(path.name)]
    if others := sorted(name for name in others if not name.startswith(".") and root / ours / name != root / theirs):
        problems.append(
            f"{ours}/ has {shortlist(others)}/ next to the split folders {shortlist(splits)}/. Move them into one of "
            f"these, or out of {ours}/."
        )
    for name, suffixes, folders in ((ours, IMAGE_SUFFIXES, images), (theirs, MASK_SUFFIXES, masks)):
        stray = [path.name for path in files_below(root / name, suffixes, deep=False)]
        if stray and any(folder.split for folder in folders):
            problems.append(
                f"{len(stray):,} files lie next to the split folders in {name}/: {shortlist(stray)}. "
                "Move them into one of the sub-folders."
            )
    return problems
