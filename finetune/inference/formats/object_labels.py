"""Files of the objects of all images, made from those of `ObjectFiles`: labels with objects, and tables."""

import base64
import csv
import io
from math import pi, sqrt
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.polygons.outlines import side_centers
from finetune.data.records import DataError
from finetune.inference.formats.coco import Coco
from finetune.inference.formats.labelme import Labelme
from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers, simplified, trace_object
from finetune.inference.formats.objects import run_lengths
from finetune.instances import ObjectCrop
from finetune.io.atomic_write import replace_text, write_together

MOST_IDS = 65_535  # of 16 bits


class ObjectCoco(Coco):
    """`coco.json`, with an annotation and a score for each object: polygons, or RLE if it has holes; see `Coco`."""

    def annotations(self, image: LabeledImage) -> list[dict[str, Any]]:
        """Return an annotation for each object."""
        return [self._annotation(each, image) for each in image.objects if each.label in self.names]

    def _annotation(self, crop: ObjectCrop, image: LabeledImage) -> dict[str, Any]:
        regions, (left, top, right, bottom) = trace_object(crop), crop.box
        polygons = [numbers(simplified(each, image.tolerance).rings[0].ravel()) for each in regions]
        has_holes = any(len(each.rings) > 1 for each in regions)
        return {
            "category_id": crop.label + 1,
            "segmentation": run_lengths(crop, image.size) if has_holes else polygons,
            "area": crop.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
            "score": crop.score,
        }


class ObjectLabelme(Labelme):
    """`labelme/<name>.json`, with a shape for each object, its score as the description; see `Labelme`.

    An object with holes or in several parts is a shape of the type `mask`, as a polygon would be another object.
    """

    def shapes(self, image: LabeledImage) -> list[dict[str, Any]]:
        """Return a shape for each object."""
        return [self._shape(each, image.tolerance) for each in image.objects if each.label in self.names]

    def _shape(self, crop: ObjectCrop, tolerance: float) -> dict[str, Any]:
        (first, *others), (left, top, right, bottom) = trace_object(crop), crop.box
        shape = {**self.polygon(crop.label, simplified(first, tolerance).rings[0]), "description": f"{crop.score:.4f}"}
        if not others and len(first.rings) == 1:
            return shape
        corners, file = [[left, top], [right - 1, bottom - 1]], io.BytesIO()
        Image.fromarray(crop.mask).save(file, format="PNG")
        mask = base64.b64encode(file.getvalue()).decode()
        return {**shape, "points": corners, "shape_type": "mask", "mask": mask}


class ObjectIds(LabelFormat):
    """`ids/<name>.png`: the number of the object of each pixel, 16 bit; the one with the higher score where two are."""

    def add(self, image: LabeledImage) -> None:
        """Write the file of an image."""
        if (path := self.own_file(image, "ids", ".png")) is None:
            return
        if len(image.objects) > MOST_IDS:
            raise DataError(
                f"'{image.path}' has {len(image.objects):,} objects; write=ids takes {MOST_IDS:,}. Leave it out."
            )
        ids = np.zeros(image.size, dtype=np.uint16)
        for number, crop in reversed(list(enumerate(image.objects, start=1))):  # by falling score
            left, top, right, bottom = crop.box
            ids[top:bottom, left:right][crop.mask] = number
        write_together(path.parent, {path.name: lambda part: Image.fromarray(ids).save(part, format="PNG")})


COLUMNS = ("image", "object", "class", "score", "area", "left", "top", "right", "bottom", "center_x", "center_y")


class ObjectTable(LabelFormat):
    """`objects.csv`: a row of measurements for each object; all lengths are in pixels. See `LabelFormat`."""

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        for number, crop in enumerate(image.objects, start=1):
            rows, columns = np.nonzero(crop.mask)
            center = crop.left + columns.mean() + 0.5, crop.top + rows.mean() + 0.5
            length = perimeter(crop)
            circularity = 4 * pi * crop.area / length**2
            measured = [f"{value:.2f}" for value in (*center, length)] + [f"{circularity:.4f}"]
            known = (image.name.as_posix(), number, self.names.get(crop.label, crop.label), f"{crop.score:.4f}")
            self.entries.append((*known, crop.area, *crop.box, *measured))

    def finish(self) -> None:
        """Write the table."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([(*COLUMNS, "perimeter", "circularity"), *self.entries])
        replace_text(self.folder / "objects.csv", text.getvalue())


def perimeter(crop: ObjectCrop) -> float:
    """Return the length of the outer outlines of an object's parts in pixels, without bias on average over directions.

    The edges of the pixels are 4 / pi times as long as a circle. The line through their centers is too long by 5.5 % on
    average over all directions, and exact along the rows and columns.

    Source: Kulpa 1977, https://doi.org/10.1016/S0146-664X(77)80021-X
    """
    lines = [side_centers(region.rings[0]) for region in trace_object(crop)]
    return pi * (1 + sqrt(2)) / 8 * sum(float(np.hypot(*(np.roll(line, -1, axis=0) - line).T).sum()) for line in lines)
