"""Which image belongs to which mask, read from a folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from finetune.io.messages import shortlist

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUT = "expected ROOT/images/*.jpg with ROOT/masks/*.png, either flat or with train/ val/ test/ in both"


class DataError(ValueError):
    """The data on disk cannot be trained on as it is; the message says what to change."""


@dataclass(frozen=True)
class Record:
    """One image with its mask.

    Attributes:
        image: file of the image.
        mask: file of the mask; None where there is none yet.
        split: "train", "val" or "test"; "" while the folder has no split.
    """

    image: Path
    mask: Path | None
    split: str = ""

    @property
    def name(self) -> str:
        """The image's file name without its ending; unique within its split."""
        return self.image.stem


def folder_records(root: Path, mask_suffix: str = "") -> list[Record]:
    """Pair `root/images` with `root/masks` by file name.

    Both folders are flat, or both have train/ val/ and perhaps test/ sub-folders (valid/ and validation/ are val),
    which then are the split. Deeper folders are searched too. Hidden files are passed over.

    Args:
        root: folder that holds images/ and masks/.
        mask_suffix: what a mask's name has behind the image's: `_mask` pairs `7.jpg` with `7_mask.png`.

    Returns:
        Records by split, then by name.

    Raises:
        DataError: with every mistake found in the folder, not only the first.
    """
    root = Path(root)
    folders = {kind: root / kind for kind in ("images", "masks")}
    missing = [f"no folder '{folder}'" for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise DataError(f"{'; '.join(missing)}: {LAYOUT}. {_contents(root)}")
    splits = _split_folders(folders["images"])
    problems = _layout_problems(folders, splits)
    records: list[Record] = []
    for folder, split in splits.items() or [("", "")]:
        found, wrong = _pairs(folders["images"] / folder, folders["masks"] / folder, split, mask_suffix)
        records += found
        problems += wrong
    if problems:
        raise DataError(f"'{root}' cannot be used as it is:\n- " + "\n- ".join(problems))
    return records


def _contents(root: Path) -> str:
    if not root.is_dir():
        return f"'{root}' is not a folder; set data.root to the folder that holds images/ and masks/."
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    return f"'{root}' holds: {shortlist(entries) or 'nothing'}. Set data.root, or rename the folders."


def _split_folders(images: Path) -> dict[str, str]:
    """Sub-folder -> split, in the order train, val, test; empty for a flat folder."""
    return {name: split for name, split in SPLIT_FOLDERS.items() if (images / name).is_dir()}


def _layout_problems(folders: dict[str, Path], splits: dict[str, str]) -> list[str]:
    if not splits:
        return []
    problems = []
    for split in ("train", "val"):
        if split not in splits.values():
            problems.append(
                f"images/ has {shortlist(splits)}/ but no {split}/. Add images/{split} and masks/{split}, "
                "or keep all images in one flat folder to have them split for you."
            )
    for split, times in Counter(splits.values()).items():
        if times > 1:
            named = [name for name, of in splits.items() if of == split]
            problems.append(f"images/ has {' and '.join(named)}, which all mean {split}. Keep one of them.")
    missing = [name for name in splits if not (folders["masks"] / name).is_dir()]
    if missing:
        problems.append(f"masks/ has no {shortlist(missing)}/, but images/ has. Use the same sub-folders in both.")
    for kind, endings in (("images", IMAGE_ENDINGS), ("masks", MASK_ENDINGS)):
        stray = [path.name for path in _files(folders[kind], endings, deep=False)]
        if stray:
            problems.append(
                f"{len(stray):,} files lie beside the split folders in {kind}/: {shortlist(stray)}. "
                "Move them into one of the sub-folders."
            )
    return problems


def _files(folder: Path, endings: tuple[str, ...], deep: bool = True) -> list[Path]:
    """Visible files with one of the endings, sorted by path."""
    return sorted(
        path
        for path in folder.glob("**/*" if deep else "*")
        if path.suffix.lower() in endings
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _pairs(images: Path, masks: Path, split: str, suffix: str) -> tuple[list[Record], list[str]]:
    """The records of one split, and what is wrong with it."""
    image_files, mask_files = _files(images, IMAGE_ENDINGS), _files(masks, MASK_ENDINGS)
    if not image_files:
        return [], [f"'{images}' has no images (files that end in {' '.join(IMAGE_ENDINGS)})."]
    problems = [*_same_stem("images", image_files), *_same_stem("masks", mask_files)]
    by_stem = {path.stem: path for path in mask_files}
    wanted = {path.stem + suffix for path in image_files}
    alone = [path.name for path in image_files if path.stem + suffix not in by_stem]
    left = [path.name for path in mask_files if path.stem not in wanted]
    if alone:
        problems.append(f"{len(alone):,} images without a mask in '{masks}': {shortlist(alone)}.")
    if left:
        problems.append(f"{len(left):,} masks without an image in '{images}': {shortlist(left)}.")
    likely = _likely_suffix(image_files, mask_files)
    if alone and likely is not None and likely != suffix:
        problems.append(
            f"Most masks are named like their image plus '{likely}': set data.mask_suffix={likely or repr('')}."
        )
    by_name = sorted(image_files, key=lambda path: path.stem)
    return [Record(path, by_stem.get(path.stem + suffix), split) for path in by_name], problems


def _same_stem(kind: str, files: list[Path]) -> list[str]:
    first: dict[str, Path] = {}
    clashes = [(first[path.stem], path) for path in files if first.setdefault(path.stem, path) != path]
    if not clashes:
        return []
    named = shortlist(f"'{one}' with '{other}'" for one, other in clashes)
    return [f"{len(clashes):,} {kind} have the name of another one, so pairs are not clear: {named}. Rename them."]


def _likely_suffix(images: list[Path], masks: list[Path]) -> str | None:
    """The one suffix that would pair more than half of the masks; None where there is none."""
    stems = {path.stem for path in images}
    suffixes: Counter[str] = Counter()
    for mask in (path.stem for path in masks):
        prefixes = (mask[:end] for end in range(len(mask), 0, -1))
        longest = next((prefix for prefix in prefixes if prefix in stems), None)
        if longest is not None:
            suffixes[mask[len(longest) :]] += 1
    likely, times = suffixes.most_common(1)[0] if suffixes else (None, 0)
    return likely if times * 2 > len(masks) else None
