"""Work out how a folder is to be read: its format, the pairing of its files, and the classes in its masks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from finetune.data.caching.facts import read_each
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.known_facts import contents_fact
from finetune.data.files import unread_images
from finetune.data.masks.contents import EncodedMask, MaskContents
from finetune.data.masks.values import (
    MAX_MASK_VALUE,
    MIN_MASK_VALUE,
    OTHERS,
    MaskValues,
    as_values,
    is_color,
    value_groups,
)
from finetune.data.options import named_classes
from finetune.data.recognition.encodings import work_out_encoding
from finetune.data.recognition.legends import find_legends
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError, Source
from finetune.data.sources import SOURCES
from finetune.data.sources.coco import without_segmentations
from finetune.data.splitting.exclude import without_excluded
from finetune.io.messages import shortlist, suggest

ENCODING = ("classes", "mask_values", "ignore_index", "snap")  # settings of masks that hold numbers or colors


PLACES = ("images", "masks", "lists", "table", "annotations", "yaml")  # settings of paths below root


@dataclass(frozen=True)
class Discovery:
    """Settings of `data`, and what was seen in the files."""

    settings: dict[str, Any]
    lines: list[str]


def discover(
    root: Path,
    given: Mapping[str, Any],
    cache: FileCache | None = None,
    exclude: Path | None = None,
    processes: int | None = None,
) -> Discovery:
    """Work out the settings that read a folder.

    Args:
        root: the folder, or a file that lists images.
        given: settings that are known; they win over what the files look like.
        cache: of what masks hold; None decodes all of them.
        exclude: list of the images whose masks do not count.
        processes: that decode masks, as for `each_result`.

    Raises:
        DataError: the folder cannot be read in any format, or in several; the message has the settings to choose from.
    """
    if "format" not in given and not os.path.exists(root):  # Path.exists raises for a name that is too long
        raise DataError(
            f"'{root}' is not a folder; set data.root to the folder that holds your images and masks, such as images/ "
            f"and masks/."
        )
    given = {key: _plain(value) if key in PLACES else value for key, value in given.items()}
    found = _choose(root, _candidates(root, given), given)
    settings = {**found.settings, **given}
    _check_names(settings, given)
    lines = [line for line in found.lines if given.get("lists") != "" or not line.startswith("the lists ")]
    encoding, more = _encoding(settings, given, cache, exclude, processes)
    return Discovery({**settings, **encoding}, [*lines, *more, *filter(None, [unread_images(root)])])


def _plain(place: Any) -> Any:
    """Return a path below root without `./` and a `/` at its end, so that it can be compared."""
    return PurePosixPath(place).as_posix() if place and isinstance(place, str) else place


def _check_names(settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise DataError for a setting that the format does not have."""
    source_type = SOURCES.get(settings["format"])
    known = {"format", *(signature(source_type).parameters if source_type else given)}
    if unknown := [key for key in given if key not in known]:
        raise DataError(
            f"data.{unknown[0]} is no setting of data.format={settings['format']}, as which '{settings['root']}' is "
            f"read. Leave it out, or set data.format to the format that it is for."
        )


def _candidates(root: Path, given: Mapping[str, Any]) -> list[Recognized]:
    """Return the ways to read a folder that agree with what is given."""
    formats = [given["format"]] if "format" in given else list(SOURCES)
    readers = [reader for name in formats if (reader := getattr(SOURCES.get(name), "recognize", None))]
    found = [candidate for reader in readers for candidate in reader(root)]
    places = {key: value for key, value in given.items() if key not in (*ENCODING, "root", "multilabel")}
    if places.get("lists") == "":  # no lists, whatever is there
        del places["lists"]
    agreeing = [c for c in found if all(c.settings.get(key, value) == value for key, value in places.items())]
    # a table names its images and masks; that the same files also pair by name says nothing else
    tables = [candidate for candidate in agreeing if candidate.settings["format"] == "csv"]
    return tables or [candidate for candidate in agreeing if not candidate.is_part] or agreeing


def _choose(root: Path, candidates: Sequence[Recognized], given: Mapping[str, Any]) -> Recognized:
    if len(candidates) == 1:
        return candidates[0]
    if len(candidates) > 1:
        raise DataError(_question(root, candidates))
    if "format" in given:
        return Recognized({"root": str(root), **given})
    if bare := without_segmentations(root):
        raise DataError(
            f"'{bare[0]}' is a COCO file in which no annotation has a segmentation; boxes alone are no masks. Annotate "
            f"the outlines, or set data.format for other annotations or masks in '{root}'."
        )
    if given.keys() & {"images", "masks"} or any((root / name).is_dir() for name in ("images", "masks")):
        return Recognized({"format": "folder", "root": str(root)})  # its reader says what is missing
    entries = (
        sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if entry.name[0] != ".")
        if root.is_dir()
        else []
    )
    holds = f"holds: {shortlist(entries) or 'nothing'}" if root.is_dir() else "is a file, but no table or annotations"
    raise DataError(
        f"'{root}' {holds}. That is no known form: set data.root to the folder above images and masks, or data.images "
        f"and data.masks to their folders below it, or data.format to one of "
        f"{', '.join(name for name in SOURCES if name != 'synthetic')}."
    )


def _question(root: Path, candidates: Sequence[Recognized]) -> str:
    """Return a text with the settings that choose between several ways to read a folder."""
    keys = [
        key for key in dict.fromkeys(key for c in candidates for key in c.settings) if key not in ("root", "classes")
    ]
    differing = [key for key in keys if len({str(c.settings.get(key)) for c in candidates}) > 1]
    choices = [
        f"{' '.join(quote(f'data.{key}={c.settings[key]}') for key in differing if key in c.settings)}: {c.lines[0]}"
        for c in candidates
    ]
    return "\n- ".join([f"'{root}' can be read in {len(candidates)} ways. Choose one by its settings:", *choices])


def _encoding(
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    cache: FileCache | None,
    exclude: Path | None,
    processes: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the masks' encoding, if the source has them and they are not all given."""
    source_type = SOURCES.get(settings["format"])
    if given.get("mask_values") is not None and given.get("classes") is None:
        names = _names_of_values(given["mask_values"])
        return {"classes": names}, [f"{len(names)} classes of data.mask_values: {shortlist(names, 12)} (data.classes)"]
    if source_type is None or given.get("mask_values") is not None or _gives_values(given.get("classes")):
        return {}, []
    source = source_type(**{key: value for key, value in settings.items() if key not in ("format", *ENCODING)})
    root = Path(settings["root"])
    masks = _encoded_masks(source, exclude, root)
    if not masks:
        return {}, []
    legends = [legend for folder in (root, root / settings.get("masks", "masks")) for legend in find_legends(folder)]
    ignored = None if given.get("ignore_index") is None else as_values(given["ignore_index"])
    if ignored is not None:
        ignored = [value.lower() if isinstance(value, str) else value for value in ignored]
    contents = read_each(masks, contents_fact, _contents, cache, processes)
    readable = [mask for mask in contents if mask is not None]
    _check_values(masks, contents)
    if not readable:
        return {}, []
    if odd := _mixed_with_color(masks, contents):
        raise DataError(odd)
    are_classes = given.get("classes") is not None
    worked_out = work_out_encoding(readable, legends, ignored, are_classes, given.get("snap"))
    return _with_given(dict(worked_out.settings), worked_out.lines, given)


def _names_of_values(mask_values: MaskValues) -> list[str]:
    """Return names for the classes whose values are given.

    >>> _names_of_values([0, 255]), _names_of_values([1, [2, 3], "*"]), _names_of_values(["#000000", "#ff0000"])
    (['background', 'foreground'], ['class_1', 'class_2', 'others'], ['#000000', '#ff0000'])
    """
    firsts = [group[0] for group in value_groups(mask_values) if group]
    if len(firsts) == 2 and firsts[0] == 0:
        return ["background", "foreground"]
    return ["others" if v == OTHERS else str(v) if is_color(v) else f"class_{v}" for v in firsts]


def _gives_values(classes: Any) -> bool:
    """Return whether a mapping of classes has values in the masks, and not names that a legend explains."""
    return isinstance(classes, Mapping) and not _names(classes)


def _names(classes: Mapping[str, Any]) -> list[str]:
    """Return the names that a mapping of classes makes its own from."""
    values = [value for group in classes.values() for value in as_values(group)]
    return [value for value in values if isinstance(value, str) and value != OTHERS and not is_color(value)]


def _encoded_masks(source: Source, exclude: Path | None, root: Path) -> list[EncodedMask]:
    """Return the masks whose values are to be worked out; none for sources whose masks have no encoding."""
    if not hasattr(source, "encoding"):
        return []
    records = source.records()
    kept = without_excluded(records, exclude, root) if exclude else records
    targets: list[object] = [record.target for record in kept]
    return [target for target in targets if isinstance(target, EncodedMask)]


def _contents(mask: EncodedMask) -> MaskContents | None:
    try:
        return mask.contents()
    except DataError:  # reported when all images and masks are checked
        return None


def _mixed_with_color(masks: Sequence[EncodedMask], contents: Sequence[MaskContents | None]) -> str:
    """Return what is wrong if a few masks among gray ones are color images, which can be no classes of the others."""
    colored = [str(mask.paths[0]) for mask, c in zip(masks, contents, strict=True) if c and c.kind == "color"]
    grays = sum(c is not None and c.kind == "gray" for c in contents)
    if not 0 < 2 * len(colored) <= grays or not all(mask.paths for mask in masks):
        return ""
    return (
        f"{len(colored):,} masks are color images, and {grays:,} are gray: {shortlist(colored, 3)}. Replace them by "
        f"masks like the others, or leave them out (data.exclude)."
    )


def _check_values(masks: Sequence[EncodedMask], contents: Sequence[MaskContents | None]) -> None:
    """Raise DataError if a mask has a value that cannot stand for a class."""
    for mask, found in zip(masks, contents, strict=True):
        values = found.pixels if found is not None else ()
        if outside := [value for value in values if not MIN_MASK_VALUE <= value <= MAX_MASK_VALUE]:
            raise DataError(
                f"{mask.description} has the value {outside[0]:,}; expected {MIN_MASK_VALUE:,} to {MAX_MASK_VALUE:,}. "
                f"Replace the file, if it is broken, or save the masks with smaller values."
            )


def _with_given(
    settings: dict[str, Any], lines: list[str], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings with the given classes: other names, or groups of the names that a legend has."""
    classes = given.get("classes")
    if isinstance(classes, Mapping):
        return _grouped(settings, lines, classes)
    if classes is None or len(named_classes(classes)) == len(settings["classes"]):
        return {**settings, "classes": settings["classes"] if classes is None else classes}, lines
    return {"mask_values": None}, []  # the check of all masks says what does not fit


def _grouped(
    settings: dict[str, Any], lines: list[str], classes: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings for classes that are made of others by name, or by value; those in none are ignored.

    Raises:
        DataError: a name is none of the masks' classes.
    """
    values = settings.get("mask_values") or list(range(len(settings["classes"])))
    by_name = dict(zip(settings["classes"], values, strict=True))
    if unknown := [name for name in _names(classes) if name not in by_name]:
        raise DataError(f"data.classes: the masks have no class '{unknown[0]}'. {suggest(unknown[0], by_name)}")
    given = [[v for name in as_values(group) for v in as_values(by_name.get(name, name))] for group in classes.values()]
    taken = {value for group in given for value in group}
    dropped = [name for name in by_name if not taken.intersection(as_values(by_name[name]))]
    others = [value for name in dropped for value in as_values(by_name[name])]
    groups = [[v for value in group for v in (others if value == OTHERS else [value])] for group in given]
    dropped = [] if OTHERS in taken else dropped
    ignored = [*as_values(settings["ignore_index"]), *(others if dropped else [])]
    grouped = {**settings, "classes": list(classes), "mask_values": groups}
    if dropped:
        lines = [
            *lines,
            f"{shortlist(dropped)} {'is' if len(dropped) == 1 else 'are'} in no class and ignored (data.classes)",
        ]
        grouped["ignore_index"] = ignored
    return grouped, lines
