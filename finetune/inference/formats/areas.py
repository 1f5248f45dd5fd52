"""A table of the areas of all classes in all images."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune.inference.formats.labels import LabeledImage, LabelFormat
from finetune.io.atomic_write import replace_text

COLUMNS = ("image", "class", "pixels", "share", "regions")


class Areas(LabelFormat):
    """`areas.csv`: a row for each image and class, also the background; `regions` are connected. See `LabelFormat`."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self.class_names = class_names

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        pixels, regions = Counter[int](), Counter[int]()
        for region in image.regions:
            pixels[region.label] += region.area
            regions[region.label] += 1
        height, width = image.size
        for index, name in enumerate(self.class_names):
            share = f"{pixels[index] / (height * width):.6f}"
            self.entries.append((image.name.as_posix(), name, pixels[index], share, regions[index]))

    def finish(self) -> None:
        """Write the table."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *self.entries])
        replace_text(self.folder / "areas.csv", text.getvalue())
