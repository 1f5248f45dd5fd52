"""Splits by the names of the folders that hold the images."""

from collections.abc import Sequence
from pathlib import Path

from finetune.data.records import DataError
from finetune.data.splitting.split_names import split_of


def folder_split(path: Path, root: Path) -> str:
    """Return the split that a folder of a file is called after, such as train for train2017; "" if none is.

    >>> folder_split(Path("data/images/train2017/7.jpg"), Path("data"))
    'train'
    """
    splits = (split_of(folder.rstrip("0123456789_-")) for folder in path.relative_to(root).parts[:-1])
    return next(filter(None, splits), "")


def complete_splits(paths: Sequence[Path], root: Path) -> list[str]:
    """Return the split of each image by its folders if all have one and some train; else "" for all.

    A lone `val2017/` is a data set, and `site_1/` next to `train/` is no split.
    """
    splits = [folder_split(path, root) for path in paths]
    return splits if all(splits) and "train" in splits else [""] * len(splits)


def folder_splits(paths: Sequence[Path], root: Path) -> list[str]:
    """Return the split of each image by its folders; all have one, or none.

    Raises:
        DataError: some images lie in folders of a split, and others do not.
    """
    splits = [folder_split(path, root) for path in paths]
    if others := [path for path, split in zip(paths, splits, strict=True) if any(splits) and not split]:
        raise DataError(
            f"{len(others):,} images of '{root}' lie outside of the folders of its splits, such as '{others[0]}'. Move "
            f"them into one of these, or all images into one folder."
        )
    return splits
