"""Shapes in a JSON file per image, as labelme writes them."""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.files import files_below
from finetune.data.images.decode import MAX_PIXELS
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
    field,
    noting,
    pairs,
    read_annotations,
    shown,
    size_of,
)
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.run_lengths import Bitmap, bitmap_of
from finetune.data.polygons.shapes import Ellipse, Polygon, Shape, rectangle
from finetune.data.recognition.recognized import Recognized, read_head
from finetune.data.records import error_listing

SETTINGS = "settings.json"
LOOKED_AT = 3  # JSON files, to recognize a folder


class LabelmeSource(AnnotatedSource):
    """A JSON file for each image, next to it or in another folder, with polygons, rectangles, circles and masks.

    A JSON file belongs to the image with the same name in its folder, or else below `root`, where its `imagePath`
    chooses one of several, or else to its `imagePath`. Later shapes are drawn over earlier ones. An image without a
    JSON file is left out; one whose file has no shapes is all background. Folders called train, val and test are the
    splits.

    Args:
        root: folder of the data.
        classes: None for a class per label in the order of their names, after the background; their number; labels in
            the order of the classes; or name -> label, or list of labels, of each class. Other shapes are not drawn.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: label of these pixels in the masks.
    """

    def __init__(
        self,
        root: str | Path,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)

    def read(self) -> Annotations:
        """Read the JSON files."""
        index, problems = ImageIndex(self.root), list[str]()
        found = (_read_image(path, index, problems) for path in files_below(self.root, (".json",)))
        images = [image for image in found if image is not None]
        if problems:
            raise error_listing(f"the labelme files in '{self.root}' cannot be used as they are", problems)
        return Annotations(labels_by_name(images), with_folder_splits(images, self.root))

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return the labelme data set of a folder with such JSON files.

        Args:
            root: a folder.
        """
        paths = files_below(root, (".json",))
        heads = map(read_head, paths[:LOOKED_AT])
        if not any('"shapes"' in head and ('"points"' in head or '"imagePath"' in head) for head in heads):
            return []
        paths = [path for path in paths if path.name != SETTINGS]  # next to the labels that `finetune predict` writes
        images = len(ImageIndex(root).paths)
        rest = f"; {images - len(paths):,} images have none and are left out" if images > len(paths) else ""
        lines = (
            f"{len(paths):,} JSON files of labelme (data.format=labelme){rest}",
            "classes from their labels, in the order of the names, after background (data.classes)",
        )
        return [Recognized({"format": "labelme", "root": str(root)}, lines)]


def _read_image(path: Path, index: ImageIndex, problems: list[str]) -> AnnotatedImage | None:
    """Read one file; None if it is another kind of JSON, or what is wrong with it was appended."""
    content = read_annotations(path)
    with noting(problems, f"'{path}'"):
        named = content.get("imagePath") if isinstance(content, dict) else None
        image = index.with_stem(path.stem, path.parent, named if isinstance(named, str) else "")
        if image is None and not (isinstance(content, dict) and {"shapes", "imagePath"} & content.keys()):
            return None
        shapes = field(content, "shapes", list)
        image = image or index.find(field(content, "imagePath", str), [path.parent])
        has_size = content.get("imageHeight") is not None or content.get("imageWidth") is not None
        size = size_of(content, "imageHeight", "imageWidth") if has_size else None
        objects = []
        for position, entry in enumerate(shapes, start=1):
            with noting(problems, f"'{path}': shape {position}"):
                objects.append(LabeledObject(field(entry, "label", str), (_shape(entry),)))
        return AnnotatedImage(image, path, tuple(objects), size)
    return None


def _shape(entry: dict[str, Any]) -> Shape:
    kind = field(entry, "shape_type", str, default="polygon")
    if kind not in ("polygon", "rectangle", "circle", "mask"):
        raise AnnotationError(f"its shape_type is {shown(kind)}, which has no area. Draw a polygon, or remove it.")
    points = pairs(field(entry, "points", list), least=3 if kind == "polygon" else 2)
    if kind == "polygon":
        return Polygon(points)
    if len(points) != 2:
        raise AnnotationError(f"it is a {kind} of {len(points)} points; expected 2.")
    (left, top), (right, bottom) = points.tolist()
    if kind == "rectangle":
        return Polygon(rectangle(left, top, right, bottom))
    if kind == "mask":
        return _mask(field(entry, "mask", str), *map(round, (left, top, right, bottom)))
    radius = hypot(right - left, bottom - top)  # the second point is on the circle
    if not radius:
        raise AnnotationError("it is a circle of radius 0.")
    return Ellipse(left, top, radius, radius)


def _mask(encoded: str, left: int, top: int, right: int, bottom: int) -> Bitmap:
    """Decode a PNG that fills the box of two pixels, both of which belong to it."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
            if image.size != (right + 1 - left, bottom + 1 - top) or image.width * image.height > MAX_PIXELS:
                raise AnnotationError(
                    f"its mask has {image.height}x{image.width} pixels, but its points are for "
                    f"{bottom + 1 - top}x{right + 1 - left}."
                )
            covered = np.array(image) != 0
    except AnnotationError:
        raise
    except binascii.Error as error:
        raise AnnotationError(f"its mask is not base64: {error}.") from error
    except Exception as error:  # a broken file makes Pillow's readers raise nearly anything
        raise AnnotationError(f"its mask is no PNG: {type(error).__name__}: {shown(str(error))}.") from error
    if covered.ndim != 2:
        raise AnnotationError("its mask is a color image; expected gray.")
    return bitmap_of(covered, top, left)
