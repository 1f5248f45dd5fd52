"""Instances in the JSON format of COCO."""

import json
import mmap
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.polygons.annotated import AnnotatedImage, AnnotatedSource, Annotations
from finetune.data.polygons.annotation_files import shown
from finetune.data.polygons.class_map import default_names
from finetune.data.polygons.coco_file import CocoFile
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.recognition.recognized import Recognized, annotation_files, data_folder
from finetune.data.records import DataError, error_listing
from finetune.data.splitting.split_folders import complete_splits
from finetune.data.splitting.split_names import SPLITS, split_of
from finetune.io.messages import shortlist


class CocoSource(AnnotatedSource):
    """Objects as polygons or RLE in one JSON file, or in one per split.

    Later objects are drawn over earlier ones, and over the regions of a crowd (`iscrowd`), which are ignored. The order
    of the labels is that of the category ids. An image without objects is all background.

    Args:
        root: folder of the images.
        annotations: path of the JSON file below `root`; or split -> path; None takes those that there are.
        classes: None for a class per category, after the background; their number; names of categories, in the order of
            the classes; or name -> category, or list of categories, of each class. Other categories are not drawn.
        ignored: categories whose pixels loss and scores leave out.
        ignore_index: label of these pixels.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Mapping[str, str] | None = None,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)
        if isinstance(annotations, Mapping) and not (annotations and set(annotations) <= set(SPLITS)):
            raise ValueError(f"annotations={dict(annotations)}: expected one path for each of {', '.join(SPLITS)}.")
        self.annotations = annotations

    def read(self) -> Annotations:
        """Read the JSON files."""
        index, problems = ImageIndex(self.root), list[str]()
        images, names = list[AnnotatedImage](), dict[int, str]()
        for split, path in self._files().items():
            content = CocoFile(path, split, index)
            images += content.images
            problems += content.problems
            for number, name in content.categories.items():
                if names.setdefault(number, name) != name:
                    problems.append(f"'{path}': category {number} is {shown(name)}, but {shown(names[number])} before.")
        if problems:
            raise error_listing(f"the COCO annotations in '{self.root}' cannot be used as they are", problems)
        if not any(image.split for image in images):  # the images of a single file
            splits = complete_splits([image.path for image in images], self.root)
            images = [replace(image, split=split) for image, split in zip(images, splits, strict=True)]
        return Annotations([names[number] for number in sorted(names)], images)

    def _files(self) -> dict[str, Path]:
        """Return split -> file; one split "" for a single file."""
        annotations = self.annotations
        if annotations is None:
            found = [settings.settings["annotations"] for settings in self.recognize(self.root)]
            if len(found) != 1:
                listed = f": {shortlist(map(str, found))}" if found else ""
                raise DataError(
                    f"'{self.root}' has {len(found)} sets of COCO annotations{listed}. Set data.annotations to the "
                    f"JSON file, or to {{train: ..., val: ...}}."
                )
            annotations = found[0]
        paths = {"": annotations} if isinstance(annotations, str) else annotations
        return {split: self.root / path for split, path in paths.items()}

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return each COCO file below a folder, or group of files that are splits of each other.

        Args:
            root: a folder, or a JSON file.
        """
        folder = data_folder(root)
        outlines = {path: outline for path in annotation_files(root, ".json") if (outline := _outline(path))}
        return [_recognized(folder, group, outlines) for group in _groups(folder, outlines)]


KEYS = (b"images", b"annotations", b"categories", b"segmentation")
LONGEST_CATEGORIES = 2**20  # bytes that are looked at


class _Outline(NamedTuple):
    """What can be seen of a COCO file without parsing it: the number of images, and the categories by id."""

    images: int
    labels: list[str]


def without_segmentations(root: Path) -> list[Path]:
    """Return the COCO files below a folder in which no annotation has a segmentation."""
    return [path for path in annotation_files(root, ".json") if not _outline(path) and _outline(path, KEYS[:3])]


def _outline(path: Path, keys: Sequence[bytes] = KEYS) -> _Outline | None:
    """Return the outline of a COCO file that has these keys; None for any other file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            places = [re.search(rb'"%s"\s*:\s*' % key, content) for key in keys]
            start = places[2].end() if places[2] is not None else 0
            if None in places or content[start : start + 1] != b"[":
                return None
            images = sum(1 for _ in re.finditer(rb'"file_name"\s*:', content))
            text = content[start : start + LONGEST_CATEGORIES].decode("utf-8", "replace")
        names = {entry["id"]: str(entry["name"]) for entry in json.JSONDecoder().raw_decode(text)[0]}
        return _Outline(images, list(dict.fromkeys(names[number] for number in sorted(names))))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):  # some other file
        return None


def _groups(root: Path, paths: Iterable[Path]) -> list[dict[str, Path]]:
    """Return split -> file for files whose paths differ in the name of the split only; "" -> file for others."""
    groups: defaultdict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in paths:
        words = re.findall("[A-Za-z]+|[^A-Za-z]+", path.relative_to(root).as_posix())
        splits = [split_of(word) for word in words if split_of(word)]
        rest = "".join(word for word in words if not split_of(word))
        groups[rest].append((splits[-1] if splits else "", path))
    separate = []
    for group in groups.values():
        by_split = dict(group)
        is_split = len(by_split) == len(group) > 1 and "" not in by_split
        separate += [by_split] if is_split else [{"": path} for _, path in group]
    return separate


def _recognized(root: Path, group: Mapping[str, Path], outlines: Mapping[Path, _Outline]) -> Recognized:
    names = {split: path.relative_to(root).as_posix() for split, path in group.items()}
    annotations = names[""] if "" in names else {split: names[split] for split in SPLITS if split in names}
    labels = dict.fromkeys(label for path in group.values() for label in outlines[path].labels)
    images = " and ".join(f"{outlines[path].images:,} in {names[split]}" for split, path in group.items())
    total, classes = sum(outlines[path].images for path in group.values()), default_names(list(labels))
    lines = (
        f"{total:,} images with COCO annotations"
        + (f" in {annotations} (data.format=coco)" if "" in names else f", {images} (data.annotations)"),
        f"classes {', '.join(classes)} from its categories (data.classes)",
    )
    settings = {"format": "coco", "root": str(root), "annotations": annotations, "classes": classes}
    return Recognized(settings, lines)
