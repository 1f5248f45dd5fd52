"""The images and videos that files, folders, globs and lists name, and the names of their predictions."""

import glob
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from finetune.data.files import IMAGE_SUFFIXES, files_below, unread_images
from finetune.data.records import DataError
from finetune.data.stems import without_suffix
from finetune.io.safe_files import LONGEST_TABLE, FileError, read_text

logger = logging.getLogger(__name__)
Source = str | Path | Sequence[str | Path]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
GEOREFERENCED = ".tif"  # of masks of images with a georeference
LIST = ".txt"  # of a file that names others


def find_images(source: Source, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[Path, Path]:
    """Return the image files that a file, folder, glob or list of these names, with their places below what named them.

    Those of one folder or glob are sorted. A text file (`.txt`) is a list, too: see `read_list`.

    Args:
        source: of the files.
        suffixes: of files in folders and globs, in lower case.

    Raises:
        DataError: there is no image, or a text file names one that does not exist.
    """
    if isinstance(source, list | tuple):
        return {path: place for each in source for path, place in find_images(each, suffixes).items()}
    path = Path(str(source))
    if path.is_file():
        return read_list(path) if path.suffix.lower() == LIST else {path: Path(path.name)}
    matches = [] if path.is_dir() else map(Path, glob.glob(str(source), recursive=True))
    listed = sorted(p for p in matches if p.name.lower().endswith(tuple(suffixes)) and p.is_file() and p.name[0] != ".")
    images = files_below(path, suffixes) if path.is_dir() else listed
    if unread := unread_images(path):
        logger.warning(unread)
    if not images:
        reason = "has no image in it" if path.is_dir() else "is no file or folder, and no image matches it as a glob"
        raise DataError(f"input='{source}' {reason}. Expected files ending in {', '.join(sorted(suffixes))}.")
    return {image: image.relative_to(path) if path.is_dir() else Path(image.name) for image in images}


def outside(folder: Path | None, places: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return the images of `find_images` that are not in a folder, such as that of their predictions."""
    inside = None if folder is None else folder.resolve()
    return {path: place for path, place in places.items() if inside is None or inside not in path.resolve().parents}


def read_list(path: Path) -> dict[Path, Path]:
    """Return the files that a text file names, one a line, with their places.

    Paths are relative to the folder of the list. The place of a file below that folder is its path from there, and that
    of a file elsewhere is its name. Blank lines and lines that begin with # are skipped.

    Raises:
        DataError: the list is not UTF-8, or names nothing, or something that is no file.
    """
    try:
        lines = read_text(path, LONGEST_TABLE).removeprefix("\ufeff").splitlines()
    except FileError as error:
        raise DataError(str(error)) from error
    places: dict[Path, Path] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        named, file = Path(line), path.parent / line
        if not file.is_file():
            raise DataError(f"'{path}' line {number} names '{line}', but '{file}' is no file. Correct the line.")
        places[file] = Path(named.name) if named.is_absolute() or ".." in named.parts else named
    if not places:
        raise DataError(f"'{path}' names no file. Expected a list of images, one a line.")
    return places


def output_names(
    places: Mapping[Path, Path],
    files: Callable[[Path], list[Path]] = lambda name: [name],
    georeferenced: Collection[Path] = (),
) -> dict[Path, Path]:
    """Return the name of each image's PNG or, with a georeference, TIFF, and of each video, below the output folder.

    Args:
        places: image -> its place below the folder, from `find_images`.
        files: the files that are written for a name.
        georeferenced: images whose place on the map is kept.

    Raises:
        DataError: two images would get a file of the same name.
    """
    names: dict[Path, Path] = {}
    for path, place in places.items():
        name = without_suffix(place)
        suffix = place.suffix if is_video(place) else GEOREFERENCED if path in georeferenced else ".png"
        names[path] = name.with_name(name.name + suffix)
    first: dict[Path, Path] = {}
    for path, name in names.items():
        for file in files(name):
            if file in first:
                raise DataError(f"'{first[file]}' and '{path}' would both be written as '{file}'. Rename one of them.")
            first[file] = path
    return names


def is_video(path: Path) -> bool:
    """Return whether the suffix of a file is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts paths by their names, in which numbers count as such.

    >>> [path.name for path in sorted(map(Path, ["a10.png", "a9.png", "A1.png"]), key=natural_order)]
    ['A1.png', 'a9.png', 'a10.png']
    """
    parts = re.findall(r"(\d*)(\D*)", path.name)
    return [(int(number or -1), text.lower()) for number, text in parts]
