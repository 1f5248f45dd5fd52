"""JSON files of labelme."""

import json
import os
from typing import Any

from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text

VERSION = "5.5.0"  # of labelme, whose files look like this


class Labelme(LabelFormat):
    """`labelme/<name>.json` for each image, with a polygon for each area; see `LabelFormat`."""

    def add(self, image: LabeledImage) -> None:
        """Write the file of an image."""
        path = (self.folder / "labelme" / image.name).with_suffix(".json")
        common: dict[str, Any] = {"group_id": None, "shape_type": "polygon", "flags": {}}
        shapes = [
            {"label": self.names[label], "points": numbers(points), **common}
            for label, _, points in self.polygons(image)
        ]
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(image.path.resolve(), path.parent.resolve()).replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        replace_text(path, json.dumps(content) + "\n")
