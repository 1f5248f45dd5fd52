"""JSON files of labelme."""

import json
import os
from typing import Any

from finetune.data.polygons.shapes import Points
from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text

VERSION = "5.5.0"  # of labelme, whose files look like this


class Labelme(LabelFormat):
    """`labelme/<name>.json` for each image, with a polygon for each area; see `LabelFormat`."""

    def add(self, image: LabeledImage) -> None:
        """Write the file of an image."""
        if (path := self.own_file(image, "labelme", ".json")) is None:
            return
        # an image may be a link, such as those of `suggest`, and belongs where the link is
        place = image.path.parent.resolve() / image.path.name
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": self.shapes(image),
            "imagePath": os.path.relpath(place, path.parent.resolve()).replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        replace_text(path, json.dumps(content) + "\n")

    def shapes(self, image: LabeledImage) -> list[dict[str, Any]]:
        """Return the shapes of an image."""
        return [self.polygon(label, points) for label, _, points in self.polygons(image)]

    def polygon(self, label: int, points: Points) -> dict[str, Any]:
        """Return a polygon of a class."""
        about: dict[str, Any] = {"group_id": None, "shape_type": "polygon", "flags": {}}
        return {"label": self.names[label], "points": numbers(points), **about}
