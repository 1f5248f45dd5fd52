"""A folder with images and masks that are paired by file name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, ImageFile, MaskFile, files_below
from finetune.data.mask_values import MaskValues, ignored_label
from finetune.data.options import checked_mask_values, named_classes
from finetune.data.records import DataError, Record, error_listing
from finetune.data.splits import SPLITS, split_of
from finetune.io.messages import shortlist

LAYOUT = "expected ROOT/images/*.jpg with ROOT/masks/*.png, either flat or with train/ val/ test/ in both"


class FolderSource:
    """Images in `root/images` and masks in `root/masks`.

    Both folders are flat, or both have sub-folders that are the split: train/, and perhaps val/ and test/. Train/,
    training/, valid/, validation/, dev/ and testing/ are known too. Deeper folders are searched; hidden ones are not.

    Args:
        root: folder that holds images/ and masks/.
        classes: number of classes, or their names in the order of their indices; None if not known yet.
        ignore_index: value in the masks of the pixels that loss and scores leave out.
        mask_values: file values of each class, as for `read_mask`; None if the files hold class indices.
        mask_suffix: text after the image's stem in the mask's: `_mask` pairs `7.jpg` with `7_mask.png`.
        mask_prefix: text before it: `mask_` pairs `7.jpg` with `mask_7.png`.
    """

    def __init__(
        self,
        root: str | Path,
        classes: int | Sequence[str] | None = None,
        ignore_index: int = 255,
        mask_values: MaskValues | None = None,
        mask_suffix: str = "",
        mask_prefix: str = "",
    ) -> None:
        self.root = Path(root)
        self.class_names = named_classes(classes)
        self.ignored_value = ignore_index
        self.mask_values = checked_mask_values(mask_values, ignore_index, len(named_classes(classes)))
        self.ignore_index = ignored_label(mask_values, ignore_index)
        self.mask_suffix = mask_suffix
        self.mask_prefix = mask_prefix

    def records(self) -> list[Record]:
        """Return the records by split, then by name.

        Raises:
            DataError: with every mistake found in the folder, not only the first.
        """
        folders = {name: self.root / name for name in ("images", "masks")}
        missing = [f"no folder '{folder}'" for folder in folders.values() if not folder.is_dir()]
        if missing:
            raise DataError(f"{'; '.join(missing)}: {LAYOUT}. {_contents(self.root)}")
        splits = _split_folders(folders["images"])
        of_masks = {split: name for name, split in _split_folders(folders["masks"]).items()}
        problems = _layout_problems(folders, splits, of_masks)
        records: list[Record] = []
        for folder, split in splits.items() or [("", "")]:
            mask_folder = folders["masks"] / of_masks.get(split, folder)
            paired, mistakes = self._pair(folders["images"] / folder, mask_folder, split)
            records += paired
            problems += mistakes
        if problems:
            raise error_listing(f"'{self.root}' cannot be used as it is", problems)
        return records

    def _pair(self, image_folder: Path, mask_folder: Path, split: str) -> tuple[list[Record], list[str]]:
        """Return the records of one split, and the mistakes in it."""
        images, masks = files_below(image_folder, IMAGE_SUFFIXES), files_below(mask_folder, MASK_SUFFIXES)
        if not images:
            return [], [f"'{image_folder}' has no images (files that end in {' '.join(IMAGE_SUFFIXES)})."]
        by_stem = {mask.stem: MaskFile(mask, self.mask_values, self.ignored_value) for mask in masks}
        records = [
            Record(image.stem, ImageFile(image), by_stem.get(self._mask_stem(image)), split)
            for image in sorted(images, key=lambda path: path.stem)
        ]
        without_mask = [path.name for record in records if record.target is None for path in record.paths]
        expected_stems = {self._mask_stem(image) for image in images}
        without_image = [mask.name for mask in masks if mask.stem not in expected_stems]
        mistakes = [*_same_stem("images", images), *_same_stem("masks", masks)]
        if without_mask:
            mistakes.append(
                f"{len(without_mask):,} images without a mask in '{mask_folder}': {shortlist(without_mask)}."
            )
        if without_image:
            mistakes.append(
                f"{len(without_image):,} masks without an image in '{image_folder}': {shortlist(without_image)}."
            )
        if without_mask:
            mistakes += _unread_files(mask_folder)
            mistakes += self._other_names(images, masks)
        return records, mistakes

    def _mask_stem(self, image: Path) -> str:
        return f"{self.mask_prefix}{image.stem}{self.mask_suffix}"

    def _other_names(self, images: list[Path], masks: list[Path]) -> list[str]:
        """Return the settings by which most masks would be paired, or that each image has several masks."""
        likely = _likely_affixes(images, masks)
        if likely is None:
            return []
        (prefix, suffix), count = likely
        if count * 2 <= len(masks[:SAMPLE]) and len(masks) >= 1.5 * len(images):
            example = ", ".join(mask.name for mask in masks[:3])
            return [
                f"The images have about {len(masks) / len(images):.1f} masks each ({example}, ...), but a mask is one "
                f"file: merge them into one, or give them as columns of a table (data=csv)."
            ]
        given = {"data.mask_prefix": (prefix, self.mask_prefix), "data.mask_suffix": (suffix, self.mask_suffix)}
        moves = [f"{key}={value or repr('')}" for key, (value, now) in given.items() if value != now]
        return (
            [f"Most masks are named like their image: set {' '.join(moves)}."]
            if moves and count * 2 > len(masks[:SAMPLE])
            else []
        )


def _contents(root: Path) -> str:
    if not root.is_dir():
        return f"'{root}' is not a folder; set data.root to the folder that holds images/ and masks/."
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    return f"'{root}' holds: {shortlist(entries) or 'nothing'}. Set data.root, or rename the folders."


def _split_folders(folder: Path) -> dict[str, str]:
    """Return sub-folder -> split, in the order train, val, test; empty for a flat folder."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and split_of(path.name)]
    return {name: split_of(name) for name in sorted(names, key=lambda name: (SPLITS.index(split_of(name)), name))}


def _layout_problems(folders: dict[str, Path], splits: dict[str, str], of_masks: dict[str, str]) -> list[str]:
    if not splits:
        return []
    problems = []
    if "train" not in splits.values():
        problems.append(
            f"images/ has {shortlist(splits)}/ but no train/. Add images/train and masks/train, or keep all images in "
            f"one flat folder to have them split for you."
        )
    others = [path.name for path in folders["images"].iterdir() if path.is_dir() and not split_of(path.name)]
    if others := sorted(name for name in others if not name.startswith(".")):
        problems.append(
            f"images/ has {shortlist(others)}/ next to the split folders {shortlist(splits)}/. Move them into one of "
            f"these, or out of images/."
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = [name for name, meaning in splits.items() if meaning == split]
            problems.append(f"images/ has {' and '.join(names)}, which all mean {split}. Keep one of them.")
    missing = [name for name, split in splits.items() if split not in of_masks]
    if missing:
        problems.append(f"masks/ has no {shortlist(missing)}/, but images/ has. Use the same sub-folders in both.")
    for name, suffixes in (("images", IMAGE_SUFFIXES), ("masks", MASK_SUFFIXES)):
        stray = [path.name for path in files_below(folders[name], suffixes, deep=False)]
        if stray:
            problems.append(
                f"{len(stray):,} files lie next to the split folders in {name}/: {shortlist(stray)}. "
                "Move them into one of the sub-folders."
            )
    return problems


def _same_stem(folder: str, files: list[Path]) -> list[str]:
    first: dict[str, Path] = {}
    clashes = []
    for path in files:
        if path.stem in first:
            clashes.append(f"'{first[path.stem]}' with '{path}'")
        first.setdefault(path.stem, path)
    if not clashes:
        return []
    return [
        f"{len(clashes):,} {folder} have the name of another one, so pairs are not clear: {shortlist(clashes)}. "
        "Rename them."
    ]


SAMPLE = 500  # masks whose names are looked at for a rule
UNREAD = {  # suffixes of annotations that are not read -> what to do with them
    ".jpg": "JPEG changes the values of masks; save them as PNG",
    ".jpeg": "JPEG changes the values of masks; save them as PNG",
    ".json": "polygons are not read; draw them into PNG masks",
    ".xml": "polygons are not read; draw them into PNG masks",
    ".txt": "polygons are not read; draw them into PNG masks",
    ".mat": "MATLAB files are not read; save their arrays as PNG masks",
    ".npy": "arrays are not read; save them as PNG masks",
}


def _unread_files(folder: Path) -> list[str]:
    """Return a line for each kind of annotation files that no mask is read from."""
    files = {suffix: files_below(folder, (suffix,)) for suffix in UNREAD} if folder.is_dir() else {}
    return [
        f"'{folder}' has {len(paths):,} {suffix} files, such as {paths[0].name}: {UNREAD[suffix]}."
        for suffix, paths in files.items()
        if paths
    ]


def _likely_affixes(images: list[Path], masks: list[Path]) -> tuple[tuple[str, str], int] | None:
    """Return the prefix and suffix that most masks have around the stem of an image, and how many have them.

    None if less than half of the masks that were looked at hold the stem of an image.
    """
    stems = sorted({path.stem for path in images}, key=len, reverse=True)
    affixes: Counter[tuple[str, str]] = Counter()
    for mask in (path.stem for path in masks[:SAMPLE]):
        starts = (stem for stem in stems if mask.startswith(stem))
        longest = next(starts, None) or next((stem for stem in stems if stem in mask), None)
        if longest is not None:
            prefix, _, suffix = mask.partition(longest)
            affixes[prefix, suffix] += 1
    return affixes.most_common(1)[0] if affixes.total() * 2 > len(masks[:SAMPLE]) else None
