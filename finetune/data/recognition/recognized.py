"""What a folder was recognized as."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.files import files_below
from finetune.data.records import DataError
from finetune.io.messages import shortlist


@dataclass(frozen=True)
class Recognized:
    """One way to read a folder, as a source found it by looking at the files.

    Attributes:
        settings: of `data`, with which the source reads the folder; `format` and `root` are among them.
        lines: what was seen and why, with the setting that would change it; one conclusion each.
        is_part: whether another way reads these files and others too, so that this one has to be asked for.
    """

    settings: Mapping[str, Any]
    lines: tuple[str, ...] = ()
    is_part: bool = False


MANY = 50  # files of one kind in a folder; those of a whole data set are fewer


def annotation_files(root: Path, suffix: str) -> list[Path]:
    """Return files that may each hold the annotations of many images: in a folder, or in its sub-folders.

    Args:
        root: the folder, or the file itself.
        suffix: of the files, in lower case.
    """
    if root.is_file():
        return [root] if root.suffix.lower() == suffix else []
    try:
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")]
        listed = [files_below(folder, (suffix,), deep=False) for folder in folders]
    except OSError:
        return []
    return [path for files in listed if len(files) <= MANY for path in files]


def read_head(path: Path, count: int = 2**16) -> str:
    """Return the first bytes of a file as text, in which whatever is no UTF-8 is replaced; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count).decode("utf-8", "replace")
    except OSError:
        return ""


def data_folder(root: Path) -> Path:
    """Return the folder of the data that an annotation file is for, which may be in a folder annotations/ of it."""
    if not root.is_file():
        return root
    return root.parent.parent if root.parent.name == "annotations" else root.parent


def recognize_files(
    root: Path, suffix: str, format_name: str, kind: str, is_kind: Callable[[str], bool]
) -> list[Recognized]:
    """Return a way to read a folder for each file that holds all annotations.

    Args:
        root: the folder, or such a file.
        suffix: of the files, in lower case.
        format_name: setting `format`.
        kind: of the annotations, for the line.
        is_kind: called with the first bytes of a file.
    """
    folder = data_folder(root)
    names = [path.relative_to(folder).as_posix() for path in annotation_files(root, suffix) if is_kind(read_head(path))]
    return [
        Recognized(
            {"format": format_name, "root": str(folder), "annotations": name},
            (f"{kind} in {name} (data.format={format_name})",),
        )
        for name in names
    ]


def only_file(root: Path, given: str | None, recognized: Sequence[Recognized], kind: str) -> Path:
    """Return the annotation file that the option gives, or else the only one that was recognized.

    Args:
        root: folder of the data.
        given: its path below the root, or None.
        recognized: ways to read the root, each with the setting `annotations`.
        kind: of the file, for messages.

    Raises:
        DataError: there is none, or there are several.
    """
    found = [str(way.settings["annotations"]) for way in recognized]
    if given is None and len(found) != 1:
        listed = f": {shortlist(found)}" if found else ""
        raise DataError(
            f"'{root}' has {len(found) or 'no'} {kind} files{listed}. Set data.annotations to its path below data.root."
        )
    return root / (given or found[0])
