"""Polygons with holes for maps."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune.data.polygons.shapes import Points
from finetune.inference.formats.labels import LabeledImage, LabelFormat
from finetune.inference.georeference import can_keep, is_georeferenced, pixels_to_map
from finetune.io.atomic_write import replace_text


class GeoJson(LabelFormat):
    """`geojson/<name>.geojson` for each image, with a feature for each connected area; see `LabelFormat`.

    Coordinates are longitude and latitude if the image has a georeference, else pixels, with y down.

    Source: RFC 7946, https://datatracker.ietf.org/doc/html/rfc7946
    """

    def add(self, image: LabeledImage) -> None:
        """Write the file of an image."""
        if (path := self.own_file(image, "geojson", ".geojson")) is None:
            return
        convert = pixels_to_map(image.path) if can_keep() and is_georeferenced(image.path) else None
        features = [
            {
                "type": "Feature",
                "properties": {"class": self.names[region.label], "pixels": region.area},
                "geometry": {"type": "Polygon", "coordinates": _coordinates(region.rings, convert)},
            }
            for region in image.regions
            if region.label in self.names
        ]
        replace_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def _coordinates(rings: Sequence[Points], convert: Callable[[Points], Points] | None) -> list[Any]:
    """Return closed rings: the outline counterclockwise where y points up, the holes clockwise."""
    placed = rings if convert is None else [convert(ring) for ring in rings]
    x, y = (placed[0] - placed[0][0]).T  # in degrees, differences of a few pixels would be lost in products
    is_clockwise = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) < 0
    turned = [ring[::-1] if is_clockwise else ring for ring in placed]
    return [np.concatenate([ring, ring[:1]]).round(9).tolist() for ring in turned]
