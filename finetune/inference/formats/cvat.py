"""An XML file in the format "CVAT for images 1.1"."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from finetune.inference.formats.labels import LabeledImage, LabelFormat, numbers
from finetune.io.atomic_write import replace_text


class Cvat(LabelFormat):
    """`cvat.xml`, with a polygon for each connected area; see `LabelFormat`."""

    def add(self, image: LabeledImage) -> None:
        """Take in an image."""
        height, width = map(str, image.size)
        name, number = image.name.as_posix(), str(len(self.entries))
        self.entries.append(Element("image", id=number, name=name, width=width, height=height))
        for label, _, points in self.polygons(image):
            line = ";".join(f"{x},{y}" for x, y in numbers(points))
            options = {"label": self.names[label], "source": "auto", "occluded": "0", "points": line, "z_order": "0"}
            SubElement(self.entries[-1], "polygon", options)

    def finish(self) -> None:
        """Write the file."""
        document = Element("annotations")
        SubElement(document, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(document, "meta"), "task"), "labels")
        for name in self.names.values():
            SubElement(SubElement(labels, "label"), "name").text = name
        document.extend(self.entries)
        ElementTree.indent(document)
        text = ElementTree.tostring(document, encoding="unicode")
        replace_text(self.folder / "cvat.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
