"""The place of an image on the map, kept for its mask and its outlines."""

import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from finetune.data.images.formats import tiff
from finetune.data.polygons.shapes import Points

TRANSFORMATION, PIXEL_SCALE, TIE_POINTS = 34264, 33550, 33922  # tags; tie points alone are no affine transform
SUFFIXES = (".tif", ".tiff")


def can_keep() -> bool:
    """Return whether the package that reads and writes georeferences is installed."""
    return find_spec("rasterio") is not None


def is_georeferenced(path: Path) -> bool:
    """Return whether an image is a TIFF file with an affine transform, stored upright; False if it cannot be read."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        tags = tiff.read_tags(path)
    except Exception:  # a broken file makes the reader raise nearly anything; it is reported when it is decoded
        return False
    has_transform = TRANSFORMATION in tags or (PIXEL_SCALE in tags and TIE_POINTS in tags)
    return has_transform and tags.get(tiff.ORIENTATION, 1) == 1


def copy_georeference(image: Path, masks: Iterable[Path]) -> None:
    """Give TIFF masks the coordinate reference system and the affine transform of their image."""
    import rasterio

    with rasterio.open(image) as source:
        crs, transform = source.crs, source.transform
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # that is what changes here
        for mask in masks:
            with rasterio.open(mask, "r+") as target:
                target.transform = transform
                if crs is not None:
                    target.crs = crs


def pixels_to_map(image: Path) -> Callable[[Points], Points]:
    """Return a function from points (N, 2) in pixels, as x, y, to longitude and latitude (WGS 84).

    Without a coordinate reference system, the points are those that the affine transform gives.
    """
    import rasterio
    from rasterio.warp import transform

    with rasterio.open(image) as source:
        crs, (a, b, c, d, e, f) = source.crs, tuple(source.transform)[:6]

    def convert(points: Points) -> Points:
        x, y = points.T
        x, y = a * x + b * y + c, d * x + e * y + f
        return np.stack([x, y] if crs is None else transform(crs, "EPSG:4326", x, y), axis=1)

    return convert
