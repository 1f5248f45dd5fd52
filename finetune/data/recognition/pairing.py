"""Pair images with masks by their file names."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from unicodedata import normalize

from finetune.data.files import files_below
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

SAMPLE = 500  # masks whose names are looked at for a rule
UNREAD = {  # suffixes of annotations that are not read as masks -> what to do with them
    ".json": "polygons are not read as masks; see data.format=coco, labelme or via, or draw them into PNG masks",
    ".xml": "polygons are not read as masks; see data.format=cvat, or draw them into PNG masks",
    ".txt": "polygons are not read as masks; see data.format=yolo, or draw them into PNG masks",
}


@dataclass(frozen=True)
class Affixes:
    """The text around the part of a file's stem that an image and its mask share."""

    prefix: str = ""
    suffix: str = ""

    def core(self, stem: str) -> str | None:
        """Return the shared part; None if the stem does not have the affixes.

        >>> Affixes("mask_").core("mask_7"), Affixes(suffix="_gt").core("7")
        ('7', None)
        """
        has_both = stem.startswith(self.prefix) and stem.endswith(self.suffix)
        core = stem[len(self.prefix) : len(stem) - len(self.suffix)] if has_both else ""
        return core or None


@dataclass(frozen=True)
class Pairs:
    """Images with their masks by name, and the files that are left over.

    Attributes:
        pairs: (name of the image, image, its mask), by name; None for a mask that is missing.
        without_image: masks of no image.
        repeated: texts about names that several files have, so that pairs are not clear.
    """

    pairs: list[tuple[str, Path, Path | None]]
    without_image: list[Path]
    repeated: list[str]


def pair(
    images: Sequence[Path], masks: Sequence[Path], folders: tuple[Path, Path], of: tuple[Affixes, Affixes]
) -> Pairs:
    """Pair by the shared part of the stems; where stems repeat in sub-folders, by the path below the folder too.

    Args:
        images: files.
        masks: files.
        folders: of all images, and of all masks.
        of: affixes of the images, and of the masks.
    """
    is_nested = any(len({stem_of(path) for path in files}) < len(files) for files in (images, masks))
    if is_nested:
        nested = _pair_by(images, masks, (_PathKey(folders[0], of[0]), _PathKey(folders[1], of[1])))
        if not nested.repeated and 2 * sum(mask is not None for _, _, mask in nested.pairs) > len(images):
            return nested
    return _pair_by(images, masks, (_PathKey(None, of[0]), _PathKey(None, of[1])))


@dataclass(frozen=True)
class _PathKey:
    """What files are paired by: the shared part of the stem, with the path below a folder if there is one."""

    folder: Path | None
    affixes: Affixes

    def key(self, path: Path) -> str | None:
        core = self.affixes.core(stem_of(path))
        return None if core is None else self._below(path) + core

    def name(self, path: Path) -> str:
        return self._below(path) + stem_of(path)

    def _below(self, path: Path) -> str:
        below = "." if self.folder is None else relpath(path.parent, self.folder)
        return "" if below == "." else normalize("NFC", Path(below).as_posix()) + "/"


def _pair_by(images: Sequence[Path], masks: Sequence[Path], keys: tuple[_PathKey, _PathKey]) -> Pairs:
    by_key = {keys[1].key(mask): mask for mask in masks}
    by_key.pop(None, None)
    image_keys = [keys[0].key(image) for image in images]
    used = set(image_keys)
    return Pairs(
        sorted((keys[0].name(path), path, by_key.get(key)) for path, key in zip(images, image_keys, strict=True)),
        # a file without the given affixes is no mask, such as a picture of one next to it
        [mask for mask in masks if (key := keys[1].key(mask)) is not None and key not in used],
        [*_repeated("images", images, keys[0]), *_repeated("masks", masks, keys[1])],
    )


def _repeated(kind: str, files: Sequence[Path], keys: _PathKey) -> list[str]:
    first: dict[str, Path] = {}
    clashes = []
    for path in files:
        name = keys.name(path)
        if name in first:
            clashes.append(f"'{first[name]}' with '{path}'")
        first.setdefault(name, path)
    if not clashes:
        return []
    return [
        f"{len(clashes):,} {kind} have the name of another one, so pairs are not clear: {shortlist(clashes)}. "
        "Rename them."
    ]


def unread_files(folder: Path) -> list[str]:
    """Return a line for each kind of annotation files that no mask is read from."""
    files = {suffix: files_below(folder, (suffix,)) for suffix in UNREAD} if folder.is_dir() else {}
    return [
        f"'{folder}' has {len(paths):,} {suffix} files, such as {paths[0].name}: {UNREAD[suffix]}."
        for suffix, paths in files.items()
        if paths
    ]


def other_rule(images: Sequence[Path], masks: Sequence[Path], given: tuple[Affixes, Affixes]) -> list[str]:
    """Return the settings by which most masks would be paired, or that each image has several masks."""
    likely = likely_affixes(images, masks)
    if likely is None:
        return []
    found, count = likely
    most = 2 * count > len(masks[:SAMPLE])
    if not most and len(masks) >= 1.5 * len(images):
        example = ", ".join(mask.name for mask in masks[:3])
        return [
            f"The images have about {len(masks) / len(images):.1f} masks each ({example}, ...), but a mask is one "
            f"file: merge them into one, give them as columns of a table (data=csv), or take each as an object "
            f"(data=mask_files 'data.masks=masks/{{stem}}_{{object}}')."
        ]
    moves = []
    for kind, now, then in zip(("image", "mask"), given, found, strict=True):
        moves += [f"data.{kind}_prefix={then.prefix or repr('')}"] if then.prefix != now.prefix else []
        moves += [f"data.{kind}_suffix={then.suffix or repr('')}"] if then.suffix != now.suffix else []
    return [f"Most masks are named like their image: set {' '.join(moves)}."] if moves and most else []


def likely_affixes(images: Sequence[Path], masks: Sequence[Path]) -> tuple[tuple[Affixes, Affixes], int] | None:
    """Return the affixes of images and masks by which most masks are paired, and how many of those looked at are.

    Returns:
        None if less than half of the masks are paired by any affixes.
    """
    return next(iter(possible_affixes(images, masks)), None)


def possible_affixes(images: Sequence[Path], masks: Sequence[Path]) -> list[tuple[tuple[Affixes, Affixes], int]]:
    """Return the affixes of images and masks that pair half of the images, and how many masks each pairs, best first.

    Either masks have the whole stem of their image in theirs, or both have a part in common before or after an ending
    of their own, such as `7_image` and `7_label`. Where images have several masks, there are several such affixes.

    Returns:
        Nothing if less than half of the masks are paired by any affixes.
    """
    names, stems = [stem_of(path) for path in masks[:SAMPLE]], {stem_of(path) for path in images}
    counts: Counter[tuple[Affixes, Affixes]] = Counter()
    paired = set()
    for name in names:
        if (stem := _contained(name, stems)) is not None:
            prefix, _, suffix = name.partition(stem)
            counts[Affixes(), Affixes(prefix, suffix)] += 1
            paired.add(stem)
    if counts.total() * 2 > len(names):
        return [(affixes, count) for affixes, count in counts.most_common() if 2 * count >= len(paired)]
    replaced = _replaced_affixes(sorted(stems), names).most_common(1)
    return [found for found in replaced if found[1] * 2 > len(names)]


def _contained(name: str, stems: Collection[str]) -> str | None:
    """Return the longest of the stems that a name starts with, or else the longest one in it; None if there is none."""
    starts = (name[:end] for end in range(len(name), 0, -1))
    if (stem := next((start for start in starts if start in stems), None)) is not None:
        return stem
    lengths = range(len(name) - 1, 0, -1)
    parts = (name[start : start + length] for length in lengths for start in range(1, len(name) - length + 1))
    return next((part for part in parts if part in stems), None)


def _replaced_affixes(images: Sequence[str], masks: Sequence[str]) -> Counter[tuple[Affixes, Affixes]]:
    """Count pairs for the affixes that all images, and all masks, have in common, where those differ."""
    ours, theirs = _common(images), _common(masks)
    counts: Counter[tuple[Affixes, Affixes]] = Counter()
    by_suffix = (Affixes(suffix=ours.suffix), Affixes(suffix=theirs.suffix))
    by_prefix = (Affixes(prefix=ours.prefix), Affixes(prefix=theirs.prefix))
    for pair_of in (by_suffix, by_prefix, (ours, theirs)):  # of equally good ones, the first is chosen
        cores = {pair_of[0].core(stem) for stem in images} - {None}
        paired = sum(pair_of[1].core(stem) in cores for stem in masks)
        if paired and pair_of not in counts:
            counts[pair_of] = paired
    return counts


def _common(stems: Sequence[str]) -> Affixes:
    """Return the text that all stems start with up to a separator, and that they all end with from one.

    >>> _common(["7_image", "81_image"]), _common(["img-1", "img-2"])
    (Affixes(prefix='', suffix='_image'), Affixes(prefix='img-', suffix=''))
    """
    if len(stems) < 2:
        return Affixes()
    return Affixes(_common_start(stems), _common_start([stem[::-1] for stem in stems])[::-1])


def _common_start(stems: Sequence[str]) -> str:
    low, high = min(stems), max(stems)
    length = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    # digits may be a part of the running number: 10, 11, 12 share a 1
    ends = [n + 1 for n, letter in enumerate(low[:length]) if not letter.isalnum()]
    return low[: ends[-1]] if ends else ""
