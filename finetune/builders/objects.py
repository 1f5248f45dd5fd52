"""Have datasets read their targets as objects, and find out what the recipe must know of these."""

from collections.abc import Sequence

import torch

from finetune.builders.inspection import file_cache, reading_processes
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import Record
from finetune.data.caching.facts import read_each
from finetune.data.objects import (
    LEAST_PIXELS,
    Grouping,
    ObjectSizes,
    background_index,
    object_sizes,
    object_sizes_fact,
    with_objects,
)
from finetune.data.polygons.class_map import is_background
from finetune.recipe.facts import ObjectFacts

SIZES, RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.2, 0.5, 0.8)  # quantiles


def read_objects(
    records: Sequence[Record], settings: Config, classes: Sequence[str], ignore_index: int
) -> tuple[list[Record], ObjectFacts, list[str]]:
    """Return records whose targets are planes of objects, the objects of the training images, and lines about them.

    Args:
        records: whose targets have been checked.
        settings: of `data`.
        classes: of the masks, the background among them.
        ignore_index: label of the pixels that count for nothing.

    Raises:
        ConfigError: `data.clean_masks` with objects that are not areas of masks.
        DataError: the targets do not tell objects apart.
    """
    grouping: Grouping = settings.get("instances") or "files"
    background = background_index(classes)
    if settings.get("clean_masks") and grouping != "components":
        raise ConfigError("data.clean_masks changes masks of classes. Leave it out, or set data.instances=components.")
    found = [with_objects(record, grouping, background, ignore_index) for record in records]
    cache, processes = file_cache(settings), reading_processes(settings)
    sizes = read_each(found, object_sizes_fact, object_sizes, cache, processes)
    train = [own for own, record in zip(sizes, found, strict=True) if record.split in ("train", "all", "")]
    facts = object_facts(train)
    lines = [describe_objects(facts, len(train))] if train else []
    if specks := sum(image.specks for image in sizes):
        lines.append(
            f"{specks:,} objects of fewer than {LEAST_PIXELS} pixels are ignored"
            + ("; data.clean_masks=N removes specks of up to N pixels" if grouping == "components" else "")
        )
    if grouping == "components":
        lines.append("an object is an area of one class, so objects that touch are one (data.instances=components)")
    if not any(map(is_background, classes)):
        lines.append(f"{classes[background]}, the first class, is taken as the background")
    return found, facts, lines


def object_facts(sizes: Sequence[ObjectSizes]) -> ObjectFacts:
    """Return what is known of the objects of images, from those of each."""
    areas = torch.tensor([area for image in sizes for area in image.areas], dtype=torch.float64)
    heights = torch.tensor([height for image in sizes for height in image.heights], dtype=torch.float64)
    widths = torch.tensor([width for image in sizes for width in image.widths], dtype=torch.float64)
    counts = [len(image.areas) for image in sizes]
    return ObjectFacts(
        count=len(areas),
        most=max(counts, default=0),
        empty=counts.count(0),
        sizes=_quantiles(areas.sqrt(), SIZES),
        ratios=_quantiles(heights / widths, RATIOS),
    )


def _quantiles(values: torch.Tensor, shares: Sequence[float]) -> tuple[float, ...]:
    if not len(values):
        return tuple(1.0 for _ in shares)
    ordered = values.sort().values  # torch.quantile takes at most 2 ** 24 values
    return tuple(float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for share in shares)


def describe_objects(facts: ObjectFacts, images: int) -> str:
    """Return a line with the number of objects and their sizes."""
    empty = f", {facts.empty:,} images without any" if facts.empty else ""
    return (
        f"{facts.count:,} objects in {images:,} training images, at most {facts.most:,} in one{empty}; "
        f"{facts.sizes[0]:.0f} to {facts.sizes[-1]:.0f} pixels large (square root of the area, 10 to 90 %)"
    )
