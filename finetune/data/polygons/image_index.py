"""Images below a folder, found by the names that annotation files give them."""

from collections import defaultdict
from collections.abc import Sequence
from os.path import normpath
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from finetune.data.files import IMAGE_SUFFIXES, files_below
from finetune.data.polygons.annotation_files import AnnotationError, shown
from finetune.data.splitting.split_folders import folder_split
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist


class ImageIndex:
    """The images below a folder; no other file is ever found.

    Args:
        root: the folder, searched with its sub-folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = files_below(root, IMAGE_SUFFIXES)
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_place: dict[tuple[str, Path], Path] = {}
        for path in self.paths:
            self._by_name[_composed(path.name)].append(path)
            self._by_place.setdefault((_composed(path.name), path.parent), path)
            self._by_stem[_composed(stem_of(path))].append(path)

    def find(self, name: str, folders: Sequence[Path] = (), split: str = "") -> Path:
        """Return the image that a file calls by a name, perhaps with folders of another machine.

        An image in one of the folders comes first, then one whose path ends like the name, in as many folders as
        possible.

        Args:
            name: path as it is written.
            folders: that the name may be relative to, the likeliest first.
            split: of the image, which a folder may be called after.

        Raises:
            AnnotationError: there is no such image, or there are several.
        """
        given = PurePosixPath(name.replace("\\", "/"))
        for folder in folders:
            if placed := self._by_place.get((_composed(given.name), (folder / given).parent)):
                return placed
        candidates = self._by_name.get(_composed(given.name), [])
        parents = tuple(part for part in given.parent.parts if part not in ("..", given.anchor))
        endings = (
            [path for path in candidates if path.parent.parts[start - len(parents) :] == parents[start:]]
            for start in range(len(parents))
        )
        found = next(filter(None, endings), candidates)
        return self._only(found, name, split, given.is_absolute() or ".." in given.parts)

    def with_stem(self, stem: str, folder: Path, hint: str = "") -> Path | None:
        """Return the image with a stem: that in a folder, or else the only one; None if there is no such image.

        Args:
            stem: of the image.
            folder: that is looked into first.
            hint: path relative to the folder, which chooses one of several elsewhere.

        Raises:
            AnnotationError: there are several.
        """
        candidates = self._by_stem.get(_composed(stem), [])
        near = [path for path in candidates if path.parent == folder]
        hinted = normpath(folder / hint.replace("\\", "/"))
        near = near or [path for path in candidates if hint and normpath(path) == hinted]
        return self._only(near or candidates, stem) if candidates else None

    def _only(self, candidates: list[Path], name: str, split: str = "", leads_out: bool = False) -> Path:
        if len(candidates) > 1 and split:
            candidates = [path for path in candidates if split == folder_split(path, self.root)] or candidates
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            where = shortlist((str(path.relative_to(self.root)) for path in candidates), 3)
            raise AnnotationError(f"its image {shown(name)} may be {where}. Rename the images, or remove the copies.")
        where = f"in '{self.root}'" + (", and only images below it are read" if leads_out else "")
        raise AnnotationError(f"there is no image {shown(name)} {where}. Move the image there, or set data.root.")


def _composed(name: str) -> str:
    """Return a name with each accented letter as one character; files from a Mac have two."""
    return normalize("NFC", name)
