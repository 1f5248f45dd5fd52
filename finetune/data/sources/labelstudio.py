"""Regions in the JSON export of Label Studio."""

import re
from collections.abc import Mapping, Sequence
from math import radians
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from finetune.data.files import IMAGE_SUFFIXES
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
    number,
    pairs,
    read_annotations,
    shown,
    size_of,
)
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.run_lengths import bitmap_of, label_studio_alpha
from finetune.data.polygons.shapes import Ellipse, Polygon, Shape, rectangle, rotated
from finetune.data.recognition.recognized import Recognized, only_file, recognize_files
from finetune.data.records import error_listing

SHAPES = ("polygon", "rectangle", "ellipse", "brush")
WITHOUT_AREA = ("keypoint", "vector", "bitmask", "magicwand")  # or in a form that is not read
UPLOAD = re.compile("[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file
SMALLEST_RADIUS = 1e-3  # percent


class LabelStudioSource(AnnotatedSource):
    """Polygons, rectangles, ellipses and brush strokes in the JSON export of a Label Studio project.

    Later regions are drawn over earlier ones. A task that nobody annotated, or that was skipped, is left out; one whose
    annotation has no regions is all background. Folders called train, val and test are the splits.

    Args:
        root: folder of the images.
        annotations: path of the JSON file below `root`; None takes the only one that there is.
        classes: None for a class per label in the order of their names, after the background; their number; labels in
            the order of the classes; or name -> label, or list of labels, of each class. Other regions are not drawn.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: label of these pixels in the masks.
        predictions: whether to read the predictions of tasks without annotations.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | None = None,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
        predictions: bool = False,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)
        self.annotations = annotations
        self.predictions = predictions

    def read(self) -> Annotations:
        """Read the JSON file."""
        path = only_file(self.root, self.annotations, self.recognize(self.root), "Label Studio")
        content = read_annotations(path)
        index, problems, images = ImageIndex(self.root), list[str](), list[AnnotatedImage]()
        tasks = content if isinstance(content, list) else []
        if not isinstance(content, list):
            problems.append(f"'{path}' holds {shown(content)}; expected a list of tasks. Export the project as JSON.")
        for position, task in enumerate(tasks, start=1):
            place = f"'{path}': task {position}" + (f" (id {shown(task.get('id'))})" if isinstance(task, dict) else "")
            with noting(problems, place):
                if (results := _results(task, self.predictions)) is not None:
                    image = _image(task, index, path.parent)
                    objects, size = _objects(results, problems, place)
                    images.append(AnnotatedImage(image, path, objects, size))
        if problems:
            raise error_listing(f"the Label Studio export in '{self.root}' cannot be used as it is", problems)
        return Annotations(labels_by_name(images), with_folder_splits(images, self.root))

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return each JSON export of Label Studio in a folder.

        Args:
            root: a folder, or a JSON file.
        """
        return recognize_files(root, ".json", "labelstudio", "tasks of Label Studio", _is_export)


def _is_export(head: str) -> bool:
    return head.lstrip("\ufeff \n\r\t").startswith("[") and '"annotations"' in head and '"result"' in head


def _results(task: Any, predictions: bool) -> list[Any] | None:
    """Return the results of the only annotation of a task, or else of its only prediction; None if it has none.

    Raises:
        AnnotationError: there are several, of which none or several are the ground truth.
    """
    annotations = [
        entry for entry in field(task, "annotations", list) if not field(entry, "was_cancelled", bool, default=False)
    ]
    if not annotations and predictions:
        annotations = field(task, "predictions", list, default=[])
    if len(annotations) > 1:
        chosen = [entry for entry in annotations if field(entry, "ground_truth", bool, default=False)]
        if len(chosen) != 1:
            raise AnnotationError(
                f"it has {len(annotations)} annotations, and {len(chosen)} of them are the ground truth. Keep one, or "
                f"mark one as ground truth."
            )
        annotations = chosen
    results: list[Any] | None = field(annotations[0], "result", list) if annotations else None
    return results


def _image(task: Any, index: ImageIndex, folder: Path) -> Path:
    """Return the image of a task."""
    data = field(task, "data", dict)
    names = [name for value in data.values() if isinstance(value, str) and (name := _file_name(value))]
    if len(names) != 1:
        raise AnnotationError(f"its data is {shown(data)}; expected one image.")
    try:
        return index.find(names[0], [folder, index.root, index.root / "images"])
    except AnnotationError:
        plain = PurePosixPath(names[0]).name
        if UPLOAD.match(plain):
            return index.find(plain[9:])
        raise


def _file_name(address: str) -> str:
    """Return the path of an image out of its address; "" if it is no image.

    >>> _file_name("/data/local-files/?d=a/7.jpg"), _file_name("s3://bucket/a%207.png"), _file_name("good")
    ('a/7.jpg', '/a 7.png', '')
    """
    try:
        parts = urlsplit(address)
    except ValueError:  # an address such as http://[
        return ""
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return path if path.lower().endswith(IMAGE_SUFFIXES) else ""


def _objects(
    results: list[Any], problems: list[str], place: str
) -> tuple[tuple[LabeledObject, ...], tuple[int, int] | None]:
    """Return the objects of a task, and the size of its image."""
    found, sizes = [], set()
    for position, result in enumerate(results, start=1):
        with noting(problems, f"{place}, result {position}"):
            kind = field(result, "type", str)
            shape = kind.removesuffix("labels")
            if shape in WITHOUT_AREA:
                raise AnnotationError(f"it is a {shown(kind)}, which is not read. Draw a polygon, or remove it.")
            if shape in SHAPES:
                size, value = size_of(result, "original_height", "original_width"), field(result, "value", dict)
                found.append(LabeledObject(_label(value, kind), (_shape(shape, value, *size),)))
                sizes.add(size)
            # all others, such as choices and texts, are about the image
    if len(sizes) > 1:
        problems.append(f"{place}: its results are for images of several sizes: {sorted(sizes)}.")
    return tuple(found), next(iter(sizes), None)


def _label(value: dict[str, Any], kind: str) -> str:
    labels = field(value, kind if kind.endswith("labels") else "labels", list)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise AnnotationError(f"its labels are {shown(labels)}; expected one label.")
    return labels[0]


def _shape(kind: str, value: dict[str, Any], height: int, width: int) -> Shape:
    """Return the shape of a region, whose coordinates are percentages of the image's width and height."""
    if kind == "brush":
        if field(value, "format", str) != "rle":
            raise AnnotationError(f"its format is {shown(value['format'])}; expected rle.")
        return bitmap_of(label_studio_alpha(field(value, "rle", list), height, width))
    scale_x, scale_y = width / 100, height / 100
    if kind == "polygon":
        return Polygon(pairs(field(value, "points", list)) * (scale_x, scale_y))
    x, y, turn = number(value, "x") * scale_x, number(value, "y") * scale_y, number(value, "rotation", default=0)
    if kind == "ellipse":
        radius_x, radius_y = (number(value, key, low=SMALLEST_RADIUS) for key in ("radiusX", "radiusY"))
        return Ellipse(x, y, radius_x * scale_x, radius_y * scale_y, radians(turn))
    right, bottom = x + number(value, "width") * scale_x, y + number(value, "height") * scale_y
    return Polygon(rotated(rectangle(x, y, right, bottom), x, y, radians(turn)))  # about its corner
