"""Objects of an image in files: all of them as JSON, from which other formats are made, and as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.data.polygons.run_lengths import coco_counts, coco_text, column_counts, covered_part
from finetune.data.stencil import Stencil
from finetune.inference.output import Pixels, TaskOutput
from finetune.instances import ObjectCrop, as_objects
from finetune.io.atomic_write import replace_text, write_together
from finetune.plots.objects import COLORS, draw_objects


class FoundObjects(NamedTuple):
    """An image whose objects have been found.

    Attributes:
        path: the image.
        image: every `step`-th of its pixels (C, h, w), uint8.
        size: height and width of the image.
        objects: by falling score.
        step: 1 unless the image is too large to be drawn.
    """

    path: Path
    image: Tensor
    size: tuple[int, int]
    objects: list[ObjectCrop]
    step: int = 1


class ObjectFiles:
    """`objects/NAME.json`: class, score, box, area and mask of each object; the masks are COCO's compressed RLE."""

    folder: ClassVar[str] = "objects"
    suffix: ClassVar[str] = ".json"

    def __init__(self, output: TaskOutput) -> None:
        self.class_names = output.class_names

    def file(self, name: Path) -> Path:
        """Return the file of an image, below the folder of all predictions."""
        return (self.folder / name).with_suffix(self.suffix)

    def save(self, found: FoundObjects, path: Path) -> None:
        """Write the file of an image atomically; its folder is created."""
        height, width = found.size
        objects = [
            {
                "class": self.class_names[crop.label],
                "score": round(crop.score, 6),
                "box": crop.box,
                "area": crop.area,
                "segmentation": run_lengths(crop, found.size),
            }
            for crop in found.objects
        ]
        content = {"image": found.path.name, "height": height, "width": width, "objects": objects}
        replace_text(path, json.dumps(content) + "\n")


class ObjectOverlays(ObjectFiles):
    """`overlays/NAME.png`: the image with its objects over it."""

    folder = "overlays"
    suffix = ".png"

    def save(self, found: FoundObjects, path: Path) -> None:
        """Draw the objects, reduced as the image is."""
        reduced = [reduced_crop(crop, found.step) for crop in found.objects]
        shown, size = [crop for crop in reduced if crop.mask.any()], (found.image.shape[1], found.image.shape[2])
        pixels: Tensor | Pixels = found.image
        for first in reversed(range(0, max(1, len(shown)), len(COLORS))):  # masks of a few at a time, the best on top
            part = as_objects(shown[first : first + len(COLORS)], size)
            pixels = draw_objects(pixels, part, self.class_names)
        picture = Image.fromarray(np.asarray(pixels))
        write_together(path.parent, {path.name: lambda part: picture.save(part, format="PNG")})


def run_lengths(crop: ObjectCrop, size: tuple[int, int]) -> dict[str, object]:
    """Return the mask of an object as COCO's compressed RLE, for an image of a height and width."""
    counts = column_counts(Stencil(crop.top, crop.left, crop.mask), *size)
    return {"size": list(size), "counts": coco_text(counts)}


def read_objects(path: Path, class_names: Sequence[str]) -> tuple[tuple[int, int], list[ObjectCrop]]:
    """Return the height and width of an image, and the objects that `ObjectFiles` wrote."""
    content, objects = json.loads(path.read_text(encoding="utf-8")), list[ObjectCrop]()  # our own file, of any length
    for each in content["objects"]:
        top, left, mask = covered_part(coco_counts(each["segmentation"]["counts"]), content["height"])
        objects.append(ObjectCrop(top, left, mask, class_names.index(each["class"]), each["score"]))
    return (content["height"], content["width"]), objects


def reduced_crop(crop: ObjectCrop, step: int) -> ObjectCrop:
    """Return an object in an image of every `step`-th pixel; its mask may have none left."""
    mask = crop.mask[-crop.top % step :: step, -crop.left % step :: step]
    return crop._replace(top=-(-crop.top // step), left=-(-crop.left // step), mask=mask)
