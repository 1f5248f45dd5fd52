"""Shapes in the XML format "CVAT for images 1.1"."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import radians
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from finetune.data.polygons.annotated import (
    AnnotatedImage,
    AnnotatedSource,
    Annotations,
    LabeledObject,
    labels_by_name,
    with_folder_splits,
)
from finetune.data.polygons.annotation_files import (
    MAX_BYTES,
    MAX_COORDINATE,
    AnnotationError,
    coordinates,
    noting,
    shown,
)
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.run_lengths import bitmap, listed_counts
from finetune.data.polygons.shapes import SMALLEST_RADIUS, Ellipse, Polygon, Shape, rectangle, rotated
from finetune.data.recognition.recognized import Recognized, only_file, recognize_files
from finetune.data.records import DataError, error_listing
from finetune.data.splitting.split_names import split_of

SHAPES = ("polygon", "box", "ellipse", "mask")
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


class CvatSource(AnnotatedSource):
    """Polygons, boxes, ellipses and masks in one XML file, as CVAT exports it for images.

    Shapes are drawn in the order of their `z_order`, and then of the file; an image without shapes is all background.
    The order of the labels is that of the file's list of labels. An image's subset is its split; otherwise, folders
    called train, val and test are the splits.

    Args:
        root: folder of the images.
        annotations: path of the XML file below `root`; None takes the only one that there is.
        classes: None for a class per label, after the background; their number; labels in the order of the classes; or
            name -> label, or list of labels, of each class. Other shapes are not drawn.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: label of these pixels in the masks.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | None = None,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)
        self.annotations = annotations

    def read(self) -> Annotations:
        """Read the XML file."""
        path = only_file(self.root, self.annotations, self.recognize(self.root), "CVAT")
        document = read_xml(path)
        if document.tag != "annotations" or document.find("track") is not None:
            raise DataError(
                f"'{path}' is not in the format 'CVAT for images 1.1': it has <{document.tag}>"
                f"{' with tracks of a video' if document.tag == 'annotations' else ''}. Export it in that format."
            )
        index, problems, images = ImageIndex(self.root), list[str](), list[AnnotatedImage]()
        for position, entry in enumerate(document.iter("image"), start=1):
            name = entry.get("name")
            place = f"'{path}': image {position if name is None else shown(name)}"
            with noting(problems, place):
                image = index.find(_text(entry, "name"), [path.parent, self.root, self.root / "images"])
                size = int(_number(entry, "height", low=1)), int(_number(entry, "width", low=1))
                objects = tuple(_objects(entry, problems, place))
                images.append(AnnotatedImage(image, path, objects, size, split_of(entry.get("subset", ""))))
        if problems:
            raise error_listing(f"the CVAT annotations in '{self.root}' cannot be used as they are", problems)
        return Annotations(_labels(document, images), _with_splits(images, self.root))

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return each XML file of CVAT for images in a folder.

        Args:
            root: a folder, or an XML file.
        """
        return recognize_files(root, ".xml", "cvat", "shapes of CVAT", _is_cvat)


def _is_cvat(head: str) -> bool:
    return "<annotations>" in head and "<track " not in head and ("<image " in head or "<labels>" in head)


class _WithoutDoctype(ElementTree.TreeBuilder):
    """A builder that refuses definitions of entities, which may expand without end or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        """Raise ValueError as soon as a DOCTYPE starts."""
        raise ValueError("it has a DOCTYPE, which annotations never have")


def read_xml(path: Path) -> Element:
    """Read an XML file without entities of its own.

    Raises:
        DataError: it is missing, too large or no XML, or has a DOCTYPE.
    """
    if not path.is_file():
        raise DataError(f"no file '{path}'. Set data.annotations to the path of the XML file below data.root.")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DataError(f"'{path}' has {size:,} bytes; at most {MAX_BYTES:,} are read. Export fewer images at once.")
    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=_WithoutDoctype())).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # of unknown encodings
        raise DataError(f"'{path}' cannot be read as XML: {error}. Export it again.") from error


def _with_splits(images: list[AnnotatedImage], root: Path) -> list[AnnotatedImage]:
    without = [image for image in images if not image.split]
    if not without:
        return images
    placed = with_folder_splits([replace(image, split="") for image in images], root)
    if len(without) < len(images) and not all(image.split for image in placed):
        raise DataError(
            f"{len(without):,} images of '{root}' have no subset, such as '{without[0].path}', but others have. Put "
            f"each image into a subset, or none."
        )
    return placed


def _labels(document: Element, images: Sequence[AnnotatedImage]) -> list[str]:
    """Return the labels in the order of the file's list, then others by name."""
    listed = [name.text.strip() for name in document.iterfind(".//labels/label/name") if name.text]
    return [*listed, *labels_by_name(images)]


def _objects(image: Element, problems: list[str], place: str) -> Iterator[LabeledObject]:
    """Yield the objects of an image in drawing order."""
    found = []
    for position, entry in enumerate(image, start=1):
        with noting(problems, f"{place}, shape {position}"):
            if entry.tag in WITHOUT_AREA:
                raise AnnotationError(f"it is a {entry.tag}, which has no area. Draw a polygon, or remove it.")
            if entry.tag in SHAPES:
                order = int(_number(entry, "z_order", default="0"))
                found.append((order, LabeledObject(_text(entry, "label"), (_shape(entry),))))
    yield from (labeled for _, labeled in sorted(found, key=lambda pair: pair[0]))


def _shape(entry: Element) -> Shape:
    if entry.tag == "polygon":
        return Polygon(coordinates(_values(_text(entry, "points").replace(";", ","), float)))
    if entry.tag == "mask":
        left, top, width, height = (int(_number(entry, key)) for key in ("left", "top", "width", "height"))
        return bitmap(listed_counts(_values(_text(entry, "rle"), int)), height, width, top, left)
    turn = radians(_number(entry, "rotation", default="0"))
    if entry.tag == "ellipse":
        radii = [_number(entry, key, low=SMALLEST_RADIUS) for key in ("rx", "ry")]
        return Ellipse(_number(entry, "cx"), _number(entry, "cy"), radii[0], radii[1], turn)
    corners = [_number(entry, key) for key in ("xtl", "ytl", "xbr", "ybr")]
    center_x, center_y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    return Polygon(rotated(rectangle(*corners), center_x, center_y, turn))


def _text(entry: Element, key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if value is None:
        raise AnnotationError(f"it has no '{key}'.")
    return value


def _number(entry: Element, key: str, default: str | None = None, low: float = -MAX_COORDINATE) -> float:
    text = _text(entry, key, default)
    try:
        value = float(text)
    except ValueError:
        raise AnnotationError(f"its {key} is {shown(text)}; expected a number.") from None
    if not low <= value <= MAX_COORDINATE:
        raise AnnotationError(f"its {key} is {shown(text)}; expected {low:g} to {MAX_COORDINATE:g}.")
    return value


def _values(text: str, kind: type[int] | type[float]) -> list[Any]:
    """Return the numbers of a list in one text."""
    values = []
    for part in text.split(","):
        try:
            values.append(kind(part))
        except ValueError:
            raise AnnotationError(f"it has the value {shown(part)}; expected numbers.") from None
    return values
