"""An XML file in the format "CVAT for images 1.1"."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text


class Cvat(LabelFormat):
    """`cvat.xml`, with a polygon for each connected area; see `LabelFormat`."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self.document = Element("annotations")
        SubElement(self.document, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(self.document, "meta"), "task"), "labels")
        for name in self.names.values():
            SubElement(SubElement(labels, "label"), "name").text = name
        self.count = 0

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        height, width = map(str, image.size)
        entry = SubElement(
            self.document, "image", id=str(self.count), name=image.name.as_posix(), width=width, height=height
        )
        self.count += 1
        for label, _, points in self.polygons(image):
            text = ";".join(f"{x},{y}" for x, y in numbers(points))
            SubElement(entry, "polygon", label=self.names[label], source="auto", occluded="0", points=text, z_order="0")

    def finish(self) -> None:
        """Write the file."""
        ElementTree.indent(self.document)
        text = ElementTree.tostring(self.document, encoding="unicode")
        replace_text(self.folder / "cvat.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
