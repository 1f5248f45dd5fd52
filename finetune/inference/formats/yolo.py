"""Text files of polygons, as Ultralytics YOLO reads them for segmentation."""

import json

from finetune.inference.formats.labels import LabeledImage, LabelFormat
from finetune.io.atomic_write import replace_text


class Yolo(LabelFormat):
    """`yolo/labels/<name>.txt` for each image, and `yolo/data.yaml` with the names; see `LabelFormat`.

    The images belong into `yolo/images/`. Classes are numbered without those that mean the background.
    """

    def add(self, image: LabeledImage) -> None:
        """Write the file of an image."""
        if (path := self.own_file(image, "yolo/labels", ".txt")) is None:
            return
        numbers, (height, width) = list(self.names), image.size
        lines = [
            f"{numbers.index(label)} {' '.join(f'{value:.7g}' for value in (points / (width, height)).ravel())}\n"
            for label, _, points in self.polygons(image)
        ]
        replace_text(path, "".join(lines))

    def finish(self) -> None:
        """Write the names; a text in JSON is one in YAML."""
        names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(self.names.values()))
        replace_text(self.folder / "yolo" / "data.yaml", f"path: .\nnames:\n{names}")
