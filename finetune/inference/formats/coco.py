"""A JSON file of COCO."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text


class Coco(LabelFormat):
    """`coco.json`, with an annotation for each connected area; category 1 is class 0. See `LabelFormat`."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        number, (height, width) = len(self.images) + 1, image.size
        self.images.append({"id": number, "file_name": image.name.as_posix(), "height": height, "width": width})
        for label, region, points in self.polygons(image):
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "segmentation": [numbers(points.ravel())],
                    "area": region.area,
                    "bbox": [int(value) for value in (left, top, right - left, bottom - top)],
                    "iscrowd": 0,
                }
            )

    def finish(self) -> None:
        """Write the file."""
        categories = [{"id": index + 1, "name": name} for index, name in self.names.items()]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        replace_text(self.folder / "coco.json", json.dumps(content) + "\n")
