"""Tasks of Label Studio whose predictions are shown as pre-labels."""

import json
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from finetune.inference.formats.labels import LabeledImage, LabelFormat
from finetune.io.atomic_write import replace_text


class LabelStudio(LabelFormat):
    """`labelstudio.json` with the tasks, and `labelstudio.xml` with the labeling interface; see `LabelFormat`.

    The images are those of a local storage whose document root is the folder that was predicted. Coordinates are
    percentages of the image's width and height.
    """

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        height, width = image.size
        results = [
            {
                "id": f"{len(self.entries) + 1}-{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "points": np.round(points * (100 / width, 100 / height), 6).tolist(),
                    "closed": True,
                    "polygonlabels": [self.names[label]],
                },
            }
            for number, (label, _, points) in enumerate(self.polygons(image), start=1)
        ]
        address = f"/data/local-files/?d={quote(image.name.as_posix())}"
        self.entries.append({"data": {"image": address}, "annotations": [], "predictions": [{"result": results}]})

    def finish(self) -> None:
        """Write the files."""
        replace_text(self.folder / "labelstudio.json", json.dumps(self.entries) + "\n")
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in self.names.values())
        polygons = f'  <PolygonLabels name="label" toName="image">\n{labels}  </PolygonLabels>\n'
        view = f'<View>\n  <Image name="image" value="$image"/>\n{polygons}</View>\n'
        replace_text(self.folder / "labelstudio.xml", view)
