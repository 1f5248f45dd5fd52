"""Lists of image names, one file per split, such as train.txt and val.txt."""

from collections.abc import Collection, Iterator
from pathlib import Path
from unicodedata import normalize

from finetune.data.records import DataError
from finetune.data.splitting.split_names import SPLITS, split_of
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

MAX_BYTES = 1 << 28


def find_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each split in a folder, in the order train, val, test.

    Raises:
        DataError: a split has two lists, such as val.txt and valid.txt.
    """
    files = sorted(path for path in folder.glob("*.txt") if path.is_file()) if folder.is_dir() else []
    by_split: dict[str, Path] = {}
    for path in files:
        split = split_of(path.stem)
        if split and by_split.setdefault(split, path) != path:
            raise DataError(f"'{by_split[split]}' and '{path.name}' both mean {split}. Keep one of them.")
    return {split: by_split[split] for split in SPLITS if split in by_split}


def read_lists(folder: Path, names: Collection[str] = ()) -> dict[str, str]:
    """Return the split of each name in the lists of a folder.

    Args:
        folder: with the lists.
        names: as for `list_names`.

    Raises:
        DataError: there is no list, or a name is in two of them.
    """
    lists = find_lists(folder)
    if "train" not in lists:
        raise DataError(f"no train.txt in '{folder}'. Set data.lists to the folder with train.txt and val.txt.")
    splits: dict[str, str] = {}
    twice: list[str] = []
    for split, path in lists.items():
        for name in list_names(path, names):
            if splits.setdefault(name, split) != split:
                twice.append(f"{name} ({splits[name]} and {split})")
    if twice:
        raise DataError(f"{len(twice):,} names are in two lists of '{folder}': {shortlist(twice)}. Keep one of each.")
    return splits


def list_names(path: Path, names: Collection[str] = ()) -> list[str]:
    """Return the names of the images that the lines of a list stand for.

    A line names an image: its stem, or a path whose ending does not count, and whose folders count only if they are in
    the name of an image. A stem alone stands for all images that have it. Further words of a line, such as the path of
    the mask, are left out, too.

    Args:
        path: the list.
        names: of the images, `stem` or `folder/stem`, which tell a space or a dot in a name from the end of the name.

    Raises:
        DataError: the file is no text, or too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"'{path}' has {path.stat().st_size:,} bytes; a list of images has at most {MAX_BYTES:,}.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8: {error.reason} at byte {error.start}. Save it as text.") from error
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_last(name), []).append(name)
    found = [_name(normalize("NFC", line.strip()), names) for line in lines if line.strip()]
    return [name for each in found for name in ([each] if each in names else by_stem.get(each, [each]))]


def _name(line: str, names: Collection[str]) -> str:
    line = line.replace("\\", "/")
    first = line.split()[0]
    # with a second path on the line, the last folder is that of the second
    is_one = _last(line).startswith(_last(first))
    candidates = [name for path in ((line, first) if is_one else (first,)) for name in _names(path)]
    return next((name for name in candidates if name in names), stem_of(Path(_last(first))))


def _names(path: str) -> Iterator[str]:
    """Yield what an image of a path may be called, with all of the folders above it first."""
    parts = path.split("/")
    for start in range(len(parts)):
        above = "".join(f"{part}/" for part in parts[start:-1])
        yield from (above + parts[-1], above + stem_of(Path(parts[-1])))


def _last(path: str) -> str:
    return path.rpartition("/")[2]
