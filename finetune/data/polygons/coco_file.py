"""One JSON file in the format of COCO."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.polygons.annotated import AnnotatedImage, LabeledObject
from finetune.data.polygons.annotation_files import (
    AnnotationError,
    coordinates,
    field,
    noting,
    read_annotations,
    shown,
    size_of,
)
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.run_lengths import Bitmap, bitmap, coco_counts, listed_counts
from finetune.data.polygons.shapes import Polygon, Shape


class CocoFile:
    """The contents of one file.

    Attributes:
        categories: id -> name.
        images: in the order of the file.
        problems: what is wrong with it.
    """

    def __init__(self, path: Path, split: str, index: ImageIndex) -> None:
        self.path, self.split, self.index = path, split, index
        self.problems: list[str] = []
        self.categories: dict[int, str] = {}
        self.images: list[AnnotatedImage] = []
        content = read_annotations(path)
        with noting(self.problems, f"'{path}'"):
            entries = [field(content, key, list) for key in ("categories", "images", "annotations")]
            self._read_categories(entries[0])
            self._read_images(entries[1], self._objects(entries[2], entries[1]))

    def _read_categories(self, entries: list[Any]) -> None:
        for place, entry in self._entries("category", entries):
            with noting(self.problems, place):
                number = field(entry, "id", int)
                if number in self.categories:
                    raise AnnotationError(f"its id {number} is that of another one. Give each its own.")
                self.categories[number] = field(entry, "name", str)

    def _objects(self, entries: list[Any], images: list[Any]) -> dict[Any, list[LabeledObject]]:
        """Return image id -> objects in drawing order."""
        sizes = {}
        for entry in images:  # mistakes are noted when the images are read
            with noting([], ""):
                sizes[field(entry, "id", int, str)] = size_of(entry, "height", "width")
        found: defaultdict[Any, list[LabeledObject]] = defaultdict(list)
        for place, entry in self._entries("annotation", entries):
            with noting(self.problems, place):
                image, category = field(entry, "image_id", int, str), field(entry, "category_id", int)
                if image not in sizes:
                    raise AnnotationError(f"its image_id {shown(image)} is that of no image.")
                if category not in self.categories:
                    raise AnnotationError(f"its category_id {category} is that of no category.")
                is_crowd = bool(field(entry, "iscrowd", int, bool, default=0))
                parts = tuple(_parts(entry, *sizes[image]))
                found[image].append(LabeledObject(None if is_crowd else self.categories[category], parts))
        return found

    def _read_images(self, entries: list[Any], objects: Mapping[Any, list[LabeledObject]]) -> None:
        seen = set()
        for place, entry in self._entries("image", entries):
            with noting(self.problems, place):
                number = field(entry, "id", int, str)
                if number in seen:
                    raise AnnotationError(f"its id {shown(number)} is that of another one. Give each its own.")
                seen.add(number)
                folders = [self.path.parent, self.index.root, self.index.root / "images"]
                path = self.index.find(field(entry, "file_name", str), folders, self.split)
                # the pixels of a crowd may be those of its single objects too, which say more
                ordered = tuple(sorted(objects.get(number, ()), key=lambda found: found.label is not None))
                size = size_of(entry, "height", "width")
                self.images.append(AnnotatedImage(path, self.path, ordered, size, self.split))

    def _entries(self, kind: str, entries: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Yield each entry with its place."""
        for position, entry in enumerate(entries, start=1):
            number = f" (id {shown(entry.get('id'))})" if isinstance(entry, dict) else ""
            yield f"'{self.path}': {kind} {position}{number}", entry


def _parts(entry: Any, height: int, width: int) -> Iterator[Shape]:
    """Yield the shapes of an annotation.

    Raises:
        AnnotationError: it has none, or one is malformed.
    """
    segmentation = field(entry, "segmentation", list, dict, default=[])
    if not segmentation:
        raise AnnotationError("it has no segmentation; a box alone is no mask. Annotate its outline, or remove it.")
    if isinstance(segmentation, dict):
        yield _run_lengths(segmentation, height, width)
        return
    for part in segmentation:
        if not isinstance(part, list):
            raise AnnotationError(f"its segmentation has {shown(part)}; expected lists [x, y, x, y, ...].")
        yield Polygon(coordinates(part))


def _run_lengths(entry: dict[str, Any], height: int, width: int) -> Bitmap:
    size = field(entry, "size", list)
    if size != [height, width]:
        raise AnnotationError(f"its RLE has the size {shown(size)}, but its image [{height}, {width}].")
    counts = field(entry, "counts", list, str)
    lengths = coco_counts(counts) if isinstance(counts, str) else listed_counts(counts)
    return bitmap(lengths, height, width, by_columns=True)
