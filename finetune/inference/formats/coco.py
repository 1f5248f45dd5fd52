"""A JSON file of COCO."""

import json
from typing import Any

from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text


class Coco(LabelFormat):
    """`coco.json`, with an annotation for each connected area; category 1 is class 0. See `LabelFormat`."""

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        height, width = image.size
        entry = {"id": len(self.entries) + 1, "file_name": image.name.as_posix(), "height": height, "width": width}
        self.entries.append((entry, self.annotations(image)))

    def annotations(self, image: LabeledImage) -> list[dict[str, Any]]:
        """Return the annotations of an image, without the numbers of image and annotation."""
        annotations = []
        for label, region, points in self.polygons(image):
            (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            box = numbers([left, top, right - left, bottom - top])
            segmentation = [numbers(points.ravel())]
            annotations.append(
                {"category_id": label + 1, "segmentation": segmentation, "area": region.area, "bbox": box, "iscrowd": 0}
            )
        return annotations

    def finish(self) -> None:
        """Write the file."""
        listed = [{"image_id": image["id"], **each} for image, annotations in self.entries for each in annotations]
        content = {
            "images": [image for image, _ in self.entries],
            "annotations": [{"id": number, **each} for number, each in enumerate(listed, start=1)],
            "categories": [{"id": index + 1, "name": name} for index, name in self.names.items()],
        }
        replace_text(self.folder / "coco.json", json.dumps(content) + "\n")
