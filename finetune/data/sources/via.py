"""Regions in the JSON format of the VGG Image Annotator 2."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.polygons.annotated import (
    AnnotatedImage,
    AnnotatedSource,
    Annotations,
    LabeledObject,
    labels_by_name,
    with_folder_splits,
)
from finetune.data.polygons.annotation_files import (
    AnnotationError,
    coordinates,
    field,
    noting,
    number,
    read_annotations,
    shown,
)
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.shapes import SMALLEST_RADIUS, Ellipse, Polygon, Shape, rectangle
from finetune.data.recognition.recognized import Recognized, only_file, recognize_files
from finetune.data.records import DataError, error_listing
from finetune.io.messages import shortlist


class ViaSource(AnnotatedSource):
    """Polygons, rectangles, circles and ellipses in one JSON file: an export of the annotations, or a saved project.

    The label of a region is the value of one of its attributes. Later regions are drawn over earlier ones; an image
    without regions is all background. Folders called train, val and test are the splits.

    Args:
        root: folder of the images.
        annotations: path of the JSON file below `root`; None takes the only one that there is.
        attribute: attribute of a region that is its label; None takes the only one that there is.
        classes: None for a class per label in the order of their names, after the background; their number; labels in
            the order of the classes; or name -> label, or list of labels, of each class. Other regions are not drawn.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: label of these pixels in the masks.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | None = None,
        attribute: str | None = None,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)
        self.annotations = annotations
        self.attribute = attribute

    def read(self) -> Annotations:
        """Read the JSON file."""
        path = only_file(self.root, self.annotations, self.recognize(self.root), "VIA")
        content = read_annotations(path)
        index, problems, images = ImageIndex(self.root), list[str](), list[AnnotatedImage]()
        with noting(problems, f"'{path}'"):
            entries = _entries(content)
            attribute = self.attribute or _only_attribute(path, entries)
            for position, entry in enumerate(entries, start=1):
                with noting(problems, f"'{path}': image {position}"):
                    name = field(entry, "filename", str)
                    found = index.find(name, [path.parent, self.root, self.root / "images"])
                    objects = tuple(_objects(entry, attribute, problems, f"'{path}': image {shown(name)}"))
                    images.append(AnnotatedImage(found, path, objects))
        if problems:
            raise error_listing(f"the VIA annotations in '{self.root}' cannot be used as they are", problems)
        return Annotations(labels_by_name(images), with_folder_splits(images, self.root))

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return each JSON file of VIA in a folder.

        Args:
            root: a folder, or a JSON file.
        """
        return recognize_files(root, ".json", "via", "regions of the VGG Image Annotator", _is_via)


def _is_via(head: str) -> bool:
    return '"_via_' in head or all(key in head for key in ('"filename"', '"regions"'))


def _entries(content: Any) -> list[Any]:
    """Return the entries of the images, in the order of the file."""
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise AnnotationError(f"it holds {shown(content)}; expected an object with an entry per image.")
    return list(content.values())


def _regions(entry: Any) -> Iterable[Any]:
    regions = field(entry, "regions", list, dict)
    return regions.values() if isinstance(regions, dict) else regions  # version 1 numbers them


def _objects(entry: Any, attribute: str, problems: list[str], place: str) -> Iterator[LabeledObject]:
    for position, region in enumerate(_regions(entry), start=1):
        with noting(problems, f"{place}, region {position}"):
            label = _label(field(region, "region_attributes", dict), attribute)
            yield LabeledObject(label, (_shape(field(region, "shape_attributes", dict)),))


def _only_attribute(path: Path, entries: Iterable[Any]) -> str:
    """Return the name of the only attribute that regions have.

    Raises:
        DataError: there are several.
    """
    names: set[str] = set()
    for entry in entries:
        with noting([], ""):  # mistakes are noted when the regions are read
            names |= {
                str(name) for region in _regions(entry) for name in field(region, "region_attributes", dict, default={})
            }
    if len(names) > 1:
        raise DataError(
            f"the regions in '{path}' have several attributes: {shortlist(sorted(names))}. Set data.attribute to the "
            f"one that is the class."
        )
    return next(iter(names), "")


def _label(attributes: dict[str, Any], name: str) -> str:
    value = attributes.get(name)
    if isinstance(value, dict):  # checkboxes
        chosen = [option for option, is_chosen in value.items() if is_chosen is True]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, str) or not value.strip():
        raise AnnotationError(f"its attribute {shown(name)} is {shown(attributes.get(name))}; expected one label.")
    return value.strip()


def _shape(entry: dict[str, Any]) -> Shape:
    kind = field(entry, "name", str)
    if kind == "polygon":
        values = [field(entry, key, list) for key in ("all_points_x", "all_points_y")]
        if len(values[0]) != len(values[1]):
            raise AnnotationError(f"it has {len(values[0])} x and {len(values[1])} y; expected as many of both.")
        return Polygon(coordinates([value for pair in zip(*values, strict=True) for value in pair]))
    if kind == "rect":
        left, top, width, height = (number(entry, key) for key in ("x", "y", "width", "height"))
        return Polygon(rectangle(left, top, left + width, top + height))
    if kind == "circle":
        radius = number(entry, "r", low=SMALLEST_RADIUS)
        return Ellipse(number(entry, "cx"), number(entry, "cy"), radius, radius)
    if kind == "ellipse":
        radii = [number(entry, key, low=SMALLEST_RADIUS) for key in ("rx", "ry")]
        turn = number(entry, "theta", default=0)  # radians
        return Ellipse(number(entry, "cx"), number(entry, "cy"), radii[0], radii[1], turn)
    raise AnnotationError(f"it is a {shown(kind)}, which has no area. Draw a polygon, or remove it.")
