"""Lists of image names, one file per split, such as train.txt and val.txt."""

from pathlib import Path

from finetune.data.records import DataError
from finetune.data.splits import SPLITS, split_of
from finetune.io.messages import shortlist

MAX_BYTES = 1 << 28


def find_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each split in a folder, in the order train, val, test."""
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    by_split = {split_of(path.stem): path for path in files}
    return {split: by_split[split] for split in SPLITS if split in by_split}


def read_lists(folder: Path) -> dict[str, str]:
    """Return the split of each name in the lists of a folder.

    A line names an image: its stem, or a path whose folders and ending do not count. Further words of a line, such as
    the path of the mask, are left out, too.

    Raises:
        DataError: there is no list, or a name is in two of them.
    """
    lists = find_lists(folder)
    if "train" not in lists:
        raise DataError(f"no train.txt in '{folder}'. Set data.lists to the folder with train.txt and val.txt.")
    splits: dict[str, str] = {}
    twice: list[str] = []
    for split, path in lists.items():
        for name in list_names(path):
            if splits.setdefault(name, split) != split:
                twice.append(f"{name} ({splits[name]} and {split})")
    if twice:
        raise DataError(f"{len(twice):,} names are in two lists of '{folder}': {shortlist(twice)}. Keep one of each.")
    return splits


def list_names(path: Path) -> list[str]:
    """Return the stems that the lines of a list name.

    Raises:
        DataError: the file is no text, or too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"'{path}' has {path.stat().st_size:,} bytes; a list of images has at most {MAX_BYTES:,}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8: {error.reason} at byte {error.start}. Save it as text.") from error
    return [_stem(line.split()[0]) for line in lines if line.strip()]


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, ending = last.rpartition(".")
    # a name such as 1.25 has no ending
    return stem if dot and stem and not ending.isdigit() else last
